SELECT b.id, b.status, b.total, b.processed, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at,
       CASE WHEN b.status = 'processing' AND b.processed > 0
            THEN round((extract(epoch FROM clock_timestamp() - b.started_at) / b.processed * (b.total - b.processed))::numeric, 1)::float8
       END AS eta_seconds
FROM streamworker.batches AS b WHERE b.id = ANY ($1::uuid[])
