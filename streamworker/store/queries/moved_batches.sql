-- Of the batches that are known at a revision: those that are at another one, and those that are no more (without a revision).
SELECT known.id AS known_id, b.id, b.status, b.total, b.processed, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at,
       CASE WHEN b.status = 'processing' AND b.processed > 0
            THEN round((extract(epoch FROM clock_timestamp() - b.started_at) / b.processed * (b.total - b.processed))::numeric, 1)::float8
       END AS eta_seconds
FROM unnest($1::uuid[], $2::bigint[]) AS known (id, revision)
LEFT JOIN streamworker.batches AS b ON b.id = known.id
WHERE b.revision IS NULL OR b.revision <> known.revision
