-- Told, each as of the revision that was told. A row that somebody has locked is left: it is told again, and marked then.
-- `status || ''`: see `claim_burst`.
WITH free AS (
    SELECT b.id FROM streamworker.batches AS b JOIN unnest($1::uuid[], $2::bigint[]) AS told (id, revision)
        ON b.id = told.id AND b.revision = told.revision
    WHERE b.status || '' IN ('completed', 'failed', 'cancelled') AND b.announced_at IS NULL
    ORDER BY b.id FOR UPDATE OF b SKIP LOCKED
)
UPDATE streamworker.batches AS b SET announced_at = clock_timestamp() FROM free WHERE b.id = free.id
