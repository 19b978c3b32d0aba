UPDATE streamworker.batches AS b
SET revision = b.revision + 1, succeeded = b.succeeded + $4::int, failed = b.failed + $5::int, processed = b.processed + $4::int + $5::int,
    frontier = $6, deaths = CASE WHEN $7 THEN 0 ELSE b.deaths END,
    lease_expires_at = clock_timestamp() + make_interval(secs => $8), updated_at = clock_timestamp()
WHERE b.id = $1 AND b.epoch = $2 AND b.revision = $3 AND b.status = 'processing'
RETURNING b.total, b.succeeded, b.failed, b.updated_at
