SELECT pg_try_advisory_lock($1) AS taken, pg_backend_pid() AS backend
