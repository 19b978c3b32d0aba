-- Batches of a burst whose items have not started: given up as if nobody had taken them.
UPDATE streamworker.batches AS b
SET worker = NULL, worker_number = NULL, lease_expires_at = NULL, frontier = 0, together = false,
    revision = b.revision + 1, updated_at = clock_timestamp()
FROM unnest($1::uuid[], $2::bigint[]) AS held (id, epoch)
WHERE b.id = held.id AND b.epoch = held.epoch AND b.status = 'processing'
RETURNING b.id
