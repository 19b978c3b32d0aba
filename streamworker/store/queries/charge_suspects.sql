UPDATE streamworker.items AS i
SET attempts = s.attempts, status = s.status, error = $5, not_before = NULL,
    finished_at = CASE WHEN s.status = 'failed' THEN clock_timestamp() END
FROM unnest($2::int[], $3::int[], $4::text[]) AS s (position, attempts, status)
WHERE i.batch_id = $1 AND i.position = s.position AND i.status IN ('pending', 'processing')
