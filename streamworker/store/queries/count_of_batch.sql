SELECT b.status, b.total, b.processed, b.succeeded, b.failed FROM streamworker.batches AS b WHERE b.id = $1
