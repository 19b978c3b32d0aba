SELECT count(*)::int AS total,
       (count(*) FILTER (WHERE i.status = 'completed'))::int AS succeeded,
       (count(*) FILTER (WHERE i.status = 'failed'))::int AS failed,
       min(i.position) FILTER (WHERE i.status IN ('pending', 'processing')) AS first_open
FROM streamworker.items AS i WHERE i.batch_id = $1
