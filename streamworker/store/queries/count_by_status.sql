SELECT b.status, count(*) AS batches FROM streamworker.batches AS b WHERE b.status IN ('pending', 'processing') GROUP BY b.status
