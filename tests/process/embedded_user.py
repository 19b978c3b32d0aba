"""A process that uses the embedded servers of a folder until its standard input ends, or SIGTERM or SIGINT comes."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from streamworker.embedded import servers
from streamworker.errors import ConfigurationError
from streamworker.settings import Settings


async def use(home: str) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)
    async with servers(Settings.load({"home": home}, environ={})) as urls:
        print(json.dumps({"redis_url": urls.redis_url, "database_url": urls.database_url}), flush=True)
        await stop.wait()


async def use_or_be_cancelled(home: str) -> None:
    """As `asyncio.run` does on Ctrl-C: whatever is under way is cancelled."""
    using = asyncio.ensure_future(use(home))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, using.cancel)
    await asyncio.wait([using])
    if not using.cancelled():
        using.result()


def main() -> int:
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        asyncio.run(use_or_be_cancelled(str(Path(sys.argv[1]))))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
