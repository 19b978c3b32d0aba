-- The tables, and the rules that hold whoever writes them.

CREATE TABLE streamworker.batches (
    id               uuid        PRIMARY KEY,
    status           text        NOT NULL DEFAULT 'pending',
    processor        text,
    metadata         jsonb       NOT NULL DEFAULT '{}',
    total            int         NOT NULL DEFAULT 0,
    processed        int         NOT NULL DEFAULT 0,
    succeeded        int         NOT NULL DEFAULT 0,
    failed           int         NOT NULL DEFAULT 0,
    max_attempts     int         NOT NULL DEFAULT 2,
    max_failures     int,
    revision         bigint      NOT NULL DEFAULT 0,
    epoch            bigint      NOT NULL DEFAULT 0,
    worker           text,
    lease_expires_at timestamptz,
    error            text,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at       timestamptz,
    finished_at      timestamptz,
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- How a batch survives its workers; not part of the public contract.
    worker_number    bigint,                          -- key of the owner's session lock
    entry_id         text,                            -- the stream entry that stands for the batch
    frontier         int         NOT NULL DEFAULT 0,  -- no item at or beyond it has started
    careful_until    int         NOT NULL DEFAULT 0,  -- below it: one item at a time, each one marked
    together         boolean     NOT NULL DEFAULT false,  -- claimed with others: a death says nothing about its items
    deaths           int         NOT NULL DEFAULT 0,  -- worker deaths since anything was last recorded
    announced_at     timestamptz,                     -- when the terminal event was published
    CONSTRAINT status_known CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    CONSTRAINT metadata_is_object CHECK (jsonb_typeof(metadata) = 'object'),
    CONSTRAINT counters_add_up CHECK (processed = succeeded + failed),
    CONSTRAINT counters_in_range CHECK (succeeded >= 0 AND failed >= 0 AND total >= 0),
    CONSTRAINT max_attempts_positive CHECK (max_attempts >= 1),
    CONSTRAINT max_failures_not_negative CHECK (max_failures >= 0),
    CONSTRAINT processor_length CHECK (char_length(processor) <= 512),
    CONSTRAINT numbers_not_negative CHECK (revision >= 0 AND epoch >= 0 AND frontier >= 0 AND careful_until >= 0 AND deaths >= 0),
    CONSTRAINT terminal_has_end CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50);  -- counters change with every record: room for heap-only updates

CREATE INDEX batches_by_creation ON streamworker.batches (created_at DESC, id);
CREATE INDEX batches_open ON streamworker.batches (created_at, id) WHERE status IN ('pending', 'processing');
CREATE INDEX batches_unregistered ON streamworker.batches (created_at, id)
    WHERE status IN ('pending', 'processing') AND entry_id IS NULL AND worker IS NULL;
CREATE INDEX batches_unannounced ON streamworker.batches (id)
    WHERE status IN ('completed', 'failed', 'cancelled') AND announced_at IS NULL;

CREATE TABLE streamworker.items (
    batch_id    uuid NOT NULL REFERENCES streamworker.batches (id) ON DELETE CASCADE,
    position    int  NOT NULL,
    key         text NOT NULL,
    payload     jsonb NOT NULL,
    status      text NOT NULL DEFAULT 'pending',
    attempts    int  NOT NULL DEFAULT 0,
    result      jsonb,
    error       text,
    checkpoint  jsonb,
    not_before  timestamptz,  -- a delayed retry does not start earlier
    started_at  timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (batch_id, position),
    CONSTRAINT status_known CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    CONSTRAINT position_in_range CHECK (position BETWEEN 0 AND 2000000000),  -- the frontier runs ahead of it, and is an int too
    CONSTRAINT attempts_not_negative CHECK (attempts >= 0),
    CONSTRAINT key_length CHECK (char_length(key) <= 512),
    CONSTRAINT terminal_has_end CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50);  -- each row is rewritten once or twice, its neighbours at the same time

-- A terminal status is final; only retry() opens a batch again, and says so in its own transaction.
CREATE FUNCTION streamworker.batch_frozen() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.status IN ('completed', 'failed', 'cancelled')
        AND current_setting('streamworker.retrying', true) IS DISTINCT FROM OLD.id::text
        AND (to_jsonb(NEW) - ARRAY['announced_at', 'entry_id']) <> (to_jsonb(OLD) - ARRAY['announced_at', 'entry_id'])
    THEN
        RAISE EXCEPTION 'batch % is % and changes no more; streamworker.retry(batch_id) runs what failed again', OLD.id, OLD.status
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.id <> OLD.id OR NEW.epoch < OLD.epoch OR NEW.revision < OLD.revision THEN
        RAISE EXCEPTION 'batch %: id stays, epoch and revision never decrease', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER batch_frozen BEFORE UPDATE ON streamworker.batches FOR EACH ROW
    WHEN (OLD.status IN ('completed', 'failed', 'cancelled') OR NEW.id <> OLD.id OR NEW.epoch < OLD.epoch OR NEW.revision < OLD.revision)
    EXECUTE FUNCTION streamworker.batch_frozen();

CREATE FUNCTION streamworker.lease_bounded() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.lease_expires_at > clock_timestamp() + interval '1 day' THEN
        RAISE EXCEPTION 'batch %: a lease of more than a day (until %) would never be taken over', NEW.id, NEW.lease_expires_at
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER lease_inserted BEFORE INSERT ON streamworker.batches FOR EACH ROW
    WHEN (NEW.lease_expires_at IS NOT NULL)
    EXECUTE FUNCTION streamworker.lease_bounded();
CREATE TRIGGER lease_bounded BEFORE UPDATE ON streamworker.batches FOR EACH ROW
    WHEN (NEW.lease_expires_at > OLD.lease_expires_at + interval '1 day' OR (OLD.lease_expires_at IS NULL AND NEW.lease_expires_at IS NOT NULL))
    EXECUTE FUNCTION streamworker.lease_bounded();

CREATE FUNCTION streamworker.item_frozen() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('streamworker.retrying', true) IS DISTINCT FROM OLD.batch_id::text THEN
        RAISE EXCEPTION 'item % of batch % is % and changes no more', OLD.position, OLD.batch_id, OLD.status
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER item_frozen BEFORE UPDATE ON streamworker.items FOR EACH ROW
    WHEN (OLD.status IN ('completed', 'failed', 'cancelled'))
    EXECUTE FUNCTION streamworker.item_frozen();

CREATE FUNCTION streamworker.item_stays() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'item % of batch %: batch_id and position stay', OLD.position, OLD.batch_id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER item_stays BEFORE UPDATE OF batch_id, position ON streamworker.items FOR EACH ROW
    WHEN (NEW.batch_id <> OLD.batch_id OR NEW.position <> OLD.position)
    EXECUTE FUNCTION streamworker.item_stays();

-- Rows of a batch come and go with it: none is added to, or taken from, one that has ended.
CREATE FUNCTION streamworker.items_of_ended_batch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE ended uuid;
BEGIN
    SELECT b.id INTO ended FROM streamworker.batches AS b
    WHERE b.id IN (SELECT DISTINCT batch_id FROM touched) AND b.status IN ('completed', 'failed', 'cancelled') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'batch % has ended: its items are neither added nor removed (delete the batch row instead)', ended
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER items_added AFTER INSERT ON streamworker.items REFERENCING NEW TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION streamworker.items_of_ended_batch();
CREATE TRIGGER items_removed AFTER DELETE ON streamworker.items REFERENCING OLD TABLE AS touched
    FOR EACH STATEMENT EXECUTE FUNCTION streamworker.items_of_ended_batch();
