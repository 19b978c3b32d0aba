-- Values of more than so many bytes of text are left out.
SELECT i.position, i.key, i.status, i.attempts, i.error, i.started_at, i.finished_at,
       octet_length(i.payload::text) AS payload_bytes, octet_length(i.result::text) AS result_bytes, octet_length(i.checkpoint::text) AS checkpoint_bytes,
       CASE WHEN octet_length(i.payload::text) <= $3 THEN i.payload::text END AS payload,
       CASE WHEN octet_length(i.result::text) <= $3 THEN i.result::text END AS result,
       CASE WHEN octet_length(i.checkpoint::text) <= $3 THEN i.checkpoint::text END AS checkpoint,
       coalesce(starts_with(coalesce(i.result ->> 'thumbnail', i.result #>> '{image,thumbnail}', i.result #>> '{pdf,thumbnail}'), 'data:image/'), false)
           AS thumbnail
FROM streamworker.items AS i WHERE i.batch_id = $1 AND i.position = $2
