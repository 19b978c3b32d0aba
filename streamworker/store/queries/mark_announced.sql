-- Told, each as of the revision that was told.
UPDATE streamworker.batches AS b SET announced_at = clock_timestamp()
FROM unnest($1::uuid[], $2::bigint[]) AS told (id, revision)
WHERE b.id = told.id AND b.revision = told.revision AND b.status IN ('completed', 'failed', 'cancelled') AND b.announced_at IS NULL
