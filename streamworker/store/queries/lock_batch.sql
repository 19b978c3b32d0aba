SELECT b.status, b.pauses, b.processor, b.metadata::text AS metadata, b.total, b.processed, b.succeeded, b.failed, b.max_attempts, b.max_failures,
       b.revision, b.epoch, b.worker, b.worker_number, b.entry_id, b.frontier, b.careful_until, b.together, b.deaths, b.error, b.updated_at,
       b.lease_expires_at > clock_timestamp() AS lease_live,
       greatest(extract(epoch FROM b.lease_expires_at - clock_timestamp()), 0)::float8 AS lease_seconds,
       extract(epoch FROM clock_timestamp() - b.started_at)::float8 AS age_seconds,
       CASE WHEN b.status = 'processing' AND b.worker IS NULL THEN extract(epoch FROM b.paused_until - clock_timestamp())::float8 END AS pause_seconds,
       CASE WHEN b.status = 'processing' AND b.pauses > 0 AND b.paused_at = b.succeeded THEN extract(epoch FROM clock_timestamp() - b.paused_since)::float8 END AS outage_seconds
FROM streamworker.batches AS b WHERE b.id = $1 FOR UPDATE
