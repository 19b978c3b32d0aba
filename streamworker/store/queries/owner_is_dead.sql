-- The owner holds this lock exclusively for as long as its session lives.
SELECT pg_try_advisory_xact_lock_shared($1)
