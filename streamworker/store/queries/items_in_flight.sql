-- First attempts are marked by the frontier, later ones on their own row; a burst, whose frontier runs far ahead, is over in a moment.
SELECT i.batch_id, i.position, i.key, i.attempts + (i.status = 'pending')::int AS attempt
FROM streamworker.batches AS b
CROSS JOIN LATERAL (SELECT i.batch_id, i.position, i.key, i.attempts, i.status FROM streamworker.items AS i
                    WHERE i.batch_id = b.id AND i.position >= b.frontier - 200 AND i.position < b.frontier
                        AND i.status IN ('pending', 'processing') AND (i.not_before IS NULL OR i.not_before <= clock_timestamp())
                    ORDER BY i.position LIMIT 100) AS i
WHERE b.id = ANY ($1::uuid[]) AND b.status = 'processing' AND b.worker IS NOT NULL AND b.frontier - b.processed <= 100
