SELECT i.position, i.key, i.payload::text AS payload, i.status, i.attempts, i.result::text AS result, i.error, i.checkpoint::text AS checkpoint,
       i.started_at, i.finished_at
FROM streamworker.items AS i
WHERE i.batch_id = $1 AND i.position > $2 AND ($3::text IS NULL OR i.status = $3)
ORDER BY i.position LIMIT $4
