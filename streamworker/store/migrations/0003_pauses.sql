-- A batch whose processor needs something that is away waits without an owner; nobody takes it before `paused_until`.

ALTER TABLE streamworker.batches
    ADD COLUMN paused_until timestamptz,            -- cleared by whoever takes it: a batch that is handed over later is free at once
    ADD COLUMN paused_since timestamptz,            -- when the outage began
    ADD COLUMN paused_at    int,                    -- `succeeded` at the last pause: any more, and the outage is over
    ADD COLUMN tried_at     timestamptz,            -- when the try after it began
    ADD COLUMN pauses       int NOT NULL DEFAULT 0, -- in this outage
    ADD CONSTRAINT pauses_not_negative CHECK (pauses >= 0);

-- An item that has met an outage comes after those that have not, the one that waits longest first; and it is marked on its own row
-- before it starts, since the frontier tells nothing of a start that is out of order.
ALTER TABLE streamworker.items
    ADD COLUMN away_at timestamptz,  -- when it last did
    ADD COLUMN away_after int;       -- the batch's `succeeded` when it first did: any more, and others got through since

-- As before, but that a batch is paused is no news any more once it is cancelled.
CREATE OR REPLACE FUNCTION streamworker.cancel(batch_id uuid) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    -- The batch row first: the same order of locks as every write of a worker.
    UPDATE streamworker.batches AS b
    SET status = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp(), revision = b.revision + 1,
        lease_expires_at = NULL, error = NULL
    WHERE b.id = cancel.batch_id AND b.status IN ('pending', 'processing');
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE streamworker.items AS i SET status = 'cancelled', finished_at = clock_timestamp(), not_before = NULL
    WHERE i.batch_id = cancel.batch_id AND i.status IN ('pending', 'processing');
    PERFORM pg_notify('streamworker', 'cancel ' || cancel.batch_id);
    RETURN true;
END $$;
