SELECT t.name || ': ' || p.privilege AS missing
FROM (VALUES ('streamworker.batches'), ('streamworker.items')) AS t (name)
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS p (privilege)
WHERE NOT has_table_privilege(t.name, p.privilege)
ORDER BY 1
