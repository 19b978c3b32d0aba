"""scripts/bench: measures what is chosen, round by round, and prints one table with the goals beside the figures.

scripts/bench                                   everything, 5 rounds (about an hour)
scripts/bench a c --rounds 5 --json out.json    two sections
scripts/bench --quick                           small counts, one round: does it all run?
scripts/bench d g --json out.json --plot d.svg    and draws (d) and (g); `--plot d.svg --from out.json` draws what was measured before

In a round everything is measured once, in an order drawn by chance; a ratio is always that of two figures of the same round.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import machine, table
from tests.bench.environments import python_of
from tests.bench.figures import QUICK, Results, Section, Sizes
from tests.bench.sections import sections
from tests.bench.spawned import ROOT
from tests.bench.world import Refused, World


class Bench:
    """Some sections in one world, for so many rounds."""

    def __init__(self, chosen: Sequence[Section], sizes: Sizes, rounds: int, seed: int, peers: bool = True) -> None:
        self.results = [Results(section) for section in chosen]
        self.machine: dict[str, Any] = {}
        self.failures = 0
        self._terms = {"sizes": asdict(sizes), "rounds": rounds, "seed": seed}
        self._sizes = sizes
        self._rounds = rounds
        self._chance = random.Random(seed)
        self._peers = peers

    def run(self) -> None:
        """Measure; what was measured before something ended it is kept."""
        with World(self._peers) as world:
            self.machine = machine.describe(world)
            for number in range(1, self._rounds + 1):
                for results in self.results:
                    say(f"round {number} of {self._rounds}: ({results.section.letter}) {results.section.title}")
                    results.add_round(self._round(world, results))

    def _round(self, world: World, results: Results) -> dict[str, float]:
        figures: dict[str, float] = {}
        names = [name for name in results.section.measures if name not in results.not_run]
        self._chance.shuffle(names)
        for name in names:
            started = time.monotonic()
            try:
                found = results.section.measures[name](world, self._sizes)
            except Refused as reason:
                results.not_run[name] = str(reason)
            except Exception as error:
                self.failures += 1
                traceback.print_exc()
                results.not_run[name] = f"{type(error).__name__}: {error}"
            else:
                figures.update(found)
                told = ", ".join(f"{key} {table.number(value)}" for key, value in found.items())
                say(f"  {told}  ({time.monotonic() - started:.1f} s)")
        return figures

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured, and on what."""
        return {
            "machine": self.machine,
            **self._terms,
            "sections": {results.section.letter: results.as_json() for results in self.results if results.values},
        }


def say(text: str) -> None:
    """Tell how far it is; the table alone goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def draw(measured: Path, picture: Path) -> None:
    """Draw (d) and (g), in the environment that has matplotlib."""
    subprocess.run([python_of("plot"), "-m", "tests.bench.plot", str(measured.resolve()), str(picture.resolve())], cwd=ROOT, check=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    letters = [section.letter for section in sections(Sizes())]
    parser.add_argument("letters", nargs="*", metavar="LETTER", help=f"sections, of {' '.join(letters)} (all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="small counts: the figures mean nothing")
    parser.add_argument("--largest", type=int, metavar="ITEMS", help="leave larger batches out of (d)")
    parser.add_argument("--no-peers", action="store_true", help="leave out what needs .venv-bench and, to make it, the network")
    parser.add_argument("--seed", type=int, default=1, help="of the order within a round (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to a file")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw (d) and (g)")
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE", help="with --plot: measure nothing, draw what --json wrote")
    given = parser.parse_args(arguments)
    if unknown := set(given.letters) - set(letters):
        parser.error(f"{' '.join(sorted(unknown))}: expected some of {' '.join(letters)}")
    if given.source and not given.plot:
        parser.error("--from goes with --plot")
    if given.plot and not (given.json or given.source):
        parser.error("--plot goes with --json or --from")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything was measured, whatever the figures; 1 when something failed."""
    given = parse(arguments)
    if given.source:
        draw(given.source, given.plot)
        return 0
    sizes = QUICK if given.quick else Sizes()
    if given.largest:
        sizes.scale = tuple(size for size in sizes.scale if size <= given.largest)
    chosen = [section for section in sections(sizes) if not given.letters or section.letter in given.letters]
    bench = Bench(chosen, sizes, given.rounds or (1 if given.quick else 5), given.seed, not given.no_peers)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    try:
        bench.run()
    finally:
        report(bench, given.json)
    if given.plot:
        draw(given.json, given.plot)
    return 1 if bench.failures else 0


def leave(number: int, _: object) -> None:
    """End in good order: processes and servers first, the table of the rounds that are complete last. Once is enough."""
    for further in (signal.SIGINT, signal.SIGTERM):
        signal.signal(further, signal.SIG_IGN)
    raise SystemExit(128 + number)


def report(bench: Bench, path: Path | None) -> None:
    """The table, and the file."""
    for line in table.lines([results for results in bench.results if results.values]):
        print(line)
    if bench.machine:
        here = bench.machine
        print(f"\n{here['date']}, {here['cores']} x {here['processor']}, write to disk {here['sync_ms']} ms, commit {here['commit']}")
    if path:
        path.write_text(json.dumps(bench.as_json(), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
