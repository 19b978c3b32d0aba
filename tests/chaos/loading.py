"""Reads the files that a run left into a History."""

from __future__ import annotations

import bisect
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.history import Change, Command, Fault, History, Line, Operation, Reading


def read_lines(path: Path) -> list[Any]:
    """The JSON values of a file, one a line; a torn last line is dropped."""
    values = []
    for raw in path.read_bytes().splitlines() if path.exists() else []:
        try:
            values.append(msgspec.json.decode(raw))
        except msgspec.DecodeError:
            break
    return values


def load(folder: Path) -> History:
    """The history of the run that left its files in `folder`."""
    meta = json.loads((folder / "meta.json").read_text())
    tap = read_lines(folder / "tap.jsonl")
    sessions = _Sessions(record for record in tap if record["server"] == "postgres")
    changes = [sessions.change(row, frozenset(meta["workers"])) for row in read_lines(folder / "audit.jsonl")]
    return History(
        seed=meta["seed"],
        changes=changes,
        lines=sorted((_line(raw) for raw in read_lines(folder / "processor.jsonl")), key=lambda line: line.at),
        commands=pair_commands(record for record in tap if record["server"] == "redis"),
        readings=[Reading(**raw) for raw in read_lines(folder / "readers.jsonl")],
        operations=[Operation(**raw) for raw in read_lines(folder / "operations.jsonl")],
        faults=sorted((Fault(**raw) for raw in read_lines(folder / "nemesis.jsonl")), key=lambda fault: fault.began),
        effects=Counter({(batch, position): times for batch, position, times in meta["effects"]}),
        residue=meta["residue"],
        workers=frozenset(meta["workers"]),
        options=meta["options"],
    )


def _line(raw: Mapping[str, Any]) -> Line:
    return Line(**{**raw, "at": raw["at"] / 1e9})


class _Sessions:
    """Which label stood behind a backend, and when the replies to its transactions passed."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._by_pid: dict[int, list[tuple[float, int, str]]] = defaultdict(list)
        self._idle: dict[int, list[float]] = defaultdict(list)
        for record in records:
            if "pid" in record:
                self._by_pid[record["pid"]].append((record["at"], record["conn"], record["label"]))
            elif record.get("ready") == "I":
                self._idle[record["conn"]].append(record["at"])

    def change(self, raw: Mapping[str, Any], workers: frozenset[str]) -> Change:
        at, label = raw["committed"], ""
        sessions = [session for session in self._by_pid.get(raw["pid"], []) if session[0] <= raw["at"]]
        if sessions:
            _, connection, label = sessions[-1]
            idle = self._idle[connection]
            index = bisect.bisect_left(idle, raw["at"])
            at = max(at, idle[index]) if index < len(idle) else at
        writer = label if label in workers else "client"
        return Change(
            raw["seq"], at, raw["committed"], raw["txid"], writer, raw["source"], raw["batch"], raw["position"], raw["old"], raw["new"]
        )


def pair_commands(records: Iterable[Mapping[str, Any]]) -> list[Command]:
    """Requests with their replies; the members of a MULTI share the time of its EXEC, and have the replies that EXEC brought."""
    pairing = _Pairing()
    for record in records:
        if record["op"] == "request":
            pairing.request(record["conn"], record["n"], Command(record["at"], record["label"], [str(arg) for arg in record["args"]]))
        elif record["op"] == "reply" and record["n"] is not None:
            pairing.reply(record["n"], record["at"], record["reply"])
    return sorted(pairing.commands, key=lambda command: command.asked)


class _Pairing:
    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._waiting: dict[int, Command] = {}
        self._open: dict[int, list[Command]] = {}  # connection -> what its MULTI holds so far
        self._executed: dict[int, list[Command]] = {}  # number of an EXEC -> what it ran

    def request(self, connection: int, number: int, command: Command) -> None:
        match command.args[0]:
            case "MULTI":
                self._open[connection] = []
            case "DISCARD":
                self._open.pop(connection, None)
            case "EXEC":
                members = self._open.pop(connection, [])
                for member in members:
                    member.asked = command.asked
                self._executed[number] = members
                self._waiting[number] = command
                self.commands += members
            case _ if connection in self._open:
                self._open[connection].append(command)  # its own reply is only QUEUED
            case _:
                self._waiting[number] = command
                self.commands.append(command)

    def reply(self, number: int, at: float, reply: Any) -> None:
        command = self._waiting.pop(number, None)
        if command is None:
            return
        command.answered, command.reply = at, reply
        replies = reply if isinstance(reply, list) else []
        for index, member in enumerate(self._executed.pop(number, [])):
            member.answered = at
            member.reply = replies[index] if index < len(replies) else {"error": "not executed"}
