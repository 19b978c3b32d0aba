-- As `record`, for several batches whose items have all ended: each under its own fence, and completed if nothing in it is open any more.
-- `status || ''`: see `claim_burst`. Counted in one heap, the fences among the rows: two joined would be compared all with all.
WITH fence AS MATERIALIZED (
    SELECT b.id, b.failed, b.max_failures, clock_timestamp() AS now FROM streamworker.batches AS b
    JOIN unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS held (id, epoch, revision) ON held.id = b.id
    WHERE b.epoch = held.epoch AND b.revision = held.revision AND b.status || '' = 'processing' ORDER BY b.id FOR UPDATE OF b
), written AS (
    UPDATE streamworker.items AS i
    SET status = r.status, attempts = r.attempts, result = r.result::jsonb, error = r.error,
        started_at = fence.now - make_interval(secs => r.seconds), finished_at = fence.now
    FROM fence, unnest($4::uuid[], $5::int[], $6::text[], $7::int[], $8::text[], $9::text[], $10::float8[])
        AS r (batch_id, position, status, attempts, result, error, seconds)
    WHERE r.batch_id = fence.id AND i.batch_id = r.batch_id AND i.position = r.position AND i.status IN ('pending', 'processing')
    RETURNING i.batch_id, i.status
), counted AS (
    SELECT s.id, max(s.now) AS now, (count(*) FILTER (WHERE s.status = 'completed'))::int AS succeeded, (count(*) FILTER (WHERE s.status = 'failed'))::int AS failed,
           max(s.allowed) AS allowed
    FROM (
        SELECT f.id, f.now, NULL AS status, coalesce(f.max_failures, 2147483647)::bigint - f.failed AS allowed FROM fence AS f
        UNION ALL SELECT w.batch_id, NULL, w.status, NULL FROM written AS w
    ) AS s GROUP BY s.id
), told AS MATERIALIZED (
    -- The rows as they were before this statement: those that were open then, and are written now, are all there were.
    SELECT c.id, c.now, c.succeeded, c.failed,
           c.failed <= c.allowed
               AND (SELECT count(*) FROM streamworker.items AS i WHERE i.batch_id = c.id AND i.status IN ('pending', 'processing'))
                   = c.succeeded + c.failed AS completes
    FROM counted AS c
)
UPDATE streamworker.batches AS b
SET revision = b.revision + 1, succeeded = b.succeeded + t.succeeded, failed = b.failed + t.failed,
    processed = b.processed + t.succeeded + t.failed, updated_at = t.now, deaths = 0,
    status = CASE WHEN t.completes THEN 'completed' ELSE b.status END,
    finished_at = CASE WHEN t.completes THEN t.now END,
    lease_expires_at = CASE WHEN NOT t.completes THEN t.now + make_interval(secs => $11) END
FROM told AS t
WHERE b.id = t.id
RETURNING b.id, b.status, b.total, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at
