UPDATE streamworker.items AS i SET status = 'cancelled', finished_at = clock_timestamp(), not_before = NULL
WHERE i.batch_id = $1 AND i.status IN ('pending', 'processing')
