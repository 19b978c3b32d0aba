SELECT b.id, b.status, b.processor, b.metadata::text AS metadata, b.total, b.processed, b.succeeded, b.failed, b.max_attempts, b.max_failures,
       b.revision, b.epoch, b.worker, b.lease_expires_at, b.error, b.created_at, b.started_at, b.finished_at, b.updated_at
FROM streamworker.batches AS b WHERE b.id = $1
