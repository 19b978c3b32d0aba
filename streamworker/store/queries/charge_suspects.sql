-- A first start is marked by the frontier alone: it was moved on at the last commit, and the item started right after.
UPDATE streamworker.items AS i
SET attempts = s.attempts, status = s.status, error = $5, not_before = NULL, started_at = coalesce(i.started_at, b.updated_at),
    finished_at = CASE WHEN s.status = 'failed' THEN clock_timestamp() END
FROM unnest($2::int[], $3::int[], $4::text[]) AS s (position, attempts, status), streamworker.batches AS b
WHERE b.id = $1 AND i.batch_id = $1 AND i.position = s.position AND i.status IN ('pending', 'processing')
