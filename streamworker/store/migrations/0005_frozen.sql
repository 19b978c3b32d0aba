-- As before, without a call for each batch that is announced: what may still change on a batch that has ended is told by the trigger itself.

CREATE OR REPLACE FUNCTION streamworker.batch_frozen() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.status IN ('completed', 'failed', 'cancelled') AND current_setting('streamworker.retrying', true) IS DISTINCT FROM OLD.id::text THEN
        RAISE EXCEPTION 'batch % is % and changes no more; streamworker.retry(batch_id) runs what failed again', OLD.id, OLD.status
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.id <> OLD.id OR NEW.epoch < OLD.epoch OR NEW.revision < OLD.revision THEN
        RAISE EXCEPTION 'batch %: id stays, epoch and revision never decrease', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

-- All columns but announced_at and entry_id.
CREATE OR REPLACE TRIGGER batch_frozen BEFORE UPDATE ON streamworker.batches FOR EACH ROW
    WHEN (
        NEW.id <> OLD.id OR NEW.epoch < OLD.epoch OR NEW.revision < OLD.revision
        OR OLD.status IN ('completed', 'failed', 'cancelled') AND (
            NEW.status, NEW.processor, NEW.metadata, NEW.total, NEW.processed, NEW.succeeded, NEW.failed, NEW.max_attempts, NEW.max_failures,
            NEW.revision, NEW.epoch, NEW.worker, NEW.lease_expires_at, NEW.error, NEW.created_at, NEW.started_at, NEW.finished_at,
            NEW.updated_at, NEW.worker_number, NEW.frontier, NEW.careful_until, NEW.together, NEW.deaths,
            NEW.paused_until, NEW.paused_since, NEW.paused_at, NEW.tried_at, NEW.pauses
        ) IS DISTINCT FROM (
            OLD.status, OLD.processor, OLD.metadata, OLD.total, OLD.processed, OLD.succeeded, OLD.failed, OLD.max_attempts, OLD.max_failures,
            OLD.revision, OLD.epoch, OLD.worker, OLD.lease_expires_at, OLD.error, OLD.created_at, OLD.started_at, OLD.finished_at,
            OLD.updated_at, OLD.worker_number, OLD.frontier, OLD.careful_until, OLD.together, OLD.deaths,
            OLD.paused_until, OLD.paused_since, OLD.paused_at, OLD.tried_at, OLD.pauses
        )
    )
    EXECUTE FUNCTION streamworker.batch_frozen();
