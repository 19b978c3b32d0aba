SELECT b.id, b.epoch, b.status FROM streamworker.batches AS b WHERE b.id = ANY ($1::uuid[])
