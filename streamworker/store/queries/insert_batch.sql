INSERT INTO streamworker.batches (id, processor, metadata, max_attempts, max_failures)
VALUES ($1, $2, $3::text::jsonb, $4, $5)
ON CONFLICT (id) DO NOTHING
RETURNING pg_current_xact_id()::text
