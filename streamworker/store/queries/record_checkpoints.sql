-- The same positions twice: whatever Postgres believes about the batch's size, it reads these rows alone and not the whole batch.
UPDATE streamworker.items AS i SET checkpoint = r.checkpoint::jsonb
FROM unnest($2::int[], $3::text[]) AS r (position, checkpoint)
WHERE i.batch_id = $1 AND i.position = ANY ($2) AND i.position = r.position AND i.status IN ('pending', 'processing')
