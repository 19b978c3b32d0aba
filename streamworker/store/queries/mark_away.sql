-- The items that met the outage.
UPDATE streamworker.items AS i SET away_at = clock_timestamp(), away_after = coalesce(i.away_after, $3)
WHERE i.batch_id = $1 AND i.position = ANY ($2::int[]) AND i.status = 'pending'
