"""The command line without servers: arguments, what `submit` reads, what a terminal gets to see, the doctor's judgement."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamworker.broker.inspection import GroupFacts, RedisFacts, StreamFacts
from streamworker.cli import main
from streamworker.cli.doctor import judge_postgres, judge_redis, security_holes, version_numbers
from streamworker.cli.progress import Count, Lines, Rate, current, doing, remaining
from streamworker.cli.sources import LONGEST_LINE, Source
from streamworker.cli.text import duration, escape, json_text, print_array, print_table
from streamworker.errors import InvalidSubmission
from streamworker.messages import ItemEvent, ProgressEvent
from streamworker.settings import Settings
from streamworker.store.inspection import PostgresFacts
from streamworker.store.pool import blames_url

HOSTILE = "\r\nFAKE \x1b[31m \u202e \x9b \u2028 \0 \ud800"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STREAMWORKER_")] + ["REDIS_URL", "DATABASE_URL"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    """What `run` listens to in this process, it does not listen to any longer."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, heard in kept.items():
        signal.signal(number, heard)


class TestArguments:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["fly"], "invalid choice: 'fly'"),
            (["list", "--limit", "0"], "argument --limit: expected a whole number from 1 to 1,000,000, got '0'"),
            (["list", "--status", "done"], "argument --status: invalid choice: 'done'"),
            (["list", "--lim", "5"], "unrecognized arguments: --lim 5"),
            (["status"], "the following arguments are required: ID"),
            (["status", "x"], "ID: expected a UUID, got 'x'"),
            (["watch", "\x1b[31m"], "ID: expected a UUID, got '\\x1b[31m'"),
            (["submit"], "submit: expected a PATH, - for a list of paths on standard input, or --jsonl FILE"),
            (["submit", "a", "--jsonl", "b"], "submit: expected PATHs or --jsonl, got both"),
            (["submit", "/dev/null/x"], "/dev/null/x: Not a directory"),
            (["submit", __file__, "--metadata", "[1]"], "--metadata: expected a JSON object"),
            (["submit", __file__, "--metadata", "{"], "--metadata: expected a JSON object"),
            (["submit", __file__, "--id", "5"], "ID: expected a UUID, got '5'"),
            (["submit", __file__, "--id", ""], "ID: expected a UUID, got ''"),
            (["submit", __file__, "--max-attempts", "0"], "argument --max-attempts: expected a whole number from 1, got '0'"),
            (["submit", __file__, "--max-failures", "-1"], "argument --max-failures"),
            (["search", " "], "search: expected a text to look for, got an empty one"),
            (["search", "caf\udce9"], "search: expected a text in UTF-8, got 'caf\\udce9'"),
            (["dead"], "the following arguments are required: ACTION"),
            (["dead", "requeue"], "dead requeue: expected ids or --all, got neither"),
            (["dead", "drop", "1-0", "--all"], "dead drop: expected ids or --all, got both"),
            (["dead", "drop", "1"], "dead drop: expected an id such as 1767225600000-0, got '1'"),
            (["--lease-ttl", "never"], "--lease-ttl: expected a duration"),
            (["run", "--isolation", "none"], "--isolation: expected one of inline, thread, process"),
            (["list", "--redis-url", "redis://:canary@h"], "DATABASE_URL: not set although REDIS_URL is"),
            (["list", "--redis-url", "http://:canary@h"], "--redis-url: expected a URL"),
            (["demo", "/nowhere/at/all"], "/nowhere/at/all: No such file or directory"),
            (["--print-completion", "dos"], "--print-completion: expected one of bash, "),
        ],
    )
    def test_a_mistake_is_one_sentence_and_code_2(self, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("streamworker: ")
        assert expected in err
        assert err.count("\n") == 1
        assert "canary" not in err

    def test_an_unknown_variable_is_refused(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("STREAMWORKER_STREEM", "x")
        assert main(["list"]) == 2
        assert "did you mean STREAMWORKER_STREAM?" in capsys.readouterr().err

    @pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["run", "--help"], ["submit", "-h"], ["dead", "list", "-h"]])
    def test_help_is_code_0(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words) == 0
        assert "streamworker" in capsys.readouterr().out

    @pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
    def test_completion_is_printed(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--print-completion", shell]) == 0
        assert "submit" in capsys.readouterr().out

    def test_every_setting_is_a_flag_of_run_but_the_token(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["run", "--help"])
        out = capsys.readouterr().out
        assert all(
            flag in out for flag in ("--redis-url", "--processor", "--item-concurrency", "--lease-ttl", "--http-address", "--migrate")
        )
        assert "--gateway-token" not in out

    @pytest.mark.parametrize("url", ["postgresql://me:canary@127.0.0.1:1/x", "postgresql://me@127.0.0.1:1/x?password=canary"])
    def test_a_server_that_is_not_there_is_one_sentence_and_code_1(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["list", "--redis-url", "redis://127.0.0.1:1", "--database-url", url]) == 1
        err = capsys.readouterr().err
        assert "is not reachable: nothing listens there" in err
        assert err.count("\n") == 1
        assert "canary" not in err

    @pytest.mark.parametrize("command", ["run", "list", "migrate"])
    @pytest.mark.parametrize(
        ("query", "reason"),
        [
            ("sslmode=bogus", "`sslmode` parameter must be one of: disable, allow, prefer, require, verify-ca, verify-full"),
            ("sslmode=verify-full", 'root certificate file "/no/where/.postgresql/root.crt" does not exist or cannot be accessed'),
            ("sslmode=require&sslrootcert=/no/where", "sslrootcert: /no/where: No such file or directory"),
            ("sslmode=require&sslcert=/etc", "sslcert: /etc: Is a directory"),
            (f"sslmode=require&sslcert={__file__}", "PEM"),
            (f"sslmode=require&sslrootcert={__file__}", "no certificate or crl found"),
        ],
    )
    def test_a_database_url_that_no_waiting_mends_is_refused(
        self, command: str, query: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("HOME", "/no/where")
        url = f"postgresql://me:canary@127.0.0.1:1/db?{query}"
        assert main([command, "--redis-url", "redis://127.0.0.1:1", "--database-url", url]) == 2
        err = capsys.readouterr().err
        shown = url.replace("canary", "***")
        assert err.startswith(f"streamworker: DATABASE_URL: expected postgresql://user@host:port/database, got {shown}: ")
        assert reason in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize("command", ["run", "list"])
    def test_a_bad_redis_url_is_refused_before_postgres_is_asked(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([command, "--redis-url", "redis://:canary@h?flavour=sweet", "--database-url", "postgresql://me@127.0.0.1:1/db"]) == 2
        err = capsys.readouterr().err
        assert "REDIS_URL: expected redis://" in err
        assert "flavour" in err
        assert err.count("\n") == 1
        assert "canary" not in err

    @pytest.mark.parametrize(
        "error",
        [
            ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"),
            ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca"),
            FileNotFoundError(2, "No such file or directory"),
            ConnectionRefusedError(111, "Connection refused"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ],
    )
    def test_what_a_server_may_answer_otherwise_is_waited_out(self, error: Exception) -> None:
        assert not blames_url(error, f"postgresql:///db?host=/no/where&sslrootcert={__file__}")

    def test_a_reader_that_goes_away_is_no_error(self) -> None:
        program = [sys.executable, "-m", "streamworker", "run", "--help"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == b""


class TestJSONLines:
    def read(self, path: Path, content: bytes) -> list[Any]:
        path.write_bytes(content)
        return list(Source().json_lines(str(path)))

    @pytest.mark.parametrize(
        ("line", "item"),
        [
            (b'"a.jpg"', "a.jpg"),
            (b'{"payload": 1}', {"payload": 1}),
            (b'{"payload": 1, "key": "k"}', {"payload": 1, "key": "k"}),
            (b'{"payload": 1, "extra": 2}', {"payload": {"payload": 1, "extra": 2}}),
            (b'{"key": "k"}', {"payload": {"key": "k"}}),
            (b"{}", {"payload": {}}),
            (b"[1, 2]", {"payload": [1, 2]}),
            (b"null", {"payload": None}),
            (b"12345678901234567890", {"payload": 12345678901234567890}),
            (json.dumps("x" * 513).encode(), {"payload": "x" * 513}),
        ],
    )
    def test_a_line_is_an_item_or_the_payload_of_one(self, tmp_path: Path, line: bytes, item: Any) -> None:
        assert self.read(tmp_path / "f", line + b"\n") == [item]

    @pytest.mark.parametrize("content", [b'"a"\n"b"', b'"a"\r\n"b"\r\n', b'\n"a"\n  \n\n"b"\n\n', b'\xef\xbb\xbf"a"\n"b"\n'])
    def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(self, tmp_path: Path, content: bytes) -> None:
        assert self.read(tmp_path / "f", content) == ["a", "b"]

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (b"{bad}", "expected one JSON value"),
            (b'"a" "b"', "expected one JSON value"),
            (b"NaN", "expected one JSON value"),
            (b"1e999", "expected one JSON value"),
            (b'"\xff"', "expected"),
            (b"\x7fELF\x02\x01", "expected one JSON value"),
            (b"[" * 100_000, "expected at most 64 levels of nesting"),
            (b'"' + b"x" * LONGEST_LINE + b'"', "expected lines of at most 16,777,216 bytes"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, line: bytes, expected: str) -> None:
        path = tmp_path / "f.jsonl"
        with pytest.raises(InvalidSubmission) as refusal:
            self.read(path, b'"good"\n' * 6 + line + b"\n")
        assert str(refusal.value).startswith(f"{path}:7: ")
        assert expected in str(refusal.value)

    def test_a_huge_line_is_not_read_to_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "huge"
        with path.open("wb") as file:
            file.truncate(8 * 1024**3)  # a hole: it has no line end, and takes no room
        with pytest.raises(InvalidSubmission, match="huge:1: expected lines of at most"):
            list(Source().json_lines(str(path)))


class TestWhatIsNoFile:
    @pytest.fixture
    def strange(self, tmp_path: Path) -> dict[str, Path]:
        paths = {name: tmp_path / name for name in ("folder", "fifo", "missing", "loop", "socket")}
        paths["folder"].mkdir()
        os.mkfifo(paths["fifo"])
        paths["loop"].symlink_to(paths["loop"])
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(paths["socket"]))
        return paths | {"device": Path("/dev/zero"), "nul": Path("a\0b"), "empty": Path("")}

    @pytest.mark.parametrize(
        ("sort", "as_lines", "as_path"),
        [
            ("folder", "expected a file, got a folder", "expected a folder with files in it, found none"),
            ("fifo", "expected a file, got a FIFO", "expected a file or a folder, got a FIFO"),
            ("socket", "expected a file, got a socket", "expected a file or a folder, got a socket"),
            ("device", "expected a file, got a device", "expected a file or a folder, got a device"),
            ("missing", "No such file or directory", "No such file or directory"),
            ("loop", "Too many levels of symbolic links", "Too many levels of symbolic links"),
            ("nul", "embedded null byte", "embedded null byte"),
        ],
    )
    def test_it_is_refused_by_name(self, strange: dict[str, Path], sort: str, as_lines: str, as_path: str) -> None:
        for items, expected in ((Source().json_lines(str(strange[sort])), as_lines), (Source().paths([str(strange[sort])]), as_path)):
            with pytest.raises(InvalidSubmission) as refusal:
                list(items)
            assert str(refusal.value).startswith(f"{strange[sort]}: {expected}")


class TestPaths:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        for name in ("scans/b.png", "scans/a.png", "scans/10/x.txt", "scans/9/y.txt", "scans/.hidden", "scans/.git/config", "outside/z"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        (tmp_path / "scans/linked").symlink_to(tmp_path / "outside", target_is_directory=True)
        (tmp_path / "scans/lost").symlink_to("nowhere")
        (tmp_path / "scans/round").symlink_to("round")
        return tmp_path

    def test_a_folder_is_its_files_in_order(self, folder: Path) -> None:
        items = list(Source().paths(["scans"]))
        assert [item["key"] for item in items] == ["scans/a.png", "scans/b.png", "scans/10/x.txt", "scans/9/y.txt"]
        assert [item["payload"] for item in items] == [str(folder / item["key"]) for item in items]

    @pytest.mark.parametrize("given", ["scans/", "./scans", "scans/../scans"])
    def test_the_key_begins_with_the_folders_name(self, folder: Path, given: str) -> None:
        assert next(Source().paths([given]))["key"] == "scans/a.png"

    def test_the_present_folder_has_a_name_too(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder / "scans")
        assert next(Source().paths(["."]))["key"] == "scans/a.png"

    def test_a_file_keeps_the_path_given(self, folder: Path) -> None:
        assert list(Source().paths(["./scans/a.png", str(folder / "scans/b.png")])) == [
            {"payload": str(folder / "scans/a.png"), "key": "scans/a.png"},
            {"payload": str(folder / "scans/b.png"), "key": str(folder / "scans/b.png")},
        ]

    def test_a_link_to_a_file_stays_a_link(self, folder: Path) -> None:
        (folder / "link.png").symlink_to("scans/a.png")
        assert list(Source().paths(["link.png"])) == [{"payload": str(folder / "link.png"), "key": "link.png"}]

    def test_a_very_long_path_has_its_end_as_key(self, folder: Path) -> None:
        long = folder.joinpath("scans", *["d" * 200] * 4)
        long.mkdir(parents=True)
        (long / "end.txt").write_text("x")
        key = list(Source().paths(["scans"]))[-1]["key"]
        assert len(key) == 512
        assert key.startswith("…")
        assert key.endswith("/end.txt")

    def test_a_name_that_is_not_utf8_is_refused(self, folder: Path) -> None:
        with open(os.fsencode(folder / "scans") + b"/\xff.png", "wb"):
            pass
        with pytest.raises(InvalidSubmission, match="expected a name in UTF-8"):
            list(Source().paths(["scans"]))


class TestTerminal:
    def test_data_does_not_control_it(self) -> None:
        assert escape(HOSTILE) == "\\r\\nFAKE \\x1b[31m \\u202e \\x9b \\u2028 \\x00 \\ud800"
        assert escape("plain ümläut 日本 🎉") == "plain ümläut 日本 🎉"
        assert escape("abcdef", 4) == "abc…"

    def test_json_neither_and_stays_json(self) -> None:
        text = json_text({"key": HOSTILE.replace("\ud800", "\U000e0001")})
        assert text.isprintable()
        assert json.loads(text) == {"key": HOSTILE.replace("\ud800", "\U000e0001")}

    def test_tables_neither(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table(("A", "B"), [(HOSTILE, "[bold]x[/bold]"), ("short", "y")])
        lines = capsys.readouterr().out.split("\n")
        assert len(lines) == 4
        assert all(line.isprintable() for line in lines)
        assert "[bold]x[/bold]" in lines[1]

    @pytest.mark.parametrize("rows", [[], [1], [1, {"a": "b"}]])
    def test_an_array_is_json(self, rows: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
        print_array(rows)
        assert json.loads(capsys.readouterr().out) == rows

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(0.04, "0.0s"), (9.96, "10.0s"), (10, "10s"), (59.6, "1m00s"), (310.5, "5m10s"), (11040, "3h04m"), (212400, "2d11h")],
    )
    def test_durations(self, seconds: float, shown: str) -> None:
        assert duration(seconds) == shown


def event(processed: int, status: str = "processing", items: list[ItemEvent] | None = None, **more: Any) -> ProgressEvent:
    fields = {"total": 10, "failed": 0, "eta_seconds": None, "worker": "w", "epoch": 1, "error": None} | more
    return ProgressEvent(
        v=1, batch_id="b", revision=processed, at="2026-01-01T00:00:00.000Z", status=status, processed=processed,
        succeeded=processed, percent=processed * 10.0, items=items or [], **fields,
    )  # fmt: skip


class TestProgress:
    def test_lines_show_the_state_the_item_and_each_failure_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        view = Lines()
        view.show(event(1, items=[ItemEvent(1, "cat\n.jpg", "processing", 1, 40.0, "vision", "Looking")]))
        view.show(event(2, items=[ItemEvent(1, "dog.jpg", "failed", 2, error="no\x1b dog")], failed=1))
        view.show(event(2, "failed", error="too many\nfailures", failed=1))
        assert capsys.readouterr().out.splitlines() == [
            "2026-01-01T00:00:00.000Z processing 1/10 (10 %), 0 failed, cat\\n.jpg · vision · Looking · 40 %",
            "failed: dog.jpg: no\\x1b dog (attempt 2)",
            "2026-01-01T00:00:00.000Z failed 2/10 (20 %), 1 failed, error: too many\\nfailures",
        ]
        assert view.failures_shown == 1

    def test_one_line_a_second_with_the_newest_state(self, capsys: pytest.CaptureFixture[str]) -> None:
        now = 0.0
        view = Lines(lambda: now)
        for processed in range(5):
            view.show(event(processed))
        now = 1.0
        view.tick()
        view.tick()
        view.show(event(6))
        now = 2.5
        view.show(event(7))
        assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["0/10", "4/10", "7/10"]

    def test_a_count_passes_each_item_on_and_tells_the_pace_when_it_is_time(self) -> None:
        moments, shown = iter([0.0, 1.0, 5.0, 6.0, 2000.0]), list[str]()
        assert list(Count(shown.append, 5.0, lambda: next(moments)).of(iter("abcd"))) == ["a", "b", "c", "d"]
        assert shown == ["submitting: 2 items so far, 0.4/s", "submitting: 4 items so far, 0.0/s"]

    def test_the_current_item_is_the_last_that_runs(self) -> None:
        items = [ItemEvent(0, "a", "processing", 1), ItemEvent(1, "b", "processing", 1), ItemEvent(2, "c", "completed", 1)]
        assert current(event(1, items=items)) == items[1]
        assert current(event(1)) is None
        assert doing(items[1]) == "b"

    def test_the_remaining_time(self) -> None:
        assert remaining(event(5), 0.5) == "10s"
        assert remaining(event(5, eta_seconds=310.5), None) == "5m10s"
        assert remaining(event(5), None) == ""
        assert remaining(event(5, "completed"), 0.5) == ""

    def test_the_rate_needs_time_and_progress_and_begins_anew_after_a_retry(self) -> None:
        moments = iter([0.0, 0.5, 2.0, 3.0, 4.0])
        rate = Rate(lambda: next(moments))
        assert [rate.of(event(processed)) for processed in (4, 5, 8, 2, 3)] == [None, None, 2.0, None, 1.0]


REDIS = RedisFacts(
    "Valkey", "9.1.2", "master", 0, "noeviction", True, 0.0, 0.001,
    [StreamFacts("batches", "stream", 1), StreamFacts("progress", "stream", 5), StreamFacts("batches:dead", "none")], GroupFacts(2, 1),
)  # fmt: skip
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
POSTGRES = PostgresFacts("18.4", 180004, DURABLE, False, "worker", False, 0.0, True, False, None, [], {"pending": 3})


class TestDoctor:
    def test_good_servers_have_no_complaint(self) -> None:
        checks = [*judge_redis(REDIS, Settings.load(environ={})), *judge_postgres(POSTGRES)]
        assert {check.state for check in checks} == {"ok", "info"}

    @pytest.mark.parametrize(
        ("change", "state", "told"),
        [
            ({"product": "Redis", "version": "6.0.16"}, "fail", "expected 6.2 or later"),
            ({"product": "Valkey", "version": "7.0.0"}, "fail", "expected 7.2 or later"),
            ({"product": "Redis", "version": "7.2.4"}, "warn", "CVE-2026-23479"),
            ({"role": "slave"}, "fail", "takes no writes"),
            ({"max_memory": 1, "eviction": "allkeys-lru"}, "warn", "maxmemory-policy is allkeys-lru"),
            ({"streams": [StreamFacts("batches", "hash"), *REDIS.streams[1:]]}, "fail", "the key batches is a hash, expected a stream"),
            ({"streams": [*REDIS.streams[:2], StreamFacts("batches:dead", "stream", 2)]}, "warn", "2 on batches:dead"),
            ({"group": None}, "info", "no group workers yet"),
            ({"append_only": False}, "info", "no append-only file"),
            ({"ahead": -3.0}, "info", "3.0 s behind this machine's"),
        ],
    )
    def test_a_redis_that_is_not_right(self, change: dict[str, Any], state: str, told: str) -> None:
        checks = list(judge_redis(replace(REDIS, **change), Settings.load(environ={})))
        assert [check for check in checks if check.state == state and told in check.text]

    @pytest.mark.parametrize(
        ("change", "state", "told"),
        [
            ({"version_number": 130010}, "fail", "expected 14 or later"),
            ({"standby": True}, "fail", "takes no writes"),
            ({"durability": DURABLE | {"fsync": "off"}}, "warn", "fsync off"),
            ({"session_locks": False}, "warn", "do not work"),
            ({"schema_error": "run migrate"}, "fail", "run migrate"),
            ({"missing_rights": ["streamworker.items: UPDATE"]}, "fail", "GRANT UPDATE ON streamworker.items TO worker"),
            ({"ahead": 7200.0}, "info", "7200.0 s ahead of this machine's"),
        ],
    )
    def test_a_postgres_that_is_not_right(self, change: dict[str, Any], state: str, told: str) -> None:
        checks = list(judge_postgres(replace(POSTGRES, **change)))
        assert [check for check in checks if check.state == state and told in check.text]

    def test_the_embedded_postgres_gets_its_schema_by_itself(self) -> None:
        checks = list(judge_postgres(replace(POSTGRES, no_schema=True, schema_error="run migrate"), own=True))
        assert [check.state for check in checks if check.about == "schema"] == ["info"]

    @pytest.mark.parametrize(
        ("product", "version", "holes"),
        [
            ("Redis", "6.2.19", ["CVE-2025-49844"]),
            ("Redis", "6.2.20", []),
            ("Redis", "7.0.15", ["CVE-2025-49844"]),
            ("Redis", "7.2.11", ["CVE-2026-23479"]),
            ("Redis", "7.2.10", ["CVE-2025-49844", "CVE-2026-23479"]),
            ("Redis", "8.2.2", ["CVE-2026-23479"]),
            ("Redis", "8.6.2", ["CVE-2026-23479"]),
            ("Redis", "8.6.3", []),
            ("Valkey", "7.2.10", ["CVE-2025-49844"]),
            ("Valkey", "8.1.4", []),
            ("Valkey", "9.1.2", []),
        ],
    )
    def test_releases_with_known_holes(self, product: str, version: str, holes: list[str]) -> None:
        found = security_holes(product, version_numbers(version))
        assert [hole for hole, told in zip(holes, found, strict=True) if hole in told] == holes
