SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_number,
       current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes,
       pg_is_in_recovery() AS standby, to_regclass('streamworker.migrations') IS NULL AS no_schema,
       (SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user) AS superuser,
       current_user::text AS role, extract(epoch FROM clock_timestamp())::float8 AS clock
