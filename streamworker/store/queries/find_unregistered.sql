-- Open batches that no stream entry stands for: nobody has put them on the stream yet.
SELECT b.id, b.entry_id, b.created_at FROM streamworker.batches AS b
WHERE b.status IN ('pending', 'processing') AND b.entry_id IS NULL AND b.worker IS NULL
ORDER BY b.created_at, b.id LIMIT $1
