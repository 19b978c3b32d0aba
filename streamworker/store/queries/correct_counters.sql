-- Rows were removed, added or changed by hand: the rows win.
UPDATE streamworker.batches AS b
SET total = c.total, succeeded = c.succeeded, failed = c.failed, processed = c.succeeded + c.failed
FROM (SELECT count(*)::int AS total, (count(*) FILTER (WHERE i.status = 'completed'))::int AS succeeded,
             (count(*) FILTER (WHERE i.status = 'failed'))::int AS failed
      FROM streamworker.items AS i WHERE i.batch_id = $1) AS c
WHERE b.id = $1
RETURNING b.total, b.succeeded, b.failed, b.updated_at
