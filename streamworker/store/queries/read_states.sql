SELECT b.id, b.status, b.total, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at
FROM streamworker.batches AS b WHERE b.id = ANY ($1::uuid[])
