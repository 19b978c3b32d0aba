-- Open batches that nobody works on: no owner, an expired lease, or an owner whose session lock is gone (numbers below 0 hold none).
SELECT b.id, b.entry_id, b.created_at FROM streamworker.batches AS b
WHERE b.status IN ('pending', 'processing') AND (b.created_at, b.id) > ($1, $2)
    AND (b.worker IS NULL OR b.lease_expires_at IS NULL OR b.lease_expires_at <= clock_timestamp()
         OR (b.worker_number > 0 AND NOT EXISTS (
             SELECT FROM pg_locks AS l
             WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND l.granted
                 AND l.classid = ((b.worker_number >> 32) & 4294967295)::oid AND l.objid = (b.worker_number & 4294967295)::oid)))
ORDER BY b.created_at, b.id LIMIT $3
