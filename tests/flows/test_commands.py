"""The command line on real servers, without a worker: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis

from streamworker.cli import main
from streamworker.messages import ItemEvent, ProgressEvent, dead_letter, encode_event
from tests.servers import RedisServer, run_async, run_sql

HOSTILE = "evil\x1b[31m\u202e\r\nFAKE"
SPELT = "evil\\x1b[31m\\u202e\\r\\nFAKE"


@dataclass(frozen=True)
class Printed:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, worker_environment: dict[str, str]) -> None:
    for name in os.environ.keys() - worker_environment.keys():
        monkeypatch.delenv(name)
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.setenv(name, worker_environment[name])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    """Run a command in this process."""

    def run(*words: object) -> Printed:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert out.replace("\n", "").isprintable()
        assert err.replace("\n", "").isprintable()
        return Printed(code, out, err)

    return run


def spawn(*words: object, stdin: bytes = b"") -> Printed:
    """Run a command in a process of its own, with something on standard input."""
    program = [sys.executable, "-m", "streamworker", *map(str, words)]
    done = subprocess.run(program, input=stdin, capture_output=True, timeout=60)
    return Printed(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("scans/a.png", "scans/b.png", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def batch(run: Callable[..., Printed], files: Path) -> str:
    """A batch of three items."""
    return run("submit", "scans", "c.txt").out.strip()


def finish(database_url: str, batch_id: str, failed: int = 0, status: str = "completed", error: str | None = None) -> None:
    """Bring a batch to its end by SQL, the first `failed` items with a hostile error."""

    async def write() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute(
            "UPDATE streamworker.items SET status = CASE WHEN position < $2 THEN 'failed' ELSE 'completed' END, attempts = 1, "
            "finished_at = now(), error = CASE WHEN position < $2 THEN $3 END, result = '{\"n\": 1}' WHERE batch_id = $1",
            batch_id, failed, HOSTILE,
        )  # fmt: skip
        await connection.execute(
            "UPDATE streamworker.batches SET status = $2, processed = total, failed = $3, succeeded = total - $3, error = $4, "
            "started_at = now() - interval '65 s', finished_at = now(), revision = revision + 1 WHERE id = $1",
            batch_id, status, failed, error,
        )  # fmt: skip
        await connection.close()

    run_async(write())


class TestSubmit:
    def test_files_and_folders_become_a_batch(self, run, files: Path, broker) -> None:
        done = run("submit", "scans", "c.txt", "--processor", "documents", "--metadata", '{"by": "me"}', "--max-attempts", "3")
        batch_id = done.out.strip()
        assert done.code == 0
        assert f"streamworker watch {batch_id}" in done.err
        status = run("status", batch_id, "--json").json
        told = {name: status[name] for name in ("id", "status", "total", "processor", "metadata", "max_attempts")}
        expected = {"id": batch_id, "status": "pending", "total": 3, "processor": "documents", "metadata": {"by": "me"}, "max_attempts": 3}
        assert told == expected
        items = [json.loads(line) for line in run("status", batch_id, "--items", "--json").out.splitlines()]
        assert [(item["key"], item["payload"]) for item in items] == [
            ("scans/a.png", str(files / "scans/a.png")),
            ("scans/b.png", str(files / "scans/b.png")),
            ("c.txt", str(files / "c.txt")),
        ]
        assert broker.xlen("batches") == 1

    def test_json_lines_from_standard_input(self, run) -> None:
        done = spawn("submit", "--jsonl", "-", "--json", stdin=b'"a"\n\n{"payload": {"n": 1}, "key": "k"}\n[1]')
        assert done.code == 0
        items = [json.loads(line) for line in run("status", done.json["batch_id"], "--items", "--json").out.splitlines()]
        assert [(item["key"], item["payload"]) for item in items] == [("a", "a"), ("k", {"n": 1}), ("2", [1])]

    def test_a_list_of_paths_from_standard_input(self, run, files: Path) -> None:
        done = spawn("submit", "-", stdin=b"scans\n\nc.txt\r\n")
        assert done.code == 0
        assert run("status", done.out.strip(), "--json").json["total"] == 3

    @pytest.mark.parametrize(
        ("words", "stdin", "expected"),
        [
            (("--jsonl", "-"), b'"a"\n{bad}\n', "standard input:2: expected one JSON value"),
            (("--jsonl", "-"), b'"a"\n\n{"payload": 1, "key": 5}\n', "standard input:3: key: expected a string, got a number"),
            (("--jsonl", "-"), b'"a"\n"\\u0000"\n', "standard input:2: expected text that Postgres can store"),
            (("--jsonl", "-"), b'"a"\n' + b"[" * 65 + b"]" * 65, "standard input:2: payload: "),
            (("--jsonl", "-"), b"\n \n", "expected at least one item, got none"),
            (("-",), b"scans\nmissing.png\n", "standard input:2: missing.png: No such file or directory"),
            (("-",), b"", "expected at least one item, got none"),
            (("scans", "missing.png"), b"", "missing.png: No such file or directory"),
        ],
    )
    def test_a_mistake_names_its_place_and_submits_nothing(self, run, files: Path, words, stdin: bytes, expected: str) -> None:
        done = spawn("submit", *words, stdin=stdin)
        assert (done.code, done.out) == (2, "")
        assert expected in done.err
        assert done.err.count("\n") == 1
        assert run("list", "--json").json == []

    def test_a_long_submission_tells_how_far_it_is(self, run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("streamworker.cli.progress.COUNT_EVERY", 1e-9)
        done = run("submit", "scans", "c.txt")
        assert UUID(done.out.strip())
        lines = done.err.splitlines()
        assert [line.partition(", ")[0] for line in lines[:-1]] == [f"submitting: {number} items so far" for number in (1, 2, 3)]
        assert all(line.endswith("/s") for line in lines[:-1])

    def test_on_a_terminal_the_count_is_live(self, run) -> None:
        terminal, its_end = os.openpty()
        program = [sys.executable, "-m", "streamworker", "submit", "--jsonl", "-"]
        pipe = subprocess.PIPE
        with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=its_end, env=os.environ | {"TERM": "xterm"}) as process:
            os.close(its_end)
            assert process.stdin is not None
            shown, sent = b"", 0
            while b"items so far" not in shown:
                process.stdin.write(b"1\n")
                process.stdin.flush()
                sent += 1
                if select([terminal], [], [], 0.05)[0]:
                    shown += os.read(terminal, 4096)
            out, _ = process.communicate(timeout=30)
            assert process.returncode == 0
        os.close(terminal)
        assert run("status", out.decode().strip(), "--json").json["total"] == sent

    def test_the_same_id_twice_is_one_batch(self, run, files: Path) -> None:
        batch_id = str(uuid4())
        assert run("submit", "c.txt", "--id", batch_id).out.strip() == batch_id
        assert run("submit", "scans", "--id", batch_id).code == 0
        assert run("status", batch_id, "--json").json["total"] == 1

    def test_without_the_schema_the_way_to_it_is_told(self, run, files: Path, empty_database_url: str) -> None:
        done = run("submit", "c.txt", "--database-url", empty_database_url)
        assert done.code == 2
        assert "streamworker migrate" in done.err
        assert run("migrate", "--database-url", empty_database_url).out.startswith("applied 0001_")
        assert run("migrate", "--database-url", empty_database_url).out == "the schema is up to date\n"
        assert run("submit", "c.txt", "--database-url", empty_database_url).code == 0


class TestLookingAtBatches:
    def test_a_list_for_people(self, run, batch: str, database_url: str) -> None:
        finish(database_url, batch, failed=1)
        lines = run("list").out.splitlines()
        assert lines[0].split() == ["ID", "STATUS", "DONE", "FAILED", "CREATED", "TOOK", "PROCESSOR"]
        assert lines[1].split()[:6] == [batch, "completed", "3/3", "(100", "%)", "1"]
        assert "1m05s" in lines[1]

    def test_a_list_for_machines(self, run, batch: str) -> None:
        assert [row["id"] for row in run("list", "--json", "--status", "pending").json] == [batch]
        assert run("list", "--json", "--status", "failed").json == []
        assert run("list", "--status", "failed").out == "no batches with status failed\n"

    def test_one_batch_with_its_failures(self, run, batch: str, database_url: str) -> None:
        finish(database_url, batch, failed=2, status="failed", error=HOSTILE)
        done = run("status", batch)
        assert done.code == 0
        assert "done       3 of 3 (100 %), 2 failed" in done.out
        assert "error      evil\\x1b[31m\\u202e\\r\\nFAKE" in done.out
        assert "failed: scans/b.png: evil\\x1b[31m\\u202e\\r\\nFAKE (attempt 1)" in done.out

    def test_what_the_items_in_flight_told_last(self, run, batch: str, database_url: str, broker) -> None:
        run_sql(database_url, "UPDATE streamworker.batches SET status = 'processing', worker = 'w', epoch = 2")
        run_sql(database_url, "UPDATE streamworker.items SET status = 'failed', finished_at = now() WHERE position = 2")
        old, new = (
            ItemEvent(0, HOSTILE, "processing", 1, percent, "vision", "Looking", None) for percent in (10.0, 40.0)
        )  # the newest of each counts
        ended, unheard = (ItemEvent(n, "b", "processing", 1) for n in (1, 2))  # of the one the end was told, of the other it was lost
        for epoch, items in ((1, [ItemEvent(7, "of another epoch", "processing", 1)]), (2, [old, ended, unheard]), (2, [new]),
                             (2, [ItemEvent(1, "b", "completed", 1)])):  # fmt: skip
            event = ProgressEvent(1, batch, 1, "", "processing", 3, 0, 0, 0, 0.0, None, "w", epoch, None, items)
            broker.xadd("progress", {"batch_id": batch, "event": encode_event(event)})
            broker.xadd("progress", {"batch_id": "another", "event": b"{}"})
        assert f"in flight  {SPELT} · vision · Looking · 40 % (attempt 1)" in run("status", batch).out.splitlines()
        (told,) = run("status", batch, "--json").json["in_flight"]
        assert (told["position"], told["percent"], told["stage"], told["message"]) == (0, 40.0, "vision", "Looking")
        broker.delete("progress")
        assert run("status", batch, "--json").json["in_flight"] == []

    def test_items_of_one_status(self, run, batch: str, database_url: str) -> None:
        finish(database_url, batch, failed=2)
        assert [line.split()[3] for line in run("status", batch, "--items", "failed").out.splitlines()] == ["scans/a.png", "scans/b.png"]
        assert run("status", batch, "--items", "completed").out.split() == ["2", "completed", "1", "c.txt", '{"n":1}']

    @pytest.mark.parametrize("command", ["status", "watch", "cancel", "retry"])
    def test_an_unknown_batch_is_code_1(self, run, command: str) -> None:
        done = run(command, "00000000-0000-0000-0000-000000000001")
        assert done == Printed(1, "", "streamworker: batch 00000000-0000-0000-0000-000000000001: there is no batch with this id\n")


class TestCancelAndRetry:
    def test_a_batch_is_cancelled_once_and_can_be_retried(self, run, batch: str) -> None:
        assert run("retry", batch).code == 1
        assert run("cancel", batch) == Printed(0, f"batch {batch} is cancelled\n", "")
        assert run("cancel", batch) == Printed(1, f"batch {batch} had ended already: cancelled\n", "")
        assert run("retry", batch) == Printed(0, f"batch {batch}: 3 items run again\n", "")
        assert run("status", batch, "--json").json["status"] == "pending"

    def test_one_item_can_be_retried(self, run, batch: str, database_url: str) -> None:
        finish(database_url, batch, failed=2)
        assert run("retry", batch, "--position", "2") == Printed(0, f"batch {batch}: nothing to retry at position 2\n", "")
        assert run("retry", batch, "--position", "1") == Printed(0, f"batch {batch}: 1 item runs again\n", "")
        assert [line.split()[1] for line in run("status", batch, "--items").out.splitlines()] == ["failed", "pending", "completed"]
        for position in ("-1", "x", "1.0", "2147483648", "٥"):
            assert run("retry", batch, f"--position={position}").code == 2

    def test_nothing_to_retry(self, run, batch: str, database_url: str) -> None:
        finish(database_url, batch)
        assert run("retry", batch) == Printed(0, f"batch {batch}: nothing to retry\n", "")


class TestWatch:
    @pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1)])
    def test_the_exit_code_is_the_batchs(self, run, batch: str, database_url: str, status: str, code: int) -> None:
        finish(database_url, batch, failed=1, status=status)
        done = run("watch", batch)
        assert done.code == code
        assert f" {status} 3/3 (100 %), 1 failed" in done.out
        assert "failed: scans/a.png: evil\\x1b" in done.out

    def test_events_for_machines(self, run, batch: str, database_url: str) -> None:
        finish(database_url, batch)
        events = [json.loads(line) for line in run("watch", batch, "--json").out.splitlines()]
        assert [(event["status"], event["revision"]) for event in events] == [("completed", 1)]

    def test_a_batch_is_followed_to_its_end(self, batch: str, database_url: str, broker: redis.Redis) -> None:
        program = [sys.executable, "-m", "streamworker", "watch", batch]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "pending 0/3" in process.stdout.readline()
            item = ItemEvent(0, HOSTILE, "processing", 1, 40.0, "vision", "Looking")
            event = ProgressEvent(1, batch, 1, "2026-01-01T00:00:00.000Z", "processing", 3, 1, 1, 0, 33.33, None, "w", 1, None, [item])
            run_sql(
                database_url,
                f"UPDATE streamworker.batches SET status = 'processing', revision = 1, processed = 1, succeeded = 1 WHERE id = '{batch}'",
            )
            broker.xadd("progress", {"batch_id": batch, "event": encode_event(event)})
            assert "processing 1/3 (33.33 %), 0 failed, evil\\x1b[31m" in process.stdout.readline()
            finish(database_url, batch)
            out, err = process.communicate(timeout=30)
            assert "completed 3/3 (100 %)" in out
            assert (process.returncode, err) == (0, "")

    def test_submit_can_watch(self, files: Path, run, database_url: str) -> None:
        program = [sys.executable, "-m", "streamworker", "submit", "c.txt", "--watch"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            batch_id = process.stdout.readline().strip()
            finish(database_url, batch_id, failed=1, status="failed")
            process.communicate(timeout=30)
            assert process.returncode == 1

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_it_can_be_interrupted(self, batch: str, number: int, code: int) -> None:
        program = [sys.executable, "-m", "streamworker", "watch", batch]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            assert process.communicate(timeout=30)[1] == ""
            assert process.returncode == code


class TestDeadLetters:
    @pytest.fixture
    def letters(self, broker: redis.Redis) -> list[str]:
        """Three dead letters: one with twice the same field, one with hostile text, one that only looks like ours."""
        sent = [
            [(b"batch_id", b"x"), (b"batch_id", b"y"), (b"reason", b"mine")],
            [(b"batch_id", HOSTILE.encode()), (b"items", b"\xff\x00")],
            [(b"a", b"b")],
        ]
        ids = []
        for fields in sent:
            whole = dead_letter(fields, "invalid_message", HOSTILE, "1-0", "2026-01-01T00:00:00.000Z")
            ids.append(broker.execute_command("XADD", "batches:dead", "*", *(part for pair in whole for part in pair)).decode())
        return ids

    def test_a_list_for_people(self, run, letters: list[str]) -> None:
        out = run("dead", "list").out
        assert [line.split()[0] for line in out.splitlines()[::2]] == letters
        assert "invalid_message: evil\\x1b[31m" in out
        assert "batch_id=x batch_id=y reason=mine" in out

    def test_a_list_for_machines(self, run, letters: list[str]) -> None:
        rows = run("dead", "list", "--json").json
        assert [row["id"] for row in rows] == letters
        assert rows[0]["fields"] == [["batch_id", "x"], ["batch_id", "y"], ["reason", "mine"]]
        told = {name: rows[0][name] for name in ("reason", "detail", "source_id", "died_at")}
        assert told == {"reason": "invalid_message", "detail": HOSTILE, "source_id": "1-0", "died_at": "2026-01-01T00:00:00.000Z"}

    def test_no_letters(self, run) -> None:
        assert run("dead", "list").out == "no dead letters\n"
        assert run("dead", "list", "--json").json == []

    def test_a_letter_is_sent_back_as_it_came(self, run, letters: list[str], broker: redis.Redis) -> None:
        assert run("dead", "requeue", letters[0]) == Printed(0, "1 message sent back\n", "")
        broker.response_callbacks.pop("XRANGE")  # its dictionaries would hide a field given twice
        assert [entry[1] for entry in broker.execute_command("XRANGE", "batches", "-", "+")] == [
            [b"batch_id", b"x", b"batch_id", b"y", b"reason", b"mine"]
        ]
        assert [row["id"] for row in run("dead", "list", "--json").json] == letters[1:]

    def test_all_letters_are_sent_back(self, run, letters: list[str], broker: redis.Redis) -> None:
        assert run("dead", "requeue", "--all") == Printed(0, "3 messages sent back\n", "")
        assert (broker.xlen("batches"), broker.xlen("batches:dead")) == (3, 0)

    def test_letters_are_dropped(self, run, letters: list[str], broker: redis.Redis) -> None:
        assert run("dead", "drop", letters[1]) == Printed(0, "1 message dropped\n", "")
        assert run("dead", "drop", letters[1]) == Printed(1, f"{letters[1]}: no dead letter has this id\n0 messages dropped\n", "")
        assert run("dead", "drop", "--all").out == "2 messages dropped\n"
        assert broker.xlen("batches:dead") == 0

    def test_many_letters_are_read_page_by_page(self, run, broker: redis.Redis) -> None:
        with broker.pipeline() as pipeline:
            for number in range(250):
                pipeline.xadd("batches:dead", {"n": number})
            pipeline.execute()
        assert len(run("dead", "list", "--json").json) == 250
        assert run("dead", "requeue", "--all").out == "250 messages sent back\n"

    def test_a_key_of_another_type_is_one_sentence(self, run, broker: redis.Redis) -> None:
        broker.set("batches:dead", "x")
        done = run("dead", "list")
        assert done.code == 1
        assert "holds something that is not a stream" in done.err
        assert done.err.count("\n") == 1


class TestDoctor:
    def test_servers_that_will_do(self, run, batch: str) -> None:
        done = run("doctor", "--json")
        assert (done.code, done.json["ok"]) == (0, True)
        told = {check["about"]: (check["state"], check["text"]) for check in done.json["checks"]}
        assert told["schema"] == ("ok", "up to date")
        assert told["session locks"][0] == "ok"
        assert told["open batches"] == ("info", "1 pending")
        assert told["jobs"][1].startswith("1 entry on batches")
        assert told["extras"][1].startswith("installed: embedded, cli")

    def test_lines_for_people(self, run) -> None:
        lines = run("doctor").out.splitlines()
        assert {line.split()[0] for line in lines} <= {"ok", "info", "warn"}

    def test_what_will_not_do(self, run, broker: redis.Redis, empty_database_url: str) -> None:
        broker.set("progress", "x")
        done = run("doctor", "--json", "--database-url", empty_database_url)
        assert (done.code, done.json["ok"]) == (1, False)
        failed = {check["about"]: check["text"] for check in done.json["checks"] if check["state"] == "fail"}
        assert failed.keys() == {"redis keys", "schema"}

    def test_servers_that_are_not_there(self, run) -> None:
        done = run("doctor", "--redis-url", "redis://:canary@127.0.0.1:1", "--database-url", "postgresql://me:canary@127.0.0.1:1/x")
        assert done.code == 1
        assert sum(line.startswith("fail") for line in done.out.splitlines()) == 2
        assert "canary" not in done.out + done.err

    def test_missing_rights_are_named(self, run, database_url: str) -> None:
        run_sql(database_url, "DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN", "GRANT USAGE ON SCHEMA streamworker TO reader",
                "GRANT SELECT ON ALL TABLES IN SCHEMA streamworker TO reader")  # fmt: skip
        done = run("doctor", "--database-url", database_url.replace("postgres@", "reader@"))
        assert "GRANT UPDATE ON streamworker.items TO reader" in done.out
        run_sql(database_url, "DROP OWNED BY reader", "DROP ROLE reader")


def test_an_outage_in_the_middle_is_one_sentence(own_redis: RedisServer, run) -> None:
    own_redis.kill()
    done = run("dead", "list", "--redis-url", own_redis.url)
    assert done.code == 1
    assert "is not reachable" in done.err
    assert done.err.count("\n") == 1
