-- A clean hand-over: no owner, and the frontier drawn back, so that nobody is a suspect.
UPDATE streamworker.batches AS b
SET worker = NULL, worker_number = NULL, lease_expires_at = NULL, frontier = 0, together = false, revision = b.revision + 1, updated_at = clock_timestamp()
WHERE b.id = $1 AND b.epoch = $2 AND b.status = 'processing'
RETURNING b.total, b.succeeded, b.failed, b.revision, b.updated_at
