INSERT INTO streamworker.descriptions (batch_id, position, key, path, description, score, model, embed_model, embedding)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::{schema}.vector)
ON CONFLICT (batch_id, position) DO UPDATE SET
    key = excluded.key, path = excluded.path, description = excluded.description, score = excluded.score,
    model = excluded.model, embed_model = excluded.embed_model, embedding = excluded.embedding
