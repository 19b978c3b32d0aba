SELECT b.id, b.worker, b.lease_expires_at, b.total, b.processed, b.failed, b.started_at,
       extract(epoch FROM b.lease_expires_at - clock_timestamp())::float8 AS lease_seconds
FROM streamworker.batches AS b
WHERE b.status = 'processing' AND b.worker IS NOT NULL AND b.lease_expires_at IS NOT NULL
ORDER BY b.created_at, b.id LIMIT $1
