-- Batches of a burst whose items have not started: given up as if nobody had taken them.
-- `status || ''`: see `claim_burst`.
WITH held AS (
    SELECT b.id FROM streamworker.batches AS b JOIN unnest($1::uuid[], $2::bigint[]) AS ours (id, epoch) ON b.id = ours.id AND b.epoch = ours.epoch
    WHERE b.status || '' = 'processing' AND b.worker = $3 ORDER BY b.id FOR UPDATE OF b
)
UPDATE streamworker.batches AS b
SET worker = NULL, worker_number = NULL, lease_expires_at = NULL, started_at = NULL, frontier = 0, together = false,
    revision = b.revision + 1, updated_at = clock_timestamp()
FROM held WHERE b.id = held.id
