UPDATE streamworker.batches AS b
SET status = 'processing', epoch = b.epoch + 1, revision = b.revision + 1, worker = $2, worker_number = $3,
    lease_expires_at = clock_timestamp() + make_interval(secs => $4), entry_id = $5,
    started_at = coalesce(b.started_at, clock_timestamp()), updated_at = clock_timestamp(),
    total = $6, processed = $7::int + $8::int, succeeded = $7, failed = $8, frontier = $9, careful_until = $10, deaths = $11, together = false,
    error = NULL, paused_until = NULL, tried_at = clock_timestamp(), pauses = CASE WHEN b.status = 'pending' THEN 0 ELSE b.pauses END
WHERE b.id = $1
RETURNING b.epoch, b.revision, b.updated_at
