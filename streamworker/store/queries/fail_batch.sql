UPDATE streamworker.batches AS b
SET status = 'failed', error = $2, finished_at = clock_timestamp(), lease_expires_at = NULL, updated_at = clock_timestamp(),
    revision = b.revision + 1, epoch = b.epoch + ($3::text IS NOT NULL)::int, worker = coalesce($3, b.worker)
WHERE b.id = $1 AND b.status IN ('pending', 'processing')
RETURNING b.total, b.succeeded, b.failed, b.revision, b.updated_at
