-- A start that is not charged never happened, as far as attempts go.
UPDATE streamworker.items AS i SET status = 'pending', attempts = greatest(i.attempts - 1, 0)
WHERE i.batch_id = $1 AND i.status = 'processing'
