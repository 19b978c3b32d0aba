-- What the end of its batch has cancelled: what may have been under way then, and as much before and after as an event has room for.
SELECT i.position, i.key, i.status, i.attempts, i.error
FROM streamworker.batches AS b
JOIN streamworker.items AS i ON i.batch_id = b.id AND i.position BETWEEN b.frontier - $2 AND b.frontier + $2
WHERE b.id = $1 AND i.status = 'cancelled'
ORDER BY i.position LIMIT $2
