-- From the catalogs themselves: to_regclass may answer from a cache that another session's commit has not reached yet.
SELECT
    (SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector') AS schema,
    (SELECT a.atttypmod FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = 'streamworker' AND c.relname = 'descriptions' AND a.attname = 'embedding' AND NOT a.attisdropped) AS dimension
