UPDATE streamworker.batches AS b SET lease_expires_at = clock_timestamp() + make_interval(secs => $3)
FROM unnest($1::uuid[], $2::bigint[]) AS held (id, epoch)
WHERE b.id = held.id AND b.epoch = held.epoch AND b.status = 'processing' AND b.worker_number IS NOT DISTINCT FROM $4
RETURNING b.id
