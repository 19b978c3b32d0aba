-- The row lock comes before anything that the transaction writes.
SELECT FROM streamworker.batches AS b
WHERE b.id = $1 AND b.epoch = $2 AND b.revision = $3 AND b.status = 'processing' FOR UPDATE
