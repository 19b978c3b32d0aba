-- Looking for open rows goes through all of them anyway: they are counted in passing, and whatever was done to them by hand, the rows win.
UPDATE streamworker.batches AS b
SET status = 'completed', finished_at = clock_timestamp(), lease_expires_at = NULL, updated_at = clock_timestamp(),
    total = c.total, succeeded = c.succeeded, failed = c.failed, processed = c.succeeded + c.failed
FROM (SELECT count(*)::int AS total, (count(*) FILTER (WHERE i.status = 'completed'))::int AS succeeded,
             (count(*) FILTER (WHERE i.status = 'failed'))::int AS failed,
             count(*) FILTER (WHERE i.status IN ('pending', 'processing')) AS open
      FROM streamworker.items AS i WHERE i.batch_id = $1) AS c
WHERE b.id = $1 AND c.open = 0 AND (b.max_failures IS NULL OR c.failed <= b.max_failures)
RETURNING b.total, b.succeeded, b.failed, b.updated_at
