UPDATE streamworker.batches AS b
SET status = 'completed', finished_at = clock_timestamp(), lease_expires_at = NULL, updated_at = clock_timestamp()
WHERE b.id = $1 AND (b.max_failures IS NULL OR b.failed <= b.max_failures) AND NOT EXISTS (
    SELECT FROM streamworker.items AS i WHERE i.batch_id = $1 AND i.status IN ('pending', 'processing'))
RETURNING b.updated_at
