"""A long life: what a process holds does not grow."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.conftest import do_without
from tests.crashes.processes import Workers
from tests.faults.figures import database_of, note, size
from tests.faults.holdings import IS_KNOWN
from tests.faults.laboratory import Laboratory
from tests.faults.soak import HOURS, STEPS_A_LEASE


@pytest.fixture(autouse=True)
def _holdings() -> None:
    if not IS_KNOWN:
        do_without("what a process has open: this system doesn't tell")


CYCLES = size(full=200, short=16)
WINDOW = 4
"""Looks whose least counts: one may meet a connection that is just being opened, and what leaks is in all of them."""
GROWTH = {
    "threads": size(full=1, short=2),
    "descriptors": size(full=3, short=7),
    "sockets": size(full=3, short=4),
    "connections": size(full=3, short=4),
    "rss": size(full=4, short=12) * 2**20,
    "objects": size(full=2_000, short=4_000),
}
"""How much more is still no growth. Pools and caches fill in the first minutes, which is all of a short form."""


def test_growth_is_what_goes_on() -> None:
    """A leak of a little each time is told from what was built once, late."""
    leak = [{"objects": 30 * number, "sockets": number // 20} for number in range(200)]
    late = [{"objects": 3_000 * (number > 160), "sockets": 1} for number in range(200)]
    assert growth(leak) == {"objects": pytest.approx(3_000, abs=100), "sockets": 5}
    assert growth(late) == {"objects": 0, "sockets": 0}


@pytest.mark.timeout(size(full=1200, short=180))
def test_drops(database_url: str, tmp_path: Path) -> None:
    """However often all connections are dropped, work goes on, and no thread, file or memory is left behind."""
    figures = tmp_path / "figures.jsonl"
    with (
        Laboratory(database_url, tmp_path) as laboratory,
        Workers(database_url, tmp_path, "tests.faults.soak") as workers,
    ):
        worker = workers.start("--figures", str(figures), "--drops", str(CYCLES))
        code = worker.wait(size(full=1100, short=150))
        told = laboratory.account().history.told
        problems = laboratory.problems(enqueued=told["enqueued"])
    held = read(figures)
    assert (code, len(held)) == (0, CYCLES), worker.log
    grown = growth(held)
    note("soak_drops", database_of(database_url), cycles=len(held), **described(grown), problems=len(problems))
    assert problems == []
    assert {name: more for name, more in grown.items() if more > GROWTH[name]} == {}


@pytest.mark.timeout(600)
def test_a_day(sqlite_url: str, tmp_path: Path) -> None:
    """In a day, compressed, leases are renewed, all starts at its time, nothing grows; who falls silent is reaped."""
    lease = size(full=60.0, short=1800.0)
    figures = tmp_path / "figures.jsonl"
    with Workers(sqlite_url, tmp_path, "tests.faults.soak") as workers:
        worker = workers.start("--figures", str(figures), "--lease", str(lease))
        code = worker.wait(500)
    assert code == 0, worker.log
    held = read(figures)
    deaths = [line.pop("dead") for line in held]
    late = lateness(sqlite_url)
    grown = growth(held[:-1])
    note(
        "soak_day",
        "SQLite",
        hours=HOURS,
        leases=round(HOURS * 3600 / lease),
        latest_start=round(max(late), 1),
        **described(grown),
        dead=deaths[-2],
    )
    assert deaths == [0] * HOURS + [1]
    assert min(late) >= 0.0
    assert max(late) <= lease / STEPS_A_LEASE
    assert {name: more for name, more in grown.items() if more > GROWTH[name]} == {}


def read(figures: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in figures.read_text().splitlines()]


def growth(held: list[dict[str, Any]]) -> dict[str, float]:
    """By how much the end of a life is more than its middle.

    Of memory it is what the third part in between that grew least has: what leaks grows in every part, and what is
    built when it is first needed, a rare statement, grows in one.
    """
    marks = [round(len(held) * part) for part in (1 / 2, 2 / 3, 5 / 6, 1)]

    def more(name: str, before: int, after: int) -> float:
        return min(one[name] for one in held[after - WINDOW : after]) - min(
            one[name] for one in held[before - WINDOW : before]
        )

    return {
        name: 3 * min(more(name, *thirds) for thirds in pairwise(marks))
        if name in {"rss", "objects"}
        else more(name, marks[0], marks[-1])
        for name in held[0]
    }


def described(grown: dict[str, float]) -> dict[str, object]:
    return {f"more_{name}": f"{more / 2**20:.1f} MiB" if name == "rss" else round(more) for name, more in grown.items()}


def lateness(url: str) -> list[float]:
    """Seconds by which each execution was started, or timed out, after its time."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        query = text("SELECT ready_at, started_at, timer_at, recoveries, finished_at FROM durable_executions")
        rows = connection.execute(query).all()
    assert all(row.recoveries == 0 for row in rows)
    assert all(row.finished_at is not None for row in rows)
    return [(row.started_at - row.ready_at) / 1e6 for row in rows if row.started_at is not None]
