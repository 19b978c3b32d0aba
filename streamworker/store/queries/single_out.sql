-- The item under way is a slow one: from now on it alone is a suspect.
UPDATE streamworker.batches AS b SET together = false, frontier = $3 WHERE b.id = $1 AND b.epoch = $2 AND b.status = 'processing'
