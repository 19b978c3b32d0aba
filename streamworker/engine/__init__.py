"""The flow of a batch through a worker; knows no SQL and no Redis command."""
