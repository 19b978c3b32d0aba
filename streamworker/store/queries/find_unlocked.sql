-- Those of the batches that nobody is changing just now: a cancel of millions of items holds its row for as long as it takes.
SELECT b.id FROM streamworker.batches AS b WHERE b.id = ANY ($1::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
