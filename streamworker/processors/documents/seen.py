"""Remembers which contents were seen in a batch, on disk: duplicates are found also after a kill and by the next worker.

One SQLite file in STREAMWORKER_HOME serves all processes that share the folder. Whoever is recorded first is the original;
an item that is run again finds its own entry and gets the same answer as before.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

_log = logging.getLogger("streamworker.documents")
_KEPT = 30 * 86400
# Out of 576 bits. Copies that were shrunk or recompressed differ by up to about 15, two different pages of one layout by 30 and more.
MAX_DISTANCE = 16
_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (
    number INTEGER PRIMARY KEY AUTOINCREMENT, batch BLOB NOT NULL, position INTEGER NOT NULL, key TEXT NOT NULL,
    sha256 TEXT NOT NULL, phash TEXT, ones INTEGER, at INTEGER NOT NULL, UNIQUE (batch, position));
CREATE INDEX IF NOT EXISTS seen_sha256 ON seen (batch, sha256, number);
CREATE INDEX IF NOT EXISTS seen_phash ON seen (batch, ones) WHERE phash IS NOT NULL;
"""


class Match(NamedTuple):
    """An item of the same batch that was recorded earlier; `distance` counts the differing bits of the perceptual hashes."""

    position: int
    key: str
    distance: int = 0


class Seen:
    """The record of all batches; every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = _open(path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def record(self, batch: UUID, position: int, key: str, sha256: str, phash: str | None) -> tuple[Match | None, Match | None]:
        """Enter an item, and return the earlier one with the same content, and else the earlier one that looks most alike.

        Raises sqlite3.Error, for example when the disk is full.
        """
        with self._lock, _transaction(self._connection) as connection:
            number = _enter(connection, batch, position, key, sha256, phash)
            same = connection.execute(
                "SELECT position, key FROM seen WHERE batch = ? AND sha256 = ? AND number < ? ORDER BY number LIMIT 1",
                (batch.bytes, sha256, number),
            ).fetchone()
            if same:
                return Match(*same), None
            return None, _alike(connection, batch, number, phash) if phash else None


def _enter(connection: sqlite3.Connection, batch: UUID, position: int, key: str, sha256: str, phash: str | None) -> int:
    known = connection.execute("SELECT number, sha256 FROM seen WHERE batch = ? AND position = ?", (batch.bytes, position)).fetchone()
    if known and known[1] == sha256:
        return int(known[0])
    ones = int(phash, 16).bit_count() if phash else None
    cursor = connection.execute(
        "INSERT OR REPLACE INTO seen (batch, position, key, sha256, phash, ones, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (batch.bytes, position, key, sha256, phash, ones, int(time.time())),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _alike(connection: sqlite3.Connection, batch: UUID, number: int, phash: str) -> Match | None:
    own = int(phash, 16)
    ones = own.bit_count()
    # Two hashes differ in at least as many bits as their counts of ones do: the index leaves few to compare.
    rows = connection.execute(
        "SELECT number, position, key, phash FROM seen WHERE batch = ? AND phash IS NOT NULL AND ones BETWEEN ? AND ? AND number < ?",
        (batch.bytes, ones - MAX_DISTANCE, ones + MAX_DISTANCE, number),
    )
    best = min((((own ^ int(other, 16)).bit_count(), at, position, key) for at, position, key, other in rows), default=None)
    if best is None or best[0] > MAX_DISTANCE:
        return None
    return Match(best[2], best[3], best[0])


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _prepared(str(path))
    except (OSError, sqlite3.Error) as error:
        _log.warning("%s cannot be used (%s): duplicates are found only among what this worker sees until it stops", path, error)
        return _prepared(":memory:")


def _prepared(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        connection.execute(
            "DELETE FROM seen WHERE batch IN (SELECT batch FROM seen GROUP BY batch HAVING max(at) < ?)", (int(time.time()) - _KEPT,)
        )
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    if connection.in_transaction:  # an interruption can strike between any two steps, also between these
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
