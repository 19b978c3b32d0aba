SELECT streamworker.submit($1::jsonb, $2, $3, $4::jsonb, $5, $6)
