-- The batch row is locked first, under the fence: without it nothing is written. The counters grow by the rows that really change.
-- An array that is NULL stands for what all rows have in common: completed, at the first attempt, no result, no error, no delay.
-- It reads the index between the lowest and the highest position. A list of many positions instead costs so much in the planner's eyes
-- that it finds no difference between the ways to join, and where it believes the batch to be small takes the one that compares all with all.
-- `status || ''`: see `claim_burst`.
WITH fence AS MATERIALIZED (
    SELECT clock_timestamp() AS now FROM streamworker.batches AS b
    WHERE b.id = $1 AND b.epoch = $2 AND b.revision = $3 AND b.status || '' = 'processing' FOR UPDATE
), written AS (
    UPDATE streamworker.items AS i
    SET status = coalesce(r.status, 'completed'), attempts = coalesce(r.attempts, 1), result = r.result::jsonb, error = r.error,
        not_before = fence.now + make_interval(secs => r.delay), started_at = fence.now - make_interval(secs => r.seconds),
        finished_at = CASE WHEN coalesce(r.status, 'completed') IN ('completed', 'failed') THEN fence.now END
    FROM fence, unnest($7::int[], $8::text[], $9::int[], $10::text[], $11::text[], $12::float8[], $13::float8[])
        AS r (position, status, attempts, result, error, delay, seconds)
    WHERE i.batch_id = $1 AND i.position BETWEEN $14 AND $15 AND i.position = r.position AND i.status IN ('pending', 'processing')
    RETURNING i.status
), counted AS (
    SELECT (count(*) FILTER (WHERE w.status = 'completed'))::int AS succeeded, (count(*) FILTER (WHERE w.status = 'failed'))::int AS failed
    FROM written AS w
)
UPDATE streamworker.batches AS b
SET revision = b.revision + 1, succeeded = b.succeeded + counted.succeeded, failed = b.failed + counted.failed,
    processed = b.processed + counted.succeeded + counted.failed,
    frontier = $4, deaths = CASE WHEN $5 THEN 0 ELSE b.deaths END,
    lease_expires_at = fence.now + make_interval(secs => $6), updated_at = fence.now
FROM fence, counted
WHERE b.id = $1
RETURNING b.total, b.succeeded, b.failed, b.updated_at
