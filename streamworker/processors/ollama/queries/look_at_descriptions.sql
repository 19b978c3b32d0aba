SELECT
    (SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'vector') AS schema,
    (SELECT a.atttypmod FROM pg_attribute AS a
     WHERE a.attrelid = to_regclass('streamworker.descriptions') AND a.attname = 'embedding' AND NOT a.attisdropped) AS dimension
