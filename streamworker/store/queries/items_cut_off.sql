-- What the end of its batch has cancelled: first what may have been under way (no window is wider than $2), then what comes next.
SELECT i.position, i.key, i.status, i.attempts, i.error
FROM streamworker.batches AS b
JOIN streamworker.items AS i ON i.batch_id = b.id
    AND i.position BETWEEN greatest(b.frontier, b.processed) - $2 AND greatest(b.frontier, b.processed) + $3
WHERE b.id = $1 AND i.status = 'cancelled'
ORDER BY i.position LIMIT $3
