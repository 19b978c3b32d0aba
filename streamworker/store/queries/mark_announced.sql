UPDATE streamworker.batches AS b SET announced_at = clock_timestamp()
WHERE b.id = $1 AND b.revision = $2 AND b.status IN ('completed', 'failed', 'cancelled') AND b.announced_at IS NULL
