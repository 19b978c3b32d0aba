SELECT CASE WHEN octet_length(i.result ->> 'thumbnail') <= $3 THEN i.result ->> 'thumbnail' END AS thumbnail
FROM streamworker.items AS i WHERE i.batch_id = $1 AND i.position = $2
