SELECT b.id, b.status, b.total, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at
FROM streamworker.batches AS b
WHERE b.status IN ('completed', 'failed', 'cancelled') AND b.announced_at IS NULL
    AND b.finished_at < clock_timestamp() - interval '500 milliseconds'  -- its own worker is about to
ORDER BY b.id LIMIT $1
