CREATE TABLE streamworker.descriptions (
    batch_id uuid NOT NULL,
    position int NOT NULL,
    key text NOT NULL,
    path text NOT NULL,
    description text NOT NULL,
    score int NOT NULL CHECK (score BETWEEN 0 AND 100),
    model text NOT NULL,
    embed_model text NOT NULL,
    embedding {schema}.vector({dimension}) NOT NULL,
    PRIMARY KEY (batch_id, position)
)
