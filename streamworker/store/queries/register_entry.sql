UPDATE streamworker.batches AS b SET entry_id = $3
WHERE b.id = $1 AND b.entry_id IS NOT DISTINCT FROM $2 AND b.status IN ('pending', 'processing')
RETURNING b.id
