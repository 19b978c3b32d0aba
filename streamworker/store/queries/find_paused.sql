-- Those that still have to wait, and how long.
SELECT b.id, extract(epoch FROM b.paused_until - clock_timestamp())::float8 AS seconds FROM streamworker.batches AS b
WHERE b.id = ANY ($1::uuid[]) AND b.status = 'processing' AND b.worker IS NULL AND b.paused_until > clock_timestamp()
