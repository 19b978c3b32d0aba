-- What changes every row of a large batch takes as long as it takes; until the end of the transaction, or of the session.
SELECT set_config('statement_timeout', '0', $1)
