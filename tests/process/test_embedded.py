"""The embedded servers: shared by all who use a folder, adopted after a kill, stopped by the last, with their data kept."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.embedded_scene import ORDINARY, User, end_all, nothing_runs, processes_in
from tests.servers import process_lives, wait_for

Uses = Callable[..., User]


@pytest.fixture
def home(tmp_short: Path) -> Path:
    return tmp_short / "home"


@pytest.fixture
def use(home: Path, tmp_short: Path, clean_environment: dict[str, str]) -> Iterator[Uses]:
    """Start a process that uses the servers of `home`, or of another folder."""
    users: list[User] = []

    def start(folder: Path = home, *, environment: dict[str, str] | None = None, prefix: list[str] | None = None) -> User:
        users.append(User(folder, clean_environment | (environment or {}), prefix))
        return users[-1]

    yield start
    end_all(users, tmp_short)


# Who shares, who stops


def test_two_processes_share_one_pair_of_servers_until_the_last_leaves(use: Uses, home: Path) -> None:
    first = use()
    servers = first.servers()
    second = use()
    assert second.servers() == servers
    assert second.urls() == first.urls()

    assert "stopped" not in first.leave()
    assert second.sql("SELECT 1") == 1
    assert second.redis("PING")

    assert "stopped" in second.leave()
    nothing_runs(home)


def test_of_three_that_start_at_once_one_starts_the_servers(use: Uses, home: Path) -> None:
    users = [use() for _ in range(3)]
    assert len({user.servers() for user in users}) == 1

    logs = [user.leave() for user in users]
    assert sum("started embedded Valkey" in log for log in logs) == 1
    assert sum("started embedded Postgres" in log for log in logs) == 1
    nothing_runs(home)


def test_servers_outlive_a_killed_starter_and_are_adopted_by_the_next(use: Uses, home: Path) -> None:
    starter = use()
    servers = starter.servers()
    starter.kill()
    assert all(process_lives(pid) for pid in servers)

    following = use()
    assert following.servers() == servers
    assert "joined embedded Postgres" in following.leave()
    nothing_runs(home)


def test_a_killed_user_counts_no_more(use: Uses, home: Path) -> None:
    stays, dies = use(), use()
    assert stays.servers() == dies.servers()
    dies.kill()
    stays.leave()
    nothing_runs(home)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_last_user_that_ends_by_a_signal_stops_the_servers(use: Uses, home: Path, number: signal.Signals) -> None:
    user = use()
    user.urls()
    assert "stopped" in user.end_by(number)
    nothing_runs(home)


def test_the_ctrl_c_of_a_terminal_does_not_reach_the_servers(use: Uses) -> None:
    pressed, other = use(), use()
    servers = other.servers()
    pressed.urls()
    assert os.getpgid(pressed.process.pid) not in [os.getpgid(pid) for pid in servers]
    assert os.getsid(pressed.process.pid) not in [os.getsid(pid) for pid in servers]
    os.killpg(pressed.process.pid, signal.SIGINT)
    pressed.leave()
    assert other.servers() == servers


def test_killed_in_the_middle_of_the_first_start_the_next_one_starts_from_nothing(use: Uses, home: Path) -> None:
    killed = use()
    wait_for(lambda: (home / "postgres/new").exists() or (home / "postgres/data").exists(), about="initdb")
    killed.kill()
    following = use()
    assert following.sql("SELECT 1") == 1
    following.leave()
    nothing_runs(home)


def test_cancelled_during_the_first_start_nothing_stays(use: Uses, home: Path) -> None:
    cancelled = use()
    wait_for(lambda: (home / "postgres/new").exists() or (home / "postgres/data").exists(), about="initdb")
    cancelled.end_by(signal.SIGUSR1)
    nothing_runs(home)


def test_servers_of_a_removed_folder_end_with_their_user(use: Uses, home: Path) -> None:
    user = use()
    servers = user.servers()
    shutil.rmtree(home)
    newcomer = use()
    others = newcomer.servers()
    assert not set(others) & set(servers)

    user.process.communicate(timeout=60)
    wait_for(lambda: not any(process_lives(pid) for pid in servers), about="the end of the servers of the removed folder")
    assert newcomer.servers() == others
    newcomer.leave()


def test_a_copied_folder_has_servers_of_its_own(use: Uses, home: Path, tmp_short: Path) -> None:
    first = use()
    first.sql("CREATE TABLE kept (n int)")
    first.leave()
    copy = tmp_short / "copy"
    assert os.system(f"cp -a {home} {copy}") == 0

    original, copied = use(), use(copy)
    assert not set(original.servers()) & set(copied.servers())
    copied.sql("INSERT INTO kept VALUES (1)")
    assert original.sql("SELECT count(*) FROM kept") == 0


# Data, settings, secrets


def test_data_survive_a_restart(use: Uses, home: Path) -> None:
    user = use()
    user.sql("CREATE TABLE kept AS SELECT 42 AS n")
    user.redis("XADD", "batches", "*", "batch_id", "x")
    user.leave()
    nothing_runs(home)

    user = use()
    assert user.sql("SELECT n FROM kept") == 42
    assert user.redis("XLEN", "batches") == 1


def test_data_survive_killed_servers_and_the_next_user_restarts_them(use: Uses) -> None:
    user = use()
    user.sql("CREATE TABLE kept AS SELECT 42 AS n")
    user.redis("XADD", "batches", "*", "batch_id", "x")
    servers = user.servers()
    for pid in servers:
        os.kill(pid, signal.SIGKILL)

    following = use()
    assert following.sql("SELECT n FROM kept") == 42
    assert following.redis("XLEN", "batches") == 1
    assert not set(following.servers()) & set(servers)
    assert "stopped" not in user.leave()
    assert following.sql("SELECT n FROM kept") == 42


def test_what_is_relied_on_is_set(use: Uses) -> None:
    user = use()
    settings = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "listen_addresses": "",
        "max_connections": "200",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
    }
    assert {name: user.sql(f"SELECT current_setting('{name}')") for name in settings} == settings
    assert user.sql("SELECT current_database()") == "streamworker"
    assert user.sql("SELECT upper('é') || (SELECT datcollate FROM pg_database WHERE datname = 'streamworker')") == "ÉC"
    assert user.redis("CONFIG", "GET", "append*")["appendonly"] == "yes"
    assert user.redis("CONFIG", "GET", "append*")["appendfsync"] == "everysec"
    assert user.redis("CONFIG", "GET", "port")["port"] == "0"


def test_no_secret_of_the_starter_stands_in_the_environment_of_a_server(use: Uses) -> None:
    user = use(environment={"MODEL_API_KEY": "canary", "PGPORT": "6000", "PGOPTIONS": "-c fsync=off"})
    for pid in user.servers():
        assert b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert user.sql("SELECT current_setting('fsync')") == "on"


def test_only_this_user_can_reach_the_servers(use: Uses, home: Path) -> None:
    use().urls()
    for folder in (home, *home.glob("run-*"), home / "postgres", home / "valkey"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.geteuid()


# Names, leftovers, accounts


@pytest.mark.parametrize("name", ["with blanks", "größe, 'quoted' \"twice\" $HOME %41?", "l" * 120])
def test_any_name_of_the_folder_will_do(use: Uses, tmp_short: Path, name: str) -> None:
    def use_with(temporary: Path) -> User:
        temporary.mkdir()
        return use(tmp_short / name / "home", environment={"TMPDIR": str(temporary)})

    first = use_with(tmp_short / "tmp")
    assert first.sql("SELECT 1") == 1
    assert first.redis("PING")

    second = use_with(tmp_short / "elsewhere")
    assert second.servers() == first.servers()
    first.leave()
    assert second.sql("SELECT 1") == 1
    second.leave()
    nothing_runs(tmp_short)
    assert list((tmp_short / "elsewhere").glob("*/*")) == []


def test_pid_files_and_sockets_of_a_killed_machine_do_not_matter(use: Uses, home: Path) -> None:
    use().leave()
    run = next(home.glob("run-*"))
    # The numbers belong to other processes by now: this one.
    stale = f"{os.getpid()}\n{home}/postgres/data\n1700000000\n5432\n{run}\n\n  1234567         1\nready   \n"
    (home / "postgres/data/postmaster.pid").write_text(stale)
    (run / ".s.PGSQL.5432.lock").write_text(stale)
    (run / ".s.PGSQL.5432").write_text("")
    (run / "valkey.sock").write_text("")
    user = use()
    assert user.sql("SELECT 1") == 1
    assert user.redis("PING")


def test_an_ordinary_user_needs_nothing_special(use: Uses, home: Path) -> None:
    user = use(prefix=ORDINARY)
    assert user.sql("SELECT 1") == 1
    assert user.redis("PING")
    user.process.communicate(timeout=60)
    nothing_runs(home)


def test_the_folder_may_lie_where_only_this_user_can_go(use: Uses, tmp_short: Path) -> None:
    closed = tmp_short / "closed"
    closed.mkdir(mode=0o700)
    assert use(closed / "home").sql("SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_new_folder_is_kept_out_of_git_and_one_with_other_files_is_not(use: Uses, home: Path, tmp_short: Path) -> None:
    use().urls()
    assert (home / ".gitignore").read_text() == "*\n"
    (tmp_short / "project").mkdir()
    (tmp_short / "project/work.py").write_text("")
    use(tmp_short / "project").urls()
    assert not (tmp_short / "project/.gitignore").exists()


def test_nothing_is_left_in_the_process_list(use: Uses, home: Path, tmp_short: Path) -> None:
    user = use()
    user.urls()
    assert len(processes_in(tmp_short)) > 2
    user.leave()
    assert processes_in(tmp_short) == []
