UPDATE streamworker.batches AS b SET total = $2 WHERE b.id = $1
