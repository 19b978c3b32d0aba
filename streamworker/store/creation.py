"""A job that brings its items becomes a batch."""

from __future__ import annotations

import asyncpg

from streamworker.errors import InvalidMessage
from streamworker.messages import Job
from streamworker.store.pool import Pool
from streamworker.store.sql import query

# A message of the greatest size holds a million items or so; writing them takes its time.
LONGEST_CREATION = 600.0


async def create(pool: Pool, job: Job, max_attempts: int, entry_id: str) -> None:
    """Write the batch and its items in one transaction, unless the batch is there already.

    Raises InvalidMessage when Postgres finds a fault in it that the decoder did not.
    """
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('statement_timeout', $1, true)", str(round(LONGEST_CREATION * 1000)))
        try:
            await connection.execute(
                query("create_batch"), job.items, job.batch_id, job.processor, job.metadata, max_attempts, job.max_failures,
                timeout=LONGEST_CREATION,
            )  # fmt: skip
        except (asyncpg.DataError, asyncpg.ProgramLimitExceededError, asyncpg.IntegrityConstraintViolationError) as error:
            raise InvalidMessage(str(error)) from error
        # The entry that brought the batch stands for it: the reconciler has nothing to add.
        await connection.execute(query("register_entry"), job.batch_id, None, entry_id)
