-- As a clean hand-over: no owner, and the frontier drawn back, so that nobody is a suspect; but nobody may go on before the time.
UPDATE streamworker.batches AS b
SET worker = NULL, worker_number = NULL, lease_expires_at = NULL, frontier = 0, together = false, revision = b.revision + 1,
    updated_at = clock_timestamp(), error = $3, paused_until = clock_timestamp() + make_interval(secs => $4), paused_at = b.succeeded,
    paused_since = CASE WHEN $5::int = 1 THEN clock_timestamp() ELSE b.paused_since END, pauses = $5::int
WHERE b.id = $1 AND b.epoch = $2 AND b.status = 'processing'
RETURNING b.status, b.total, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at
