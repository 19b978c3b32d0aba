"""The bench itself: it measures, whatever the figures are, and tells them as it says."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest

from tests.bench import table
from tests.bench.delay import Front
from tests.bench.figures import Goal, Results, Row, Section, Sizes
from tests.bench.run import Bench, parse
from tests.bench.sections import sections
from tests.bench.sections.scale import slopes

TINY = Sizes(items=300, loop=10, pickups=3)


def results(**values: list[float | None]) -> Results:
    """A section with a row for each name, the first held against the last."""
    names = list(values)
    goals = (Goal(names[-1], at_least=0.5), Goal(at_most=100), Goal(names[-1], at_least=2, wish=True))
    rows = tuple(Row(name, name, "items/s", goals if name == names[0] else ()) for name in names)
    found = Results(Section("x", "an example", "", rows, {}))
    for number in range(len(values[names[0]])):
        found.add_round({name: value for name in names if (value := values[name][number]) is not None})
    return found


class TestFigures:
    def test_a_ratio_is_one_of_the_same_round(self) -> None:
        assert results(ours=[10, 40, None], base=[20, 20, 20]).ratios("ours", "base") == [0.5, 2.0]

    def test_goals_are_judged_by_the_median(self) -> None:
        found = results(ours=[10, 20, 300], base=[20, 20, 20])
        row = found.section.rows[0]
        assert [found.judged(row, goal)[1] for goal in row.goals] == ["pass", "pass", "open"]

    def test_what_follows_from_a_round(self) -> None:
        figures = {"time 0": 90.0, "time 1": 10.0, "time 2": 11.0, "worker 0": 50.0, "worker 2": 58.0}
        assert slopes(figures, (1_000, 10_000, 100_000)) == pytest.approx({"time slope": 10.0, "worker growth": 8.0})

    def test_the_table_has_the_goal_beside_the_figure(self) -> None:
        found = results(ours=[5, 5, 5], base=[20, 30, 20])
        found.not_run["another"] = "it is not there"
        text = list(table.lines([found]))
        assert [line.split() for line in text if "ours" in line] == [
            ["ours", "5.00", "5.00", "-", "5.00", "items/s", "base", "0.25", "0.17", "-", "0.25", ">=", "0.5", "MISS"]
        ]
        assert "  another: not run: it is not there" in text


def test_every_goal_is_held_against_a_row_of_its_section() -> None:
    for section in sections(Sizes()):
        keys = {row.key for row in section.rows}
        assert {goal.against for row in section.rows for goal in row.goals if goal.against} <= keys


async def test_the_proxy_keeps_the_order_and_takes_its_time() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            writer.write(piece)
        writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = str(server.sockets[0].getsockname()[1])
    proxy = await loop.create_server(lambda: Front(0.02, port), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*proxy.sockets[0].getsockname()[:2])
    sent, started = b"".join(b"%d " % number for number in range(500)), loop.time()
    for first, last in pairwise(range(0, len(sent) + 100, 100)):
        writer.write(sent[first:last])
        await asyncio.sleep(0)
    assert await reader.readexactly(len(sent)) == sent
    assert loop.time() - started >= 0.04  # there and back; how much later is the machine's affair
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    proxy.close()
    server.close()


def test_a_wrong_letter_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["a", "z"])
    assert "z: expected some of a b c" in capsys.readouterr().err


def test_two_sections_are_measured_and_told() -> None:
    chosen = [section for section in sections(TINY) if section.letter in "ac"]
    bench = Bench(chosen, TINY, rounds=1, seed=1, peers=False)
    bench.run()
    told = json.loads(json.dumps(bench.as_json()))
    assert bench.failures == 0
    assert (told["machine"]["fsync"], told["rounds"], told["sizes"]["items"]) == ("on", 1, 300)
    medians = {(letter, row["key"]): row["median"] for letter, section in told["sections"].items() for row in section["rows"]}
    assert {key for key, median in medians.items() if median} == {
        *(("a", key) for key in ("ours", "loop", "limit")),
        *(("c", key) for key in ("ours p50", "ours p99")),
    }
    assert told["sections"]["a"]["not_run"] == {"chunks": "left out by --no-peers"}
    ours = told["sections"]["a"]["rows"][0]
    assert ours["goals"][0].items() >= {"against": "limit", "goal": ">= 0.6", "wish": False}.items()
    assert all(goal["verdict"] in ("pass", "open", "MISS", None) for goal in ours["goals"])
