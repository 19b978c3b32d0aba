-- Until the end of the transaction: what changes every row of a large batch takes as long as it takes.
SELECT set_config('statement_timeout', '0', true)
