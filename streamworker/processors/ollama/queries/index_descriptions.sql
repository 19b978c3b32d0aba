CREATE INDEX descriptions_embedding ON streamworker.descriptions USING hnsw (embedding {schema}.vector_cosine_ops)
