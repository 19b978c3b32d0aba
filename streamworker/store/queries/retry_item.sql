SELECT EXISTS (SELECT FROM streamworker.batches AS b WHERE b.id = $1) AS known, streamworker.retry($1, $2) AS reopened
