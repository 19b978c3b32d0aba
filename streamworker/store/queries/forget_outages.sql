-- A retry begins anew: no item has met an outage.
UPDATE streamworker.items AS i SET away_at = NULL, away_after = NULL
WHERE i.batch_id = $1 AND i.away_at IS NOT NULL AND i.status IN ('pending', 'processing')
