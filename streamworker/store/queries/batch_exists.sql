SELECT EXISTS (SELECT FROM streamworker.batches AS b WHERE b.id = $1)
