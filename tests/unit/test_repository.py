"""What stands around the code: wheel, locks, scripts, container files, and what README and CHANGELOG say."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

import streamworker
from streamworker.messages import decode_event, decode_job, encode_event
from streamworker.settings import BUILT_IN_OPTIONS, OPTIONS, parse_duration

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOCKS = ("requirements.lock", "scripts/image.lock")
# Settings that are read and checked already, and have no effect before a later release.
NOT_YET = {"http_address"}


def project_files() -> list[str]:
    """What is, or would be, in a commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return sorted(name for name in listed if name and (ROOT / name).is_file())


def scripts() -> list[str]:
    """The files that are meant to be run: those that say by what."""
    return [name for name in project_files() if (ROOT / name).read_bytes().startswith(b"#!")]


def blocks(*languages: str) -> list[str]:
    """The fenced blocks of the README in these languages."""
    return [body for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL) if language in languages]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, capture_output=True, check=True
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


class TestWheel:
    def test_it_holds_our_files_and_nothing_else(self, wheel: zipfile.ZipFile) -> None:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert names == {name for name in project_files() if name.startswith("streamworker/")}

    def test_it_holds_statements_and_scripts_and_no_pth(self, wheel: zipfile.ZipFile) -> None:
        suffixes = {Path(name).suffix for name in wheel.namelist()}
        assert {".py", ".sql", ".lua", ".typed"} <= suffixes
        assert ".pth" not in suffixes

    def test_its_metadata_says_what_it_is(self, wheel: zipfile.ZipFile) -> None:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        metadata = wheel.read(name).decode()
        assert f"Version: {streamworker.__version__}\n" in metadata
        assert "License-Expression: Apache-2.0\n" in metadata
        assert sorted(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)) == ["asyncpg", "msgspec", "redis", "uvloop"]


class TestFiles:
    @pytest.mark.parametrize("script", scripts())
    def test_a_script_is_short_and_says_what_it_does(self, script: str) -> None:
        lines = (ROOT / script).read_text(encoding="utf-8").splitlines()
        assert lines[0] in ("#!/usr/bin/env bash", "#!/bin/sh")
        assert lines[1].startswith("# ")
        assert len(lines) <= 30
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True)

    def test_scripts_and_nothing_else_are_executable(self) -> None:
        assert {"scripts/setup", "scripts/demo", "scripts/test", "scripts/check", ".ci/run"} <= set(scripts())
        assert [name for name in project_files() if os.access(ROOT / name, os.X_OK)] == scripts()

    def test_no_file_names_a_machine_or_a_registry(self) -> None:
        # Character classes, so that this file does not hold what it looks for.
        forbidden = re.compile(
            rb"py[p]i\.|python[h]osted|npm[j]s\.|deb\.[d]ebian\.|(extra-)?index[-]url [\w'\"]|find[-]links"
            rb"|(?<![\w./}])/(wor[k]|roo[t]|opt/py[p]i|home/[a-z]+|User[s])/"
        )
        hits = [f"{name}: {match[0].decode()}" for name in project_files() for match in forbidden.finditer((ROOT / name).read_bytes())]
        assert hits == []

    def test_the_changelog_begins_with_this_version(self) -> None:
        versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert versions[0] == streamworker.__version__

    def test_the_licence_is_the_whole_text(self) -> None:
        text = (ROOT / "LICENSE").read_text(encoding="utf-8")
        assert "Version 2.0, January 2004" in text
        assert "APPENDIX: How to apply the Apache License to your work." in text


class TestLocks:
    @pytest.fixture(params=LOCKS)
    def requirements(self, request: pytest.FixtureRequest) -> list[str]:
        joined = (ROOT / request.param).read_text(encoding="utf-8").replace("\\\n", "")
        return [line for line in joined.splitlines() if not line.startswith("#")]

    def test_every_requirement_is_pinned_and_hashed(self, requirements: list[str]) -> None:
        assert [line for line in requirements if not re.fullmatch(r"[\w.-]+==[^\s;]+( ;[^-]*)?( +--hash=sha256:[0-9a-f]{64})+", line)] == []

    def test_nothing_brings_a_gpu_library(self, requirements: list[str]) -> None:
        assert [line for line in requirements if re.match(r"torch|nvidia|triton|tensorflow|onnxruntime-gpu", line)] == []

    def test_every_declared_requirement_is_in_the_lock(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = {
            re.split(r"[\s\[<>=!~;]", line)[0].lower()
            for group in [project["dependencies"], *project["optional-dependencies"].values()]
            for line in group
        }
        locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
        assert wanted - locked == {"streamworker"}

    def test_the_image_has_the_versions_that_are_tested(self) -> None:
        tested, shipped = (set(re.findall(r"^[\w.-]+==[^\s;]+", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS)
        assert shipped - tested == set()


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]


class TestContainers:
    def test_it_has_both_servers_a_migration_and_two_workers(self, services: dict[str, Any]) -> None:
        assert set(services) == {"valkey", "postgres", "migrate", "worker"}
        assert services["worker"]["deploy"]["replicas"] == 2
        assert services["worker"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"

    def test_a_stopped_worker_has_time_to_hand_over(self, services: dict[str, Any]) -> None:
        grace = parse_duration(services["worker"]["environment"]["STREAMWORKER_SHUTDOWN_TIMEOUT"])
        assert parse_duration(services["worker"]["stop_grace_period"]) > grace

    def test_what_runs_on_is_watched_and_its_data_kept(self, services: dict[str, Any]) -> None:
        volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["volumes"]
        assert all("healthcheck" in services[name] for name in ("valkey", "postgres", "worker"))
        assert {services[name]["volumes"][0].split(":")[0] for name in ("valkey", "postgres")} <= set(volumes)

    def test_nothing_is_published_to_the_network(self, services: dict[str, Any]) -> None:
        published = [port for service in services.values() for port in service.get("ports", [])]
        assert [port for port in published if not str(port).startswith("127.0.0.1:")] == []

    def test_every_variable_of_ours_exists(self, services: dict[str, Any]) -> None:
        known = {option.variable for option in (*OPTIONS, *BUILT_IN_OPTIONS)}
        assert set(services["worker"]["environment"]) | set(services["migrate"]["environment"]) <= known

    def test_the_image_is_built_from_hashes_and_runs_without_rights(self) -> None:
        dockerfile = (ROOT / "scripts" / "Dockerfile").read_text(encoding="utf-8")
        assert "--require-hashes -r image.lock" in dockerfile
        assert re.search(r"^USER (?!root)\w+$", dockerfile, re.MULTILINE)
        copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
        sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
        assert copied == sent
        assert [name for name in copied if not (ROOT / name).exists()] == []


class TestReadme:
    @pytest.mark.parametrize("snippet", blocks("python"))
    def test_python_compiles(self, snippet: str) -> None:
        compile(snippet, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    @pytest.mark.parametrize("snippet", blocks("python"))
    def test_python_imports_what_is_public(self, snippet: str) -> None:
        nodes = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.ImportFrom) and node.module == "streamworker"]
        assert {name.name for node in nodes for name in node.names} <= set(streamworker.__all__)

    @pytest.mark.parametrize("snippet", blocks("sh", "bash", "shell"))
    def test_shell_parses(self, snippet: str) -> None:
        subprocess.run(["bash", "-n"], input=snippet, text=True, check=True)

    @pytest.mark.parametrize("snippet", blocks("json"))
    def test_json_parses(self, snippet: str) -> None:
        json.loads(snippet)

    def test_the_table_of_settings_is_that_of_the_program(self) -> None:
        rows = {name: default.strip("`") for name, default in re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", README, re.MULTILINE)}
        assert rows == {option.variable: option.default or "–" for option in (*OPTIONS, *BUILT_IN_OPTIONS) if option.name not in NOT_YET}

    def test_the_message_is_one_that_a_worker_takes(self) -> None:
        (command,) = [line for line in "".join(blocks("sh")).splitlines() if line.startswith("redis-cli XADD")]
        words = shlex.split(command.replace("$(uuidgen)", str(uuid4())))[4:]
        job = decode_job([(name.encode(), value.encode()) for name, value in zip(words[::2], words[1::2], strict=True)], 1 << 20)
        assert job.item_count == 2

    def test_the_event_is_one_that_a_reader_takes(self) -> None:
        (event,) = blocks("json")
        assert json.loads(encode_event(decode_event(event.encode()))) == json.loads(event)

    def test_every_command_exists(self) -> None:
        named = set(
            re.findall(r"streamworker (run|submit|list|status|watch|cancel|retry|search|dead|migrate|doctor|new|demo|gateway)\b", README)
        )
        shown = subprocess.run(
            [sys.executable, "-m", "streamworker", "--help"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        assert named
        assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", shown)] == []

    def test_every_link_leads_somewhere(self) -> None:
        targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
        assert [target for target in targets if not (ROOT / target).exists()] == []
