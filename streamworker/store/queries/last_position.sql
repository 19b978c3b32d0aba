SELECT i.position FROM streamworker.items AS i WHERE i.batch_id = $1 ORDER BY i.position DESC LIMIT 1
