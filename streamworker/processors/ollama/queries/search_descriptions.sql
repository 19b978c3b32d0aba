SELECT batch_id, position, key, path, description, score, model, embed_model, embedding OPERATOR({schema}.<=>) $1::text::{schema}.vector AS distance
FROM streamworker.descriptions
WHERE embed_model = $2
ORDER BY embedding OPERATOR({schema}.<=>) $1::text::{schema}.vector
LIMIT $3
