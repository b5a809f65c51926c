"""Writes figures as text: one line each while they are measured, then the tables of docs/performance.md.

`python -m benchmarks.report` draws the charts and writes the page anew from what is kept.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import charts
from benchmarks.databases import NAMES
from benchmarks.figures import Bar, Figure, Measured, Run, load
from benchmarks.parts import PARTS

__all__ = ["PAGE", "line", "main", "write"]

PAGE = charts.DIRECTORY.parent / "performance.md"
_BLOCK = re.compile(r"(<!-- figures of (\w+): begin -->\n).*?(<!-- figures of \2: end -->)", re.DOTALL)
_NOTHING = "Not measured yet.\n"


def main() -> int:
    """Draws and writes."""
    kept = load()
    charts.draw(kept)
    write(kept)
    return 0


def write(measured: Sequence[Measured], page: Path = PAGE, drawn: Path = charts.DIRECTORY) -> None:
    """Fills the blocks of docs/performance.md, and writes the result to `page`."""
    text = PAGE.read_text(encoding="utf-8")
    missing = PARTS.keys() - {match[2] for match in _BLOCK.finditer(text)}
    if missing:
        raise ValueError(f"{PAGE.name} has no place for the figures of {', '.join(sorted(missing))}")
    chart_at = Path(os.path.relpath(drawn, page.parent))

    def block(match: re.Match[str]) -> str:
        return match[1] + "\n".join(_contents(match[2], measured, drawn, chart_at)) + match[3]

    page.write_text(_BLOCK.sub(block, text), encoding="utf-8")


def _contents(name: str, measured: Sequence[Measured], drawn: Path, chart_at: Path) -> Iterator[str]:
    """What belongs into the block of this name: of the runs, of all bars, or of a part."""
    rows = [one for one in measured if one.part == name]
    lines = {"runs": _runs, "bars": _bars}.get(name)
    table = "".join(f"{row}\n" for row in (_table(rows) if lines is None else lines(measured)))
    yield table or _NOTHING
    chart = f"{name}.svg"
    if (drawn / chart).exists():
        yield f"![{charts.CHARTS[name].title}]({(chart_at / chart).as_posix()})\n"


def _runs(measured: Sequence[Measured]) -> Iterator[str]:
    """What was measured when, where and with what."""
    runs: list[tuple[Run, list[Measured]]] = []
    for one in measured:
        found = next((members for run, members in runs if run == one.run), None)
        if found is None:
            runs.append((one.run, [one]))
        else:
            found.append(one)
    for run, members in runs:
        which = "all parts" if {one.part for one in members} == set(PARTS) else ", ".join(_parts_of(members))
        form = ", in the short form" if run.is_quick else ""
        versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
        yield f"- {run.date}{form}, medians of {run.rounds} rounds: {which}. {run.machine}. {versions}."


def _bars(measured: Sequence[Measured]) -> Iterator[str]:
    """How many hold."""
    barred = [figure for one in measured for figure in one.figures if figure.bar is not None]
    if barred:
        yield f"{sum(figure.holds for figure in barred)} of {len(barred)} bars hold."


def _parts_of(members: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(one.part for one in members))


def _table(measured: Sequence[Measured]) -> Iterator[str]:
    """The figures of one part on all databases, as Markdown."""
    rows = [(one.database, figure) for one in measured for figure in one.figures]
    if not rows:
        return
    works = list(dict.fromkeys(figure.work for _, figure in rows))
    rows.sort(key=lambda row: (works.index(row[1].work), (*NAMES, "").index(row[0])))
    limits = list(dict.fromkeys(name for _, figure in rows for name in figure.limits))
    names = ["work", "database", "durable_sync", *limits, "ratio", "bar", "holds"]
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * len(names)}"
    for database, figure in rows:
        beside = [shown(figure.limits[name], figure.unit) if name in figure.limits else "" for name in limits]
        value = shown(figure.value, figure.unit) + (f" ({figure.note})" if figure.note else "")
        yield f"| {' | '.join([figure.work, database, value, *beside, *_judgement(figure)])} |"


def _judgement(figure: Figure) -> list[str]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} of {figure.against}"
    if figure.bar is None:
        return [ratio, "", ""]
    return [ratio, _bar(figure.bar, figure.unit), "yes" if figure.holds else "**no**"]


def _bar(bar: Bar, unit: str) -> str:
    limit = shown(bar.limit, unit) if bar.is_of_value else f"{bar.limit:.2f}"
    return f"{'≥' if bar.is_floor else '≤'} {limit}"


def shown(value: float, unit: str) -> str:
    """A number of three digits or more, with its unit."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{'' if unit.startswith('/') else ' '}{unit}"


def line(figure: Figure) -> str:
    """One figure, for the terminal."""
    limits = "".join(f"; {name} {shown(value, figure.unit)}" for name, value in figure.limits.items())
    ratio, bar, holds = _judgement(figure)
    judged = f", bar {bar}: {'holds' if figure.holds else 'MISSED'}" if holds else ""
    note = f" ({figure.note})" if figure.note else ""
    value = shown(figure.value, figure.unit)
    return f"  {figure.work}: {value}{note}{limits}{ratio and ', ratio '}{ratio}{judged}"


if __name__ == "__main__":
    sys.exit(main())
