-- From now on this batch answers for itself: only its items below the frontier are suspects, and they alone.
-- `status || ''`: see `claim_burst`.
UPDATE streamworker.batches AS b SET together = false, frontier = $4
WHERE b.id = $1 AND b.epoch = $2 AND b.revision = $3 AND b.status || '' = 'processing'
