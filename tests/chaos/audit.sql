-- Test-only: every change of a batch or an item, by whomever, in the transaction that makes it.

CREATE SCHEMA IF NOT EXISTS audit;

CREATE TABLE IF NOT EXISTS audit.changes (
    seq         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    txid        bigint      NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
    xid         xid         NOT NULL DEFAULT pg_current_xact_id()::xid,
    pid         int         NOT NULL DEFAULT pg_backend_pid(),
    application text        NOT NULL DEFAULT current_setting('application_name'),
    source      text        NOT NULL,
    operation   text        NOT NULL,
    batch       text        NOT NULL,
    "position"  int,
    old         jsonb,
    new         jsonb
);

CREATE OR REPLACE FUNCTION audit.batch(b streamworker.batches) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT to_jsonb(b) - ARRAY['id', 'metadata', 'processor', 'created_at', 'updated_at']
$$;

CREATE OR REPLACE FUNCTION audit.item(i streamworker.items) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('status', i.status, 'attempts', i.attempts, 'error', i.error, 'result', md5(i.result::text),
                              'finished_at', i.finished_at)
$$;

CREATE OR REPLACE FUNCTION audit.batch_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit.changes (source, operation, batch, old, new)
    VALUES ('batches', TG_OP, coalesce(NEW.id, OLD.id),
            CASE WHEN TG_OP <> 'INSERT' THEN audit.batch(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN audit.batch(NEW) END);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION audit.item_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit.changes (source, operation, batch, "position", old, new)
    VALUES ('items', TG_OP, coalesce(NEW.batch_id, OLD.batch_id), coalesce(NEW.position, OLD.position),
            CASE WHEN TG_OP <> 'INSERT' THEN audit.item(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN audit.item(NEW) END);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON streamworker.batches
    FOR EACH ROW EXECUTE FUNCTION audit.batch_changed();
CREATE OR REPLACE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON streamworker.items
    FOR EACH ROW EXECUTE FUNCTION audit.item_changed();

-- What processors write with Result(write=...): no key, so that a second write would show.
CREATE TABLE IF NOT EXISTS public.effects (batch text NOT NULL, "position" int NOT NULL);
