-- The same positions twice: whatever Postgres believes about the batch's size, it reads these rows alone and not the whole batch.
UPDATE streamworker.items AS i
SET status = r.status, attempts = r.attempts, result = r.result::jsonb, error = r.error,
    not_before = clock_timestamp() + make_interval(secs => r.delay),
    started_at = clock_timestamp() - make_interval(secs => r.seconds),
    finished_at = CASE WHEN r.status IN ('completed', 'failed') THEN clock_timestamp() END
FROM unnest($2::int[], $3::text[], $4::int[], $5::text[], $6::text[], $7::float8[], $8::float8[])
    AS r (position, status, attempts, result, error, delay, seconds)
WHERE i.batch_id = $1 AND i.position = ANY ($2) AND i.position = r.position AND i.status IN ('pending', 'processing')
