"""Applies each seeded bug to a copy of the tree and runs the tests that have to notice it.

Usage: python -m tests.mutants.run [NAME…]. Exit code 1 if one survives, or does not fit the code any more.
"""

from __future__ import annotations

import glob
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 300


def copy_tree(target: Path) -> None:
    """Copy what git knows, and what is new and not ignored."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def tests_of(mutant: Mutant, tree: Path) -> list[str]:
    """The test files that exist."""
    found = [name for pattern in mutant.tests for name in sorted(glob.glob(pattern, root_dir=tree))]
    if not found:
        raise SystemExit(f"mutant {mutant.name!r}: none of {', '.join(mutant.tests)} exists")
    return found


def run_tests(tree: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run them on the copy: the current folder comes first on the path, for the workers they start too."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=LONGEST)


def is_caught(mutant: Mutant) -> bool:
    """Whether a test fails with the bug in place; tells how it went."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        text = (tree / mutant.file).read_text()
        if text.count(mutant.before) != 1:
            print(f"DOES NOT FIT  {mutant.name}: {mutant.file} has its text {text.count(mutant.before)} times")
            return False
        (tree / mutant.file).write_text(text.replace(mutant.before, mutant.after))
        began = time.monotonic()
        result = run_tests(tree, tests_of(mutant, tree))
    failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    caught = result.returncode == 1 and bool(failed)
    print(
        f"{'caught' if caught else 'SURVIVED':8}  {mutant.name}  ({time.monotonic() - began:.0f} s)  {failed[0][:150] if failed else ''}",
        flush=True,
    )
    if not caught:
        print(result.stdout[-2000:], result.stderr[-2000:], flush=True)
    return caught


def main() -> int:
    """Run all, or those named."""
    wanted = [mutant for mutant in MUTANTS if len(sys.argv) == 1 or mutant.name in sys.argv[1:]]
    caught = sum(is_caught(mutant) for mutant in wanted)
    print(f"mutants: {caught} of {len(wanted)} caught")
    return 0 if caught == len(wanted) and wanted else 1


if __name__ == "__main__":
    raise SystemExit(main())
