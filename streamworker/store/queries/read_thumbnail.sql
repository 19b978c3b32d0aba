-- The picture's own field, or the one of an image or a PDF (what the processor `documents` tells).
SELECT CASE WHEN octet_length(t.picture) <= $3 THEN t.picture END AS thumbnail
FROM streamworker.items AS i
CROSS JOIN LATERAL (
    SELECT coalesce(i.result ->> 'thumbnail', i.result #>> '{image,thumbnail}', i.result #>> '{pdf,thumbnail}') AS picture
) AS t
WHERE i.batch_id = $1 AND i.position = $2
