-- What any language may call inside its own transaction: submit, cancel, retry.

CREATE FUNCTION streamworker.submit(
    items        jsonb,
    batch_id     uuid  DEFAULT gen_random_uuid(),
    processor    text  DEFAULT NULL,
    metadata     jsonb DEFAULT '{}',
    max_attempts int   DEFAULT 2,
    max_failures int   DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    new_id    uuid := coalesce(submit.batch_id, gen_random_uuid());
    item_count int;
    bad       record;
BEGIN
    IF submit.items IS NULL OR jsonb_typeof(submit.items) <> 'array' THEN
        RAISE EXCEPTION 'items: expected a JSON array, got %', coalesce(jsonb_typeof(submit.items), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    item_count := jsonb_array_length(submit.items);
    IF item_count = 0 THEN
        RAISE EXCEPTION 'items: expected at least one element, got an empty array' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF submit.metadata IS NULL OR jsonb_typeof(submit.metadata) <> 'object' THEN
        RAISE EXCEPTION 'metadata: expected a JSON object, got %', coalesce(jsonb_typeof(submit.metadata), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF submit.max_attempts IS NULL OR submit.max_attempts < 1 THEN
        RAISE EXCEPTION 'max_attempts: expected a whole number from 1, got %', coalesce(submit.max_attempts::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF submit.max_failures < 0 THEN
        RAISE EXCEPTION 'max_failures: expected a whole number from 0 or NULL, got %', submit.max_failures
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF char_length(submit.processor) > 512 THEN
        RAISE EXCEPTION 'processor: expected at most 512 characters, got %', char_length(submit.processor)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_path_exists(submit.metadata, 'strict $.**{64} ? (@.type() == "array" || @.type() == "object")') THEN
        RAISE EXCEPTION 'metadata: nested deeper than 64 levels' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT e.index - 1 AS index, e.complaint INTO bad FROM (
        SELECT x.index, CASE
            WHEN jsonb_typeof(x.item) = 'string' AND char_length(x.item #>> '{}') > 512
                THEN 'expected a string of at most 512 characters, got ' || char_length(x.item #>> '{}')
            WHEN jsonb_typeof(x.item) = 'string' THEN NULL
            WHEN jsonb_typeof(x.item) <> 'object' THEN 'expected a string or an object with payload, got ' || jsonb_typeof(x.item)
            WHEN NOT x.item ? 'payload' THEN 'expected an object with payload, which is missing'
            WHEN x.item - 'payload' - 'key' <> '{}'::jsonb
                THEN 'expected only payload and key, got also ' || (SELECT left(min(k), 64) FROM jsonb_object_keys(x.item - 'payload' - 'key') AS k)
            WHEN x.item ? 'key' AND jsonb_typeof(x.item -> 'key') <> 'string' THEN 'key: expected a string, got ' || jsonb_typeof(x.item -> 'key')
            WHEN char_length(x.item ->> 'key') > 512 THEN 'key: expected at most 512 characters, got ' || char_length(x.item ->> 'key')
            WHEN jsonb_path_exists(x.item, 'strict $.payload.**{64} ? (@.type() == "array" || @.type() == "object")') THEN 'payload: nested deeper than 64 levels'
        END AS complaint
        FROM jsonb_array_elements(submit.items) WITH ORDINALITY AS x (item, index)
    ) AS e WHERE e.complaint IS NOT NULL ORDER BY e.index LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'items[%]: %', bad.index, bad.complaint USING ERRCODE = 'invalid_parameter_value';
    END IF;

    INSERT INTO streamworker.batches (id, processor, metadata, total, max_attempts, max_failures)
    VALUES (new_id, submit.processor, submit.metadata, item_count, submit.max_attempts, submit.max_failures)
    ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN new_id;  -- submitted before: the first wins
    END IF;
    INSERT INTO streamworker.items (batch_id, position, key, payload)
    SELECT new_id, x.index - 1,
           CASE WHEN jsonb_typeof(x.item) = 'string' THEN x.item #>> '{}' ELSE coalesce(x.item ->> 'key', (x.index - 1)::text) END,
           CASE WHEN jsonb_typeof(x.item) = 'string' THEN x.item ELSE x.item -> 'payload' END
    FROM jsonb_array_elements(submit.items) WITH ORDINALITY AS x (item, index);
    PERFORM pg_notify('streamworker', 'submit');
    RETURN new_id;
END $$;

CREATE FUNCTION streamworker.cancel(batch_id uuid) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    -- The batch row first: the same order of locks as every write of a worker.
    UPDATE streamworker.batches AS b
    SET status = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp(), revision = b.revision + 1,
        lease_expires_at = NULL
    WHERE b.id = cancel.batch_id AND b.status IN ('pending', 'processing');
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE streamworker.items AS i SET status = 'cancelled', finished_at = clock_timestamp(), not_before = NULL
    WHERE i.batch_id = cancel.batch_id AND i.status IN ('pending', 'processing');
    PERFORM pg_notify('streamworker', 'cancel ' || cancel.batch_id);
    RETURN true;
END $$;

CREATE FUNCTION streamworker.retry(batch_id uuid) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    reopened int;
BEGIN
    PERFORM FROM streamworker.batches AS b
    WHERE b.id = retry.batch_id AND b.status IN ('completed', 'failed', 'cancelled') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;  -- unknown, or still open: what failed can be retried once the batch has ended
    END IF;
    PERFORM set_config('streamworker.retrying', retry.batch_id::text, true);
    UPDATE streamworker.items AS i
    SET status = 'pending', attempts = 0, error = NULL, not_before = NULL, started_at = NULL, finished_at = NULL
    WHERE i.batch_id = retry.batch_id AND i.status IN ('failed', 'cancelled');
    GET DIAGNOSTICS reopened = ROW_COUNT;
    IF reopened > 0 THEN
        UPDATE streamworker.batches AS b
        SET status = 'pending', processed = b.succeeded, failed = 0, error = NULL, started_at = NULL, finished_at = NULL, announced_at = NULL,
            worker = NULL, worker_number = NULL, lease_expires_at = NULL, entry_id = NULL, frontier = 0, careful_until = 0, deaths = 0, together = false,
            revision = b.revision + 1, updated_at = clock_timestamp()
        WHERE b.id = retry.batch_id;
        PERFORM pg_notify('streamworker', 'submit');
    END IF;
    PERFORM set_config('streamworker.retrying', '', true);
    RETURN reopened;
END $$;
