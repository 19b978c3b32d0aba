-- As `load_items`, of those that have met an outage: the one that waits longest first.
SELECT i.position, i.key, i.payload::text AS payload, greatest(i.attempts - (i.status = 'processing')::int, 0) AS attempts, i.checkpoint::text AS checkpoint,
       greatest(extract(epoch FROM i.not_before - clock_timestamp()), 0)::float8 AS delay, i.away_after
FROM streamworker.items AS i
WHERE i.batch_id = $1 AND i.status IN ('pending', 'processing') AND i.away_at IS NOT NULL
ORDER BY i.away_at, i.position LIMIT $2
