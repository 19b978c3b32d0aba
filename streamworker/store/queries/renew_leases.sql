-- A row that somebody has locked is left for the next time: it must not keep the others from being renewed.
WITH free AS (
    SELECT b.id FROM streamworker.batches AS b JOIN unnest($1::uuid[], $2::bigint[]) AS held (id, epoch) ON b.id = held.id AND b.epoch = held.epoch
    WHERE b.status = 'processing' AND b.worker_number IS NOT DISTINCT FROM $4
    FOR UPDATE OF b SKIP LOCKED
)
UPDATE streamworker.batches AS b SET lease_expires_at = clock_timestamp() + make_interval(secs => $3)
FROM free WHERE b.id = free.id
RETURNING b.id
