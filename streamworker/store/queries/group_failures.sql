-- The first failures of a batch by what they say; the index on rows with an error keeps the rest of the batch out of it.
SELECT f.error, count(*)::int AS count, (array_agg(f.position ORDER BY f.position))[1:10] AS positions
FROM (
    SELECT i.error, i.position FROM streamworker.items AS i
    WHERE i.batch_id = $1 AND i.error IS NOT NULL AND i.status = 'failed'
    ORDER BY i.position LIMIT $2
) AS f
GROUP BY f.error ORDER BY count(*) DESC, min(f.position) LIMIT $3
