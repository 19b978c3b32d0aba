SELECT b.id, b.status, b.processor, b.metadata::text AS metadata, b.total, b.processed, b.succeeded, b.failed, b.max_attempts, b.max_failures,
       b.revision, b.epoch, b.worker, b.lease_expires_at, b.error, b.created_at, b.started_at, b.finished_at, b.updated_at
FROM streamworker.batches AS b
WHERE ($1::text IS NULL OR b.status = $1) AND b.created_at <= coalesce($2::timestamptz, 'infinity')
    AND ($2::timestamptz IS NULL OR b.created_at < $2 OR b.id > $3)
ORDER BY b.created_at DESC, b.id LIMIT $4
