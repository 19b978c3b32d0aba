"""The house rules that a parser can see: who imports whom, where, and what things are called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "streamworker"
ROWS = (
    ("cli", "testing"),
    ("gateway", "client", "engine"),
    ("embedded", "broker", "store"),
    ("processors", "observe"),
    ("settings", "messages"),
    ("errors",),
)
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}
EXEMPT = {"__init__.py", "__main__.py"}
VAGUE = re.compile(r"(task|manager|handler|helper|util)s?", re.IGNORECASE)
# Where a distribution's import name is not its own name with underscores.
IMPORT_NAMES = {"pillow": "PIL", "opentelemetry-api": "opentelemetry", "opencv-python-headless": "cv2"}


@dataclass(frozen=True)
class Import:
    """One imported module: by which file, on which line, and whether inside a function."""

    file: Path
    module: str
    line: int
    source: str
    target: str
    in_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def modules(root: Path) -> dict[str, Path]:
    """The dotted name of each Python file below `root`/streamworker."""
    files = sorted((root / PACKAGE).rglob("*.py"))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(root: Path) -> list[Import]:
    """Each import of each file; those under TYPE_CHECKING and those by a literal `import_module` count too."""
    known = modules(root)
    return [found for module, file in known.items() for found in _imports_of(root, module, file, known)]


def _imports_of(root: Path, module: str, file: Path, known: dict[str, Path]) -> Iterator[Import]:
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for target in _targets(child, package, known):
                yield Import(file.relative_to(root), module, child.lineno, lines[child.lineno - 1], target, in_function)
            yield from walk(child, inside)

    yield from walk(ast.parse(text, str(file)), False)


def _targets(node: ast.AST, package: str, known: dict[str, Path]) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (name.name for name in names)
        case ast.ImportFrom(module=origin, names=names, level=level):
            parts = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*parts, *([origin] if origin else [])])
            yield from dict.fromkeys(f"{base}.{name.name}" if f"{base}.{name.name}" in known else base for name in names)
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]
        ):
            yield name


def part(module: str) -> str:
    """`store` of `streamworker.store.sql`; nothing of `streamworker` itself."""
    return module.split(".")[1] if "." in module else ""


def upward(root: Path) -> list[str]:
    """Imports of a row that is not below the file's own."""
    found = []
    for imported in imports(root):
        if imported.target.split(".")[0] != PACKAGE or imported.file.relative_to(PACKAGE).as_posix() in EXEMPT:
            continue
        own, other = part(imported.module), part(imported.target)
        # The root names everything that is public, so only the top row may ask it for anything.
        if own != other and ROW_OF[own] >= (ROW_OF.get(other, len(ROWS)) if other else 1):
            found.append(f"{imported}: {own} may import only from rows below its own")
    return found


def cycles(root: Path) -> list[str]:
    """Files that import each other in a circle, each circle once."""
    known = modules(root)
    edges: dict[str, set[str]] = {module: set() for module in known}
    for imported in imports(root):
        if imported.target in known:
            edges[imported.module].add(imported.target)
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" > ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(edges[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in known:
        visit(module, [])
    return found


def hidden(root: Path, extras: set[str]) -> list[str]:
    """Imports inside a function that are not of an optional extra, marked as such."""
    return [
        f"{imported}: inside a function only an optional extra, marked `# noqa: PLC0415`"
        for imported in imports(root)
        if imported.in_function and not (_is_of(imported.target, extras) and "# noqa: PLC0415" in imported.source)
    ]


def _is_of(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def vague_names(root: Path) -> list[str]:
    """Files, folders and classes named by a word that says nothing."""
    found = []
    for file in sorted((root / PACKAGE).rglob("*")):
        if "__pycache__" not in file.parts and any(VAGUE.fullmatch(word) for word in re.split(r"[_.]", file.stem)):
            found.append(f"{file.relative_to(root)}: this word is not used in names")
    for file in modules(root).values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(VAGUE.fullmatch(word) for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", node.name)):
                found.append(f"{file.relative_to(root)}:{node.lineno} class {node.name}: this word is not used in names")
    return found


def declared() -> tuple[set[str], set[str]]:
    """The import names of the core dependencies, and of the users' extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [
        [re.split(r"[\s\[<>=!~;]", line)[0] for line in group] for key, group in project["optional-dependencies"].items() if key != "dev"
    ]
    to_import = {name: IMPORT_NAMES.get(name, name.replace("-", "_")) for group in [*names, core_names(project)] for name in group}
    core = {to_import[name] for name in core_names(project)}
    return core, set(to_import.values()) - core - {PACKAGE}


def core_names(project: dict[str, list[str]]) -> list[str]:
    return [re.split(r"[\s\[<>=!~;]", line)[0] for line in project["dependencies"]]


def test_every_file_stands_on_a_row() -> None:
    homeless = [str(file.relative_to(ROOT)) for module, file in modules(ROOT).items() if part(module) not in {*ROW_OF, "", "__main__"}]
    assert homeless == []


def test_a_file_imports_only_from_rows_below_its_own() -> None:
    assert upward(ROOT) == []


def test_no_two_files_import_each_other() -> None:
    assert cycles(ROOT) == []


def test_imports_inside_functions_are_optional_extras() -> None:
    assert hidden(ROOT, declared()[1] | {f"{PACKAGE}.gateway"}) == []  # the gateway is an extra as a whole


def test_whatever_is_imported_is_declared() -> None:
    core, extras = declared()
    allowed = {PACKAGE, *sys.stdlib_module_names, *core, *extras}
    assert [str(imported) for imported in imports(ROOT) if imported.target.split(".")[0] not in allowed] == []


def test_the_core_stays_at_four_dependencies() -> None:
    assert declared()[0] == {"redis", "asyncpg", "msgspec", "uvloop"}


def test_no_name_is_vague() -> None:
    assert vague_names(ROOT) == []


def test_each_file_begins_by_saying_what_it_owns() -> None:
    starts = {".py": '"""', ".lua": "-- ", ".sql": "-- "}
    # A file of queries/ is one statement, and its name says what it does.
    files = [file for file in sorted((ROOT / PACKAGE).rglob("*")) if file.suffix in starts and file.parent.name != "queries"]
    assert [str(file.relative_to(ROOT)) for file in files if not file.read_text(encoding="utf-8").startswith(starts[file.suffix])] == []


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.cli", f"{PACKAGE}.engine.worker"])
def test_it_starts_without_any_extra(module: str) -> None:
    # A finder that knows no extra: what an install of the four core dependencies would see.
    block = f"""
import sys
class NoExtras:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(declared()[1])!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NoExtras())
import {module}
"""
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


class TestTheRulesThemselves:
    """Each rule sees what it forbids: small trees that break one rule each."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("", "store", "broker", "engine", "cli"):
            (tmp_path / PACKAGE / name).mkdir(exist_ok=True)
            (tmp_path / PACKAGE / name / "__init__.py").touch()
        (tmp_path / PACKAGE / "errors.py").touch()
        return tmp_path

    @pytest.mark.parametrize(
        ("file", "source"),
        [
            ("store/a.py", "from streamworker.engine import runner"),
            ("store/a.py", "import streamworker.broker"),
            ("store/a.py", "from ..broker import consumer"),
            ("store/a.py", "from streamworker import broker"),
            ("store/a.py", "from streamworker import Client"),
            ("engine/a.py", "from streamworker import cli"),
            ("errors.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from streamworker.store import a"),
            ("store/a.py", "import importlib\nimportlib.import_module('streamworker.engine')"),
        ],
    )
    def test_an_upward_or_sideward_import_is_seen(self, tree: Path, file: str, source: str) -> None:
        (tree / PACKAGE / file).write_text(source)
        assert len(upward(tree)) == 1

    @pytest.mark.parametrize(
        ("file", "source"),
        [
            ("store/a.py", "from streamworker.errors import StreamworkerError"),
            ("store/a.py", "from . import b\nfrom ..errors import x\nimport asyncpg"),
            ("cli/a.py", "from streamworker import __version__\nfrom streamworker.store.pool import open_pool"),
            ("__main__.py", "from streamworker.cli import main"),
        ],
    )
    def test_a_downward_import_is_fine(self, tree: Path, file: str, source: str) -> None:
        (tree / PACKAGE / file).write_text(source)
        assert upward(tree) == []

    def test_a_circle_is_seen(self, tree: Path) -> None:
        for own, other in (("a", "b"), ("b", "c"), ("c", "a")):
            (tree / PACKAGE / "store" / f"{own}.py").write_text(f"from streamworker.store.{other} import x")
        assert len(cycles(tree)) == 1

    @pytest.mark.parametrize(
        ("line", "complaints"),
        [
            ("import json  # noqa: PLC0415", 1),
            ("from streamworker import errors  # noqa: PLC0415", 1),
            ("import rich", 1),
            ("from rich.table import Table  # noqa: PLC0415", 0),
        ],
    )
    def test_an_import_in_a_function_is_seen(self, tree: Path, line: str, complaints: int) -> None:
        (tree / PACKAGE / "cli" / "a.py").write_text(f"class A:\n    async def f(self):\n        if self:\n            {line}")
        assert len(hidden(tree, {"rich"})) == complaints

    @pytest.mark.parametrize(
        ("file", "source"),
        [
            ("store/utils.py", ""),
            ("store/batch_helper.py", ""),
            ("store/a.py", "class BatchManager: ..."),
            ("store/a.py", "class Handler: ..."),
        ],
    )
    def test_a_vague_name_is_seen(self, tree: Path, file: str, source: str) -> None:
        (tree / PACKAGE / file).write_text(source)
        assert len(vague_names(tree)) == 1
