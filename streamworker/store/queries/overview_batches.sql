-- The newest batches, and the open ones: what a list of all batches begins with.
SELECT b.id, b.status, b.total, b.processed, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at,
       CASE WHEN b.status = 'processing' AND b.processed > 0
            THEN round((extract(epoch FROM clock_timestamp() - b.started_at) / b.processed * (b.total - b.processed))::numeric, 1)::float8
       END AS eta_seconds
FROM streamworker.batches AS b
WHERE b.id IN (SELECT n.id FROM (SELECT id FROM streamworker.batches ORDER BY created_at DESC, id LIMIT $1) AS n
               UNION
               SELECT o.id FROM (SELECT id FROM streamworker.batches WHERE status IN ('pending', 'processing')
                                 ORDER BY created_at, id LIMIT $2) AS o)
ORDER BY b.created_at DESC, b.id
