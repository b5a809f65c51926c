"""The command line: `python -m benchmarks`, which `python3 dev.py bench` runs.

Measures the parts one after another, prints each figure with its bar, and keeps them: in benchmarks/figures.json,
as charts in docs/charts, and in the tables of docs/performance.md. 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import charts, report
from benchmarks.databases import NAMES, Databases
from benchmarks.figures import FIGURES, Figure, Measured, Run, load, merged, save
from benchmarks.machine import machine, versions
from benchmarks.parts import PARTS
from benchmarks.setting import Part, Setting, say

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and keeps."""
    options = _parser().parse_args(arguments)
    measured: list[Measured] = []
    rounds: int = options.rounds or (2 if options.quick else 5)
    with Databases(options.databases) as databases:
        run = Run(
            date=f"{datetime.now(UTC):%d %B %Y}",
            machine=machine(),
            versions=versions(databases),
            rounds=rounds,
            is_quick=options.quick,
        )
        say(f"{run.machine}; {', '.join(f'{name} {number}' for name, number in run.versions.items())}")
        for name in sorted(set(options.databases) - set(databases.names)):
            say(f"NO {name.upper()} SERVER: nothing is measured on it")
        for part in _chosen(options.only, options.quick):
            for name in databases.names if part.uses_database else [""]:
                measured.append(_measured(part, name, databases, run))
                _keep(measured, options.output, is_quick=options.quick)
    _show(options.output, is_quick=options.quick)
    return _verdict(measured)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    durations = "\n".join(f"  {part.name:12}{part.title}: {part.duration}" for part in PARTS.values())
    parser.epilog = f"the parts, and how long one takes on one database at its full size:\n{durations}"
    parser.add_argument("--only", type=_names(PARTS), metavar="PART[,PART]", help="these parts; all by default")
    parser.add_argument("--databases", type=_names(NAMES), default=list(NAMES), metavar="NAME[,NAME]")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look; kept only if --output is given")
    parser.add_argument("--rounds", type=int, help="5 by default, 2 if quick")
    parser.add_argument("--output", type=Path, help="a directory for figures, charts and page instead of the usual")
    return parser


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    """Reads names from one argument."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        strangers = [name for name in names if name not in known]
        if strangers:
            raise argparse.ArgumentTypeError(f"{', '.join(strangers)}: not among {', '.join(known)}")
        return names

    return read


def _chosen(only: Sequence[str] | None, quick: bool) -> list[Part]:
    if only is not None:
        return [PARTS[name] for name in PARTS if name in only]
    return [part for part in PARTS.values() if part.is_quick_too or not quick]


def _measured(part: Part, database: str, databases: Databases, run: Run) -> Measured:
    say(f"\n== {part.title}{database and ', '}{database}" + ("" if run.is_quick else f": about {part.duration}"))
    began = time.perf_counter()
    figures: list[Figure] = []
    for figure in _figures(part, database, databases, run):
        say(report.line(figure))
        figures.append(figure)
    return Measured(part=part.name, database=database, run=run, seconds=time.perf_counter() - began, figures=figures)


def _figures(part: Part, database: str, databases: Databases, run: Run) -> Iterator[Figure]:
    if not part.uses_database:
        yield from part.measure(Setting("", "", run.rounds, run.is_quick))
        return
    with databases.fresh(database) as url:
        yield from part.measure(Setting(database, url, run.rounds, run.is_quick))


def _keep(measured: Sequence[Measured], output: Path | None, *, is_quick: bool) -> None:
    """After each part, so that a long run that is cut short was not for nothing."""
    if output is not None:
        save(measured, output / FIGURES.name)
    elif not is_quick:
        save(merged(load(), measured))


def _show(output: Path | None, *, is_quick: bool) -> None:
    """Draws and writes what is kept; of other parts and databases that is what an earlier run has kept."""
    if output is not None:
        kept = load(output / FIGURES.name)
        charts.draw(kept, output / "charts")
        report.write(kept, output / report.PAGE.name, output / "charts")
    elif not is_quick:
        report.main()


def _verdict(measured: Sequence[Measured]) -> int:
    """Says which bars were missed; 1 if any was."""
    barred = [(one, figure) for one in measured for figure in one.figures if figure.bar is not None]
    missed = [(one, figure) for one, figure in barred if not figure.holds]
    say(f"\n{len(barred) - len(missed)} of {len(barred)} bars hold")
    for one, figure in missed:
        say(f"missed, {one.database or 'any database'}:{report.line(figure)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
