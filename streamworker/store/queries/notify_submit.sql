SELECT pg_notify('streamworker', 'submit')
