-- Our own batch, locked. It is the same outage as at its last pause if nothing got through since, and the try after it was a short one.
SELECT b.status, b.total, b.succeeded, b.failed, b.revision, b.epoch, b.worker, b.error, b.updated_at,
       CASE WHEN b.paused_at = b.succeeded AND b.tried_at > clock_timestamp() - make_interval(secs => $3) THEN b.pauses ELSE 0 END AS pauses,
       coalesce(extract(epoch FROM clock_timestamp() - b.paused_since), 0)::float8 AS seconds,
       coalesce(extract(epoch FROM clock_timestamp() - b.started_at), 0)::float8 AS age_seconds
FROM streamworker.batches AS b WHERE b.id = $1 AND b.epoch = $2 AND b.status = 'processing' FOR UPDATE
