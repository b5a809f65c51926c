"""Writes the table of docs/reliability.md from the figures of the last full runs: `python -m tests.faults.report`."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.figures import FIGURES

__all__ = ["ROWS", "main"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

ROWS = {
    "kills": (
        "4 processes, `kill -9` of one every second, trees",
        "0 lost, 0 double outcomes; recovered in lease + 1 s (SQLite: + 4 s); the lease is 2 s",
    ),
    "suspensions": ("SIGSTOP beyond the lease, SIGCONT", "every stale outcome refused"),
    "commits": ("dies before or after, or loses the answer of, each COMMIT", "0 violations at every point"),
    "servers_killed": (
        "the server killed and restarted every 15 s under load",
        "0 lost; works again within 5 s of the server; no process restarted",
    ),
    "cancels": ("cancels that race claims, finishes and kills", "no claim after a cancel; told to stop within 3 s"),
}
"""The faults in the order of the table, by the names under which tests keep figures: what was done, and the bar."""

DATABASES = ("SQLite", "PostgreSQL", "MariaDB")


def main() -> int:
    """Writes the page; 1 if there are figures of a fault that the table doesn't know."""
    known = json.loads(FIGURES.read_text())
    strangers = sorted(known.keys() - ROWS.keys())
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(known)}{END}{after}")
    if strangers:
        print(f"no row for {', '.join(strangers)}")
    return int(bool(strangers))


def table(known: dict[str, dict[str, dict[str, object]]]) -> str:
    """The table as Markdown."""
    lines = [
        f"Measured on {datetime.now(UTC):%d %B %Y}: {machine()}.",
        "",
        "| fault | bar | " + " | ".join(DATABASES) + " |",
        "| --- | --- | " + " | ".join("---" for _ in DATABASES) + " |",
    ]
    for name, (fault, bar) in ROWS.items():
        cells = [shown(known.get(name, {}).get(database)) for database in DATABASES]
        lines.append(f"| {fault} | {bar} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(figures: dict[str, object] | None) -> str:
    """The figures of one run; a dash if there was none."""
    if figures is None:
        return "-"
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())


def machine() -> str:
    """Where this runs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
