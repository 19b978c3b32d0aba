-- Large values are left out, and not read as text for that. A picture in the result counts apart.
SELECT i.position, i.key, i.status, i.attempts, i.error, i.started_at, i.finished_at, t.picture IS NOT NULL AS thumbnail,
       i.result IS NOT NULL AS has_result, i.checkpoint IS NOT NULL AS has_checkpoint,
       CASE WHEN pg_column_size(i.payload) <= 65536 AND octet_length(i.payload::text) <= $6 THEN i.payload::text END AS payload,
       CASE WHEN pg_column_size(i.result) > 1048576 THEN NULL
            WHEN t.picture IS NOT NULL THEN CASE WHEN octet_length((i.result #- t.picture)::text) <= $6 THEN (i.result #- t.picture)::text END
            WHEN octet_length(i.result::text) <= $6 THEN i.result::text END AS result,
       CASE WHEN pg_column_size(i.checkpoint) <= 65536 AND octet_length(i.checkpoint::text) <= $6 THEN i.checkpoint::text END AS checkpoint
FROM streamworker.items AS i
CROSS JOIN LATERAL (
    SELECT CASE WHEN pg_column_size(i.result) <= 1048576 THEN CASE
        WHEN starts_with(i.result ->> 'thumbnail', 'data:image/') THEN '{thumbnail}'::text[]
        WHEN starts_with(i.result #>> '{image,thumbnail}', 'data:image/') THEN '{image,thumbnail}'
        WHEN starts_with(i.result #>> '{pdf,thumbnail}', 'data:image/') THEN '{pdf,thumbnail}' END END AS picture
) AS t
WHERE i.batch_id = $1 AND i.position > $2 AND i.position <= $3 AND ($4::text IS NULL OR i.status = $4)
ORDER BY i.position LIMIT $5
