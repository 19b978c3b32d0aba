"""The seeded bugs: one replacement each, and the tests that have to notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """In `file`, `before` (which stands there once) becomes `after`; at least one of `tests` must fail then."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


def _engine(name: str) -> str:
    return f"streamworker/engine/{name}.py"


def _query(name: str) -> str:
    return f"streamworker/store/queries/{name}.sql"


MUTANTS = (
    Mutant(
        "no fence",
        _query("record"),
        "WHERE b.id = $1 AND b.epoch = $2 AND b.revision = $3 AND b.status || '' = 'processing' FOR UPDATE",
        "WHERE b.id = $1 AND ($2::bigint, $3::bigint) IS NOT NULL FOR UPDATE",
        ("tests/flows/test_fence.py",),
    ),
    Mutant(
        "fence without the row lock",
        _query("record"),
        "AND b.status || '' = 'processing' FOR UPDATE",
        "AND b.status || '' = 'processing'",
        ("tests/flows/test_fence.py",),
    ),
    Mutant(
        "acknowledged before the commit",
        _engine("runner"),
        "                lease = HeldLease(grant.state.id",
        "                await self._services.consumer.acknowledge([delivery.entry_id])\n                lease = HeldLease(grant.state.id",
        ("tests/flows/test_p05*",),
    ),
    Mutant(
        "attempts in memory",
        "streamworker/store/batches.py",
        'if once_only or (died and len(suspects) == 1 and not row["together"]):',
        "if len(suspects) < 0:",
        ("tests/flows/test_p04*",),
    ),
    Mutant(
        "announced before the commit",
        _engine("commits"),
        '                self._step("inside", rows)',
        '                self._durable(flush, rows)\n                self._step("inside", rows)',
        ("tests/flows/test_fence.py",),
    ),
    Mutant(
        "heartbeat on the worker's loop",
        _engine("heartbeat"),
        "        self._main_loop = asyncio.get_running_loop()\n        self._thread.start()",
        "        self._main_loop = asyncio.get_running_loop()\n        self._beating = asyncio.create_task(self._beat())\n"
        "        self._thread = threading.Thread(target=int)\n        self._thread.start()",
        ("tests/flows/test_p10*",),
    ),
    Mutant(
        "blocked read cancelled",
        _engine("fetcher"),
        "await self._consumer.read(self._free() if together == 1 else together, block)",
        "await asyncio.wait_for(self._consumer.read(self._free() if together == 1 else together, 2.0), block)",
        ("tests/flows/test_fence.py",),
    ),
    Mutant(
        "consumer deleted at exit",
        _engine("worker"),
        "        await waiting_room.give_away(services.consumer)",
        "        await services.redis.xgroup_delconsumer(self._settings.stream, self._settings.group, self._settings.consumer)",
        ("tests/flows/test_fence.py",),
    ),
    Mutant(
        "lost reply taken for a failure",
        _engine("commits"),
        "            found = await self._read_back(flush)\n",
        "            self._hold.lose('the commit failed')\n            found = None\n",
        ("tests/flows/test_p12*",),
    ),
    Mutant(
        "bare XCLAIM renewal",
        "streamworker/broker/scripts/renew.lua",
        "if pending[1] and pending[1][2] == ARGV[2] and pending[1][3] < tonumber(ARGV[3]) then",
        "if true then",
        ("tests/flows/test_consumer.py",),
    ),
    Mutant(
        "reclaimed from 0-0 each time",
        "streamworker/broker/consumer.py",
        "        self._cursor = reply[0]\n",
        '        self._cursor = b"0-0"\n',
        ("tests/flows/test_consumer.py",),
    ),
    Mutant(
        "batches trimmed",
        "streamworker/broker/consumer.py",
        'await self._redis.xadd(self._address.stream, {"batch_id": batch_id})',
        'await self._redis.xadd(self._address.stream, {"batch_id": batch_id}, maxlen=100, approximate=False)',
        ("tests/flows/test_consumer.py",),
    ),
    Mutant(
        "counters without the rows",
        _query("record"),
        "b.succeeded + counted.succeeded, failed",
        "b.succeeded + cardinality($7::int[]) - counted.failed, failed",
        ("tests/flows/test_fence.py",),
    ),
    Mutant(
        "a death is no attempt when several are in flight, ever",
        "streamworker/store/batches.py",
        '            careful_until = max(careful_until, suspects[-1]["position"] + 1)',
        "            careful_until = 0",
        ("tests/flows/test_p04*",),
    ),
    Mutant(
        "a death in a burst charges everybody",
        "streamworker/store/batches.py",
        ' and not row["together"]',
        "",
        ("tests/flows/test_bursts.py",),
    ),
    Mutant(
        "a slow item keeps its burst",
        _engine("burst"),
        "        self._relief = asyncio.create_task(self._relieve(member, position))",
        "        self._relief = asyncio.create_task(asyncio.sleep(0))",
        ("tests/flows/test_bursts.py",),
    ),
)
