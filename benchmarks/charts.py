"""Draws figures as SVG charts: the same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

from benchmarks.figures import Figure, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["CHARTS", "DIRECTORY", "Chart", "draw"]

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "charts"
COLOURS = {"SQLite": "#0f80cc", "PostgreSQL": "#31588a", "MariaDB": "#c0765a", "": "#777777"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "durable_sync",
    # Text stays text: small files, and found by a search.
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
}
_RAW_COLOURS = ("#bbbbbb", "#888888", "#555555")

ByDatabase: TypeAlias = Mapping[str, Sequence[Figure]]


@frozen
class Chart:
    """How the figures of one part are drawn."""

    title: str
    paint: Callable[[Canvas, ByDatabase], None]
    height: float = 3.2
    """Inches; the width is always the same."""


def draw(measured: Sequence[Measured], directory: Path = DIRECTORY) -> None:
    """Writes a chart for each part that has one and was measured, and one of all bars."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, chart in CHARTS.items():
        figures: ByDatabase = {one.database: one.figures for one in measured if one.part == name}
        if name == "bars":
            figures = _all_of(measured)
        if figures:
            _save(chart, figures, directory / f"{name}.svg")


def _all_of(measured: Sequence[Measured]) -> dict[str, list[Figure]]:
    together: dict[str, list[Figure]] = {}
    for one in measured:
        together.setdefault(one.database, []).extend(figure for figure in one.figures if figure.bar is not None)
    return together


def _save(chart: Chart, figures: ByDatabase, path: Path) -> None:
    # Not before there is something to draw: it doubles what Python's garbage collector has to look through, and the
    # figures are taken in this process.
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(9, chart.height), layout="constrained")
        chart.paint(canvas, figures)
        canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Lines end without the blanks that matplotlib leaves.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


# --- the charts -------------------------------------------------------------------------------------


def _throughput(canvas: Canvas, figures: ByDatabase) -> None:
    works = [figure.work for figure in next(iter(figures.values()))]
    for place, (axes, work) in enumerate(zip(canvas.subplots(1, len(works), sharey=True), works, strict=True)):
        _beside_limits(axes, {name: _of(found, work) for name, found in figures.items()})
        axes.set_title(work.replace(", ", ",\n", 1), fontsize=9)
        if place == 0:
            axes.set_ylabel("a second")
            canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)


def _beside_limits(axes: Axes, figures: Mapping[str, Figure]) -> None:
    """One group of bars a database: ours, then what it is held against."""
    limits = sorted({name for figure in figures.values() for name in figure.limits if "raw" in name})
    width = 0.8 / (1 + len(limits))
    for place, (database, figure) in enumerate(figures.items()):
        axes.bar(place - 0.4 + width / 2, figure.value, width, color=COLOURS[database])
        for number, name in enumerate(limits):
            label = name if place == 0 else None
            left = place - 0.4 + width * (number + 1.5)
            axes.bar(left, figure.limits[name], width, color=_RAW_COLOURS[number], label=label)
    axes.set_xticks(range(len(figures)), list(figures), fontsize=8)
    axes.set_yscale("log")


def _roundtrip(canvas: Canvas, figures: ByDatabase) -> None:
    percentiles = ("p50", "p99", "p99.9")
    for axes, where in zip(canvas.subplots(1, 2, sharey=True), ("in one process", "across two processes"), strict=True):
        for place, (database, found) in enumerate(figures.items()):
            for number, name in enumerate(percentiles):
                figure = _of(found, f"{where}, {name}")
                left = place + (number - 1) * 0.27
                axes.bar(left, figure.value, 0.24, color=COLOURS[database], alpha=1 - 0.3 * number)
                (commits,) = figure.limits.values()
                axes.hlines(commits, left - 0.12, left + 0.12, color="black")
        axes.set_xticks(range(len(figures)), list(figures))
        axes.set_yscale("log")
        axes.set_title(f"{where}: {', '.join(percentiles)}; lines: three bare commits", fontsize=9)
        axes.set_ylabel("ms")


def _finished(canvas: Canvas, figures: ByDatabase) -> None:
    _relative(canvas, figures, "of the empty table's rate")


def _backlog(canvas: Canvas, figures: ByDatabase) -> None:
    _relative(canvas, figures, "of the rate without them")


def _relative(canvas: Canvas, figures: ByDatabase, label: str) -> None:
    """Ratios side by side, with their bars as lines."""
    axes = canvas.subplots()
    works = [figure.work for figure in next(iter(figures.values()))]
    width = 0.8 / len(figures)
    for number, (database, found) in enumerate(figures.items()):
        heights = [_of(found, work).ratio or 0.0 for work in works]
        lefts = [place - 0.4 + width * (number + 0.5) for place in range(len(works))]
        axes.bar(lefts, heights, width * 0.9, color=COLOURS[database], label=database)
    for place, figure in enumerate(next(iter(figures.values()))):
        if figure.bar is not None:
            axes.hlines(figure.bar.limit, place - 0.45, place + 0.45, color="black", linewidth=1)
    axes.set_xticks(range(len(works)), works, fontsize=8)
    axes.set_ylabel(label)
    axes.legend(loc="lower right", fontsize=8)


def _processes(canvas: Canvas, figures: ByDatabase) -> None:
    axes = canvas.subplots()
    for database, found in figures.items():
        counts = [2**place for place in range(len(found))]
        axes.plot(counts, [figure.value for figure in found], "o-", color=COLOURS[database], label=database)
    axes.set_xticks([1, 2, 4])
    axes.set_xlabel("processes of 8 workers")
    axes.set_ylabel("tasks a second, in all")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _memory(canvas: Canvas, figures: ByDatabase) -> None:
    axes = canvas.subplots()
    for database, found in figures.items():
        for figure in found:
            if figure.points:
                tasks, megabytes = zip(*figure.points, strict=True)
                axes.plot(tasks, megabytes, color=COLOURS[database], label=database)
    axes.set_xlabel("tasks run")
    axes.set_ylabel("MB over the idle process")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _bars(canvas: Canvas, figures: ByDatabase) -> None:
    """How far each figure is from its bar, as a factor: right of the line it holds."""
    axes = canvas.subplots()
    works = list(dict.fromkeys(figure.work for found in figures.values() for figure in found))
    for number, (database, found) in enumerate(figures.items()):
        points = [(_margin(figure), works.index(figure.work) + 0.15 * (number - 1)) for figure in found]
        if points:
            across, down = zip(*points, strict=True)
            axes.scatter(across, down, s=22, color=COLOURS[database], label=database or "any")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "the bar", "2", "4"])
    axes.minorticks_off()
    axes.set_yticks(range(len(works)), works, fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=8)


def _margin(figure: Figure) -> float:
    assert figure.bar is not None
    judged = figure.judged
    assert judged is not None
    # What is beyond the edge is shown on it.
    return min(max(figure.bar.margin(max(judged, 1e-9)), 0.2), 5.0)


def _of(figures: Sequence[Figure], work: str) -> Figure:
    return next(figure for figure in figures if figure.work == work)


CHARTS = {
    "bars": Chart("How far each figure is from its bar; right of the line it holds", _bars, height=6.5),
    "throughput": Chart("Throughput beside the raw programs, tasks a second", _throughput),
    "roundtrip": Chart("Round trips beside three bare commits", _roundtrip),
    "backlog": Chart("The rate behind a backlog of others, as a part of the rate without it", _backlog),
    "finished": Chart("The rate beside finished rows, as a part of an empty table's", _finished),
    "processes": Chart("The rate of several processes on one database", _processes),
    "memory": Chart("Memory over the tasks that a process has run", _memory),
}
"""By part; `bars` is of all of them."""
