SELECT b.status, b.epoch, b.revision, b.worker, b.total, b.succeeded, b.failed, b.frontier, b.error, b.updated_at
FROM streamworker.batches AS b WHERE b.id = $1
