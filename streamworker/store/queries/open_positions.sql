SELECT i.position FROM streamworker.items AS i
WHERE i.batch_id = $1 AND i.position = ANY ($2::int[]) AND i.status IN ('pending', 'processing')
