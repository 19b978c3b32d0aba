-- A start that is not charged never happened, as far as attempts go.
UPDATE streamworker.items AS i SET status = 'pending', attempts = i.attempts - 1
WHERE i.batch_id = $1 AND i.status = 'processing'
