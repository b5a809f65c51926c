"""Writes the table of docs/reliability.md from the figures of the last full runs: `python -m tests.faults.report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

from tests.faults.figures import FIGURES

__all__ = ["ROWS", "main"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

ROWS = {
    "kills": (
        "4 processes, `kill -9` of one every second; 10,000 executions, trees, and what they enqueue themselves",
        "0 lost, 0 double outcomes; recovered in lease + 1 s (SQLite: + 4 s); the lease is 2 s",
    ),
    "suspensions": ("SIGSTOP beyond the lease of 1 s, SIGCONT, 100 times", "every stale outcome refused"),
    "servers_killed": (
        "the server killed (`kill -9`, immediate stop) and restarted every 15 s under load",
        "0 lost; every executor works again within 5 s of the server; no process restarted",
    ),
    "commits": (
        "dies before or after, or loses the answer of, each COMMIT of a scenario",
        "0 violations at every point",
    ),
    "harmed commits": (
        "connection cut, delayed, half-closed, reset on 20 % of COMMITs",
        "0 lost, 0 double outcomes; 5,000 executions",
    ),
    "black hole that acknowledges": (
        "a peer that acknowledges, and never answers",
        "noticed within the watchdog's limit + 2 s; nothing started past the lease",
    ),
    "black hole that drops": ("packets dropped", "the same"),
    "answer after the lease": (
        "the answer to a claim held back until its lease is over, and others have done the work",
        "started once, and not past the lease",
    ),
    "shutdown in a hole *": ("shutdown asked in one of those, the slowest of 8 situations", "within 5 s + its timeout"),
    "locks of the vanished": ("a client that vanishes inside a transaction", "its locks are freed (in 5 to 15 s)"),
    "a user's engine at REPEATABLE READ": (
        "a user's engine at REPEATABLE READ, a pool of 2 connections, 16 threads",
        "0 double outcomes, no escaped error, no live work stolen",
    ),
    "a user's engine at SERIALIZABLE": ("the same at SERIALIZABLE", "the same"),
    "cancels": (
        "5,000 cancels that race claims, finishes and kills",
        "no claim after an acknowledged cancel; told to stop within 3 s",
    ),
    "failover_synchronous": (
        "PostgreSQL: failover to a synchronous replica under load, 5 times",
        "0 acknowledged executions lost",
    ),
    "failover_synchronous_held_back": ("the same, the replica held back just before", "0 acknowledged executions lost"),
    "failover_asynchronous": ("negative control: asynchronous replication", "has to lose some"),
    "galera": (
        "MariaDB Galera, 3 nodes, executors on different nodes, a node killed 4 times",
        "0 lost, 0 double outcomes, certification conflicts retried",
    ),
    "clocks_wrong": (
        "one process 10 minutes ahead, one behind; kills",
        "no lease stolen, nothing started early",
    ),
    "clocks_stepped": ("wall-clock steps of an hour under running processes; kills", "the same"),
    "disk_full": (
        "disk full 10 times, then freed",
        "clear error to callers, executors recover by themselves, 0 lost",
    ),
    "stopped_killed": (
        "4 processes hammering, one stopped inside a write transaction beyond the lease, then killed; 10 times",
        "bounded waits, clear error, recovery in lease + 4 s",
    ),
    "stopped_continued": ("the same, then continued", "bounded waits, clear error"),
    "gunicorn": ("gunicorn, 4 workers", "live threads in each process, or none by choice; no shared connection"),
    "gunicorn_preload": ("gunicorn with `--preload`, 4 workers", "the same"),
    "gunicorn_preload_enqueues_only": ("the same, with an executor that is never started", "the same"),
    "forks": ("a parent killed that holds locks and has forked children", "its locks are freed"),
    "stuck_threads": (
        "a pool of 4 full of functions that never return, twice over; a grace of 5 s",
        "reported, replaced up to the cap, other work goes on",
    ),
    "finished_rows": (
        "10 million finished rows beside 10,000 ready ones",
        "claims a second at least 0.9 of an empty table's",
    ),
    "soak_drops": ("200 cycles of connection drops", "no growth in threads, connections, file handles or memory"),
    "soak_day": ("24 hours compressed by the injected clock", "the same"),
}
"""The faults in the order of the table, by the names under which tests keep figures: what was done, and the bar.

A name that ends in * stands for all that begin so; the slowest is shown.
"""

Cell: TypeAlias = dict[str, dict[str, Any]]
"""Its "figures", and of which "run" they are."""
Known: TypeAlias = dict[str, dict[str, Cell]]
DATABASES = ("SQLite", "PostgreSQL", "MariaDB")


def main() -> int:
    """Writes the page; 1 if a bar was missed, or there are figures of a fault that the table doesn't know."""
    known = json.loads(FIGURES.read_text())
    strangers = [name for name in sorted(known) if not any(_is_of(name, row) for row in ROWS)]
    missed = [
        f"{name} on {on}" for name in sorted(known) for on, cell in known[name].items() if not cell["run"]["held"]
    ]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(known)}{END}{after}")
    if strangers:
        print(f"no row for {', '.join(strangers)}")
    if missed:
        print(f"bars were missed: {', '.join(missed)}")
    return int(bool(strangers or missed))


def table(known: Known) -> str:
    """The table as Markdown, below where and when it was measured."""
    lines = [
        *measured(known),
        "",
        "| fault | bar | " + " | ".join(DATABASES) + " |",
        "| --- | --- | " + " | ".join("---" for _ in DATABASES) + " |",
    ]
    for name, (fault, bar) in ROWS.items():
        cells = [shown(cell_of(known, name, database)) for database in DATABASES]
        lines.append(f"| {fault} | {bar} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measured(known: Known) -> list[str]:
    """A line for each machine and day, with the commits that were measured then."""
    found: dict[tuple[str, str], set[str]] = {}
    for by_database in known.values():
        for cell in by_database.values():
            run = cell["run"]
            found.setdefault((run["date"], run["machine"]), set()).add(run["commit"])
    return [f"- {day}, {machine}: commit {', '.join(sorted(found[day, machine]))}" for day, machine in sorted(found)]


def _is_of(name: str, row: str) -> bool:
    return name.startswith(row[:-1]) if row.endswith("*") else name == row


def cell_of(known: Known, row: str, database: str) -> Cell | None:
    """What is shown in one cell: where there are several, one that missed its bar, or else the slowest."""
    found = [by[database] for name, by in known.items() if _is_of(name, row) and database in by]
    return max(
        found,
        key=lambda cell: (not cell["run"]["held"], float(cell["figures"].get("seconds", 0.0))),
        default=None,
    )


def shown(cell: Cell | None) -> str:
    """The figures of one run; a dash if there was none."""
    if cell is None:
        return "-"
    plain = {name: value for name, value in cell["figures"].items() if not isinstance(value, dict)}
    figures = [f"{name.replace('_', ' ')} {_written(value)}" for name, value in plain.items()]
    missed = [] if cell["run"]["held"] else ["**missed**"]
    return ", ".join([*missed, *figures, f"commit {cell['run']['commit']}"])


def _written(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
