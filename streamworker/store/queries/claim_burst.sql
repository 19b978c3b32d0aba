-- Small batches for one worker, together with their items: created from their messages, or taken if nobody ever worked on them.
-- Whatever is there already in any other state is left alone, and is not among the rows.
-- `status || ''`: a plan that is kept must not read the index of all that is open, which was cheap when little was.
WITH job AS (
    SELECT j.id, j.entry_id, j.items::jsonb AS items, j.processor, j.metadata::jsonb AS metadata, j.max_attempts, j.max_failures
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[])
        AS j (id, entry_id, items, processor, metadata, max_attempts, max_failures)
), created AS (
    INSERT INTO streamworker.batches AS b (id, status, processor, metadata, total, max_attempts, max_failures, revision, epoch,
                                           worker, worker_number, lease_expires_at, entry_id, started_at, frontier, together)
    SELECT j.id, 'processing', j.processor, j.metadata, jsonb_array_length(j.items), j.max_attempts, j.max_failures, 1, 1,
           $8, $9, clock_timestamp() + make_interval(secs => $10), j.entry_id, clock_timestamp(), jsonb_array_length(j.items), $11
    FROM job AS j WHERE j.items IS NOT NULL ORDER BY j.id
    ON CONFLICT (id) DO NOTHING
    RETURNING b.*
), filled AS (
    INSERT INTO streamworker.items AS i (batch_id, position, key, payload)
    SELECT j.id, x.index - 1,
           CASE WHEN jsonb_typeof(x.item) = 'string' THEN x.item #>> '{}' ELSE coalesce(x.item ->> 'key', (x.index - 1)::text) END,
           CASE WHEN jsonb_typeof(x.item) = 'string' THEN x.item ELSE x.item -> 'payload' END
    FROM job AS j JOIN created AS c ON c.id = j.id, jsonb_array_elements(j.items) WITH ORDINALITY AS x (item, index)
    RETURNING i.batch_id, i.position, i.key, i.payload
), taken AS (
    UPDATE streamworker.batches AS b
    SET status = 'processing', epoch = 1, revision = b.revision + 1, worker = $8, worker_number = $9,
        lease_expires_at = clock_timestamp() + make_interval(secs => $10), entry_id = j.entry_id,
        started_at = clock_timestamp(), updated_at = clock_timestamp(), frontier = b.total, together = $11
    FROM job AS j
    WHERE b.id = j.id AND j.items IS NULL AND b.status || '' = 'pending' AND b.epoch = 0 AND b.worker IS NULL
        AND b.total BETWEEN 1 AND $12 AND b.succeeded = 0 AND b.failed = 0 AND b.max_attempts > 1
        AND (SELECT sum(pg_column_size(i.payload)) FROM streamworker.items AS i WHERE i.batch_id = b.id) <= $13
    RETURNING b.*
), item AS (
    SELECT f.batch_id, f.position, f.key, f.payload FROM filled AS f
    UNION ALL
    SELECT i.batch_id, i.position, i.key, i.payload FROM taken AS t JOIN streamworker.items AS i ON i.batch_id = t.id
    WHERE i.status = 'pending' AND i.attempts = 0
)
SELECT b.id, b.processor, b.metadata::text AS metadata, b.total, b.max_attempts, b.max_failures, b.revision, b.updated_at, i.positions, i.keys, i.payloads
FROM (SELECT * FROM created UNION ALL SELECT * FROM taken) AS b LEFT JOIN (
    SELECT batch_id, array_agg(position ORDER BY position) AS positions, array_agg(key ORDER BY position) AS keys,
           array_agg(payload::text ORDER BY position) AS payloads
    FROM item GROUP BY batch_id
) AS i ON i.batch_id = b.id
