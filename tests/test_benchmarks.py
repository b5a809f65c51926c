"""The benchmark runs, keeps what it measured, and shows it. What it measures is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import charts, report
from benchmarks.figures import Figure, Measured, Run, at_least, at_most, load, merged, save
from benchmarks.mixed import Attempt, longest_wait_beside_an_idle_worker
from benchmarks.parts import PARTS

ROOT = Path(__file__).parent.parent
RUN = Run(date="1 May 2026", machine="a machine", versions={"Python": "3.11"}, rounds=1, is_quick=True)
WORKERS = [(process, thread) for process in (1, 2) for thread in range(4)]


def test_a_quick_run_leaves_figures_charts_and_tables(tmp_path: Path) -> None:
    """`--quick --output` measures, says whether the bars hold, and writes all that a full run would."""
    options = ["--quick", "--rounds", "1", "--databases", "SQLite", "--only", "roundtrip", "--output", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert "of 2 bars hold" in run.stdout, run.stderr
    assert run.returncode == int("MISSED" in run.stdout)
    (measured,) = load(tmp_path / "figures.json")
    assert (measured.part, measured.database, len(measured.figures)) == ("roundtrip", "SQLite", 6)
    assert all(figure.value > 0 for figure in measured.figures)
    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "| in one process, p50 | SQLite |" in page
    assert "(charts/roundtrip.svg)" in page
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {"bars.svg", "roundtrip.svg"}


def test_the_same_figures_give_the_same_charts(tmp_path: Path) -> None:
    """A chart changes only when its figures do, so that a repository doesn't fill with noise."""
    figures = [
        Figure(part="processes", work=f"{count} processes", value=count * 100.0, unit="/s", bar=at_most(1), ratio=0.5)
        for count in (1, 2, 4)
    ]
    measured = [Measured(part="processes", database="SQLite", run=RUN, seconds=1.0, figures=figures)]
    for directory in ("one", "other"):
        charts.draw(measured, tmp_path / directory)
    drawn = [(tmp_path / directory / "processes.svg").read_bytes() for directory in ("one", "other")]
    assert drawn[0] == drawn[1]


def test_a_bar_is_missed_on_its_wrong_side() -> None:
    """A floor holds from its limit on upwards and a ceiling downwards, of the ratio or of the value."""

    def figure(value: float, ratio: float, bar: object) -> Figure:
        return Figure(part="p", work="w", value=value, unit="ms", ratio=ratio, bar=bar)  # type: ignore[arg-type]

    assert [figure(9, ratio, at_least(0.6)).holds for ratio in (0.59, 0.6, 0.61)] == [False, True, True]
    assert [figure(9, ratio, at_most(1.3)).holds for ratio in (1.29, 1.3, 1.31)] == [True, True, False]
    assert [figure(value, 0.1, at_most(5, of_value=True)).holds for value in (4, 6)] == [True, False]


def test_a_later_run_replaces_only_what_it_measured() -> None:
    """Figures of other parts and databases stay."""

    def measured(part: str, database: str, seconds: float) -> Measured:
        return Measured(part=part, database=database, run=RUN, seconds=seconds, figures=[])

    kept = merged([measured("a", "x", 1), measured("a", "y", 1), measured("b", "x", 1)], [measured("a", "x", 2)])
    assert [(one.part, one.database, one.seconds) for one in kept] == [("a", "x", 2), ("a", "y", 1), ("b", "x", 1)]


def test_the_page_has_a_place_for_each_part(tmp_path: Path) -> None:
    """No figures are measured that the page can't show; without figures it says so."""
    report.write([], tmp_path / "page.md", tmp_path / "charts")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert [name for name in PARTS if f"<!-- figures of {name}: begin -->\nNot measured yet.\n" not in page] == []


@pytest.mark.parametrize(
    ("attempts", "longest"),
    [
        # The second worker's only task is ready at 1 and starts at 4: it waits 3 s beside idle ones.
        ([(1, 1, 0, 0, 5), (1, 2, 1, 4, 5)], 3.0),
        # All eight are busy while the ninth task waits.
        ([*((process, thread, 0, 0, 5) for process, thread in WORKERS), (1, 0, 1, 5, 6)], 0.0),
        # The same, but one worker of the other process is free from 2 on.
        (
            [
                *(
                    (process, thread, 0, 0, 5)
                    for process in (1, 2)
                    for thread in range(4)
                    if (process, thread) != (2, 3)
                ),
                (2, 3, 0, 0, 2),
                (1, 0, 1, 5, 6),
            ],
            3.0,
        ),
    ],
)
def test_a_task_that_waits_beside_an_idle_worker_is_found(
    attempts: list[tuple[float, float, float, float, float]], longest: float
) -> None:
    """The longest time is that of one task and one worker, in whatever process the worker is."""
    assert longest_wait_beside_an_idle_worker([Attempt(*one) for one in attempts]) == longest


def test_what_the_disk_took_is_no_wait_of_ours() -> None:
    """Of a wait, what lies within a stall is left out, and only that."""
    attempts = [Attempt(1, 1, 0, 0, 5), Attempt(1, 2, 1, 4, 5)]
    stalls = [(0.0, 1.5), (3.0, 3.25), (3.5, 9.0), (20.0, 21.0)]
    assert longest_wait_beside_an_idle_worker(attempts, stalls) == 1.75


def test_figures_survive_being_kept(tmp_path: Path) -> None:
    """What is read back is what was saved."""
    figure = Figure(part="memory", work="w", value=1.5, unit="MB", limits={"raw": 2.0}, points=[(0, 1.0), (5, 2.0)])
    measured = [Measured(part="memory", database="SQLite", run=RUN, seconds=1.0, figures=[figure])]
    path = tmp_path / "figures.json"
    save(measured, path)
    (read,) = load(path)
    assert json.loads(path.read_text())[0]["figures"][0]["points"] == [[0, 1.0], [5, 2.0]]
    assert read.figures[0].limits == {"raw": 2.0}
    assert [tuple(point) for point in read.figures[0].points] == [(0, 1.0), (5, 2.0)]
