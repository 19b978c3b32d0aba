-- A row marked as `processing` that is found here was marked for a start that was never made.
SELECT i.position, i.key, i.payload::text AS payload, greatest(i.attempts - (i.status = 'processing')::int, 0) AS attempts, i.checkpoint::text AS checkpoint,
       greatest(extract(epoch FROM i.not_before - clock_timestamp()), 0)::float8 AS delay
FROM streamworker.items AS i
WHERE i.batch_id = $1 AND i.position >= $2 AND i.status IN ('pending', 'processing') AND i.away_at IS NULL
ORDER BY i.position LIMIT $3
