-- Retries are marked on their own row, and so is what has met an outage; other first attempts by the frontier.
SELECT i.position, i.key, i.status, i.attempts FROM streamworker.items AS i
WHERE i.batch_id = $1
    AND (i.status = 'processing' OR (i.status = 'pending' AND i.attempts = 0 AND i.position < $2 AND i.away_at IS NULL))
ORDER BY i.position
