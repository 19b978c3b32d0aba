-- For people who look at a batch: its failures are found without going through it, and one item alone can be retried.

-- The predicate is on `error`, not on `status`: a column in a predicate ends heap-only updates whenever it changes, and each item changes its status.
CREATE INDEX items_with_error ON streamworker.items (batch_id, position) WHERE error IS NOT NULL;

-- Rare ends among many batches, the newest first; the other statuses have batches_open and batches_by_creation.
CREATE INDEX batches_ended_badly ON streamworker.batches (status, created_at DESC, id) WHERE status IN ('failed', 'cancelled');

CREATE FUNCTION streamworker.retry(batch_id uuid, "position" int) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    had_failed int;
BEGIN
    -- Among many failures more than max_failures would be left: the batch would fail again before the item starts.
    PERFORM FROM streamworker.batches AS b
    WHERE b.id = retry.batch_id AND b.status IN ('completed', 'failed', 'cancelled')
        AND (b.max_failures IS NULL OR b.failed <= b.max_failures + 1) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;  -- unknown, still open, or to be retried as a whole
    END IF;
    SELECT (i.status = 'failed')::int INTO had_failed FROM streamworker.items AS i
    WHERE i.batch_id = retry.batch_id AND i.position = retry.position AND i.status IN ('failed', 'cancelled') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    PERFORM set_config('streamworker.retrying', retry.batch_id::text, true);
    UPDATE streamworker.items AS i
    SET status = 'pending', attempts = 0, error = NULL, not_before = NULL, started_at = NULL, finished_at = NULL
    WHERE i.batch_id = retry.batch_id AND i.position = retry.position;
    UPDATE streamworker.batches AS b
    SET status = 'pending', processed = b.processed - had_failed, failed = b.failed - had_failed,
        error = NULL, started_at = NULL, finished_at = NULL, announced_at = NULL,
        worker = NULL, worker_number = NULL, lease_expires_at = NULL, entry_id = NULL, frontier = 0, careful_until = 0, deaths = 0, together = false,
        revision = b.revision + 1, updated_at = clock_timestamp()
    WHERE b.id = retry.batch_id;
    PERFORM pg_notify('streamworker', 'submit');
    PERFORM set_config('streamworker.retrying', '', true);
    RETURN 1;
END $$;

-- Readers hold no date outside the years 1 to 9999, nor infinity: one such row would break each list that it is in.
-- NOT VALID: it holds for what is written from now on; what there is need not be gone through.
ALTER TABLE streamworker.batches ADD CONSTRAINT batches_readable_dates CHECK (
    least(created_at, started_at, finished_at, updated_at, lease_expires_at) >= '0001-01-02Z'
    AND greatest(created_at, started_at, finished_at, updated_at, lease_expires_at) < '9999-12-31Z') NOT VALID;
ALTER TABLE streamworker.items ADD CONSTRAINT items_readable_dates CHECK (
    least(started_at, finished_at) >= '0001-01-02Z' AND greatest(started_at, finished_at) < '9999-12-31Z') NOT VALID;
