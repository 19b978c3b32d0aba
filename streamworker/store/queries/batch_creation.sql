SELECT b.created_at FROM streamworker.batches AS b WHERE b.id = $1
