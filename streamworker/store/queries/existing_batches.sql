SELECT b.id FROM streamworker.batches AS b WHERE b.id = ANY ($1::uuid[])
