SELECT b.revision, b.frontier FROM streamworker.batches AS b WHERE b.id = $1 AND b.epoch = $2 AND b.status = 'processing' FOR UPDATE
