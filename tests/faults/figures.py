"""How large a run is, and where its figures go.

With FAULTS=full in the environment a test of a fault runs at the size of the table in docs/reliability.md, and its
figures are kept in `tests/faults/figures.json`, with what was measured where and when, and whether the test passed;
without, it runs in a short form, for the gate, and keeps nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["FIGURES", "IS_FULL", "LENIENCE", "confirm", "database_of", "note", "size"]

T = TypeVar("T")

IS_FULL = os.environ.get("FAULTS") == "full"
LENIENCE = 0.0 if IS_FULL else 5.0
"""Seconds by which a time may miss its bar in the short form: whatever else runs on the machine is not told apart."""
FIGURES = Path(__file__).with_name("figures.json")

_DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB", "mariadb": "MariaDB"}


def size(*, full: T, short: T) -> T:
    """The one or the other."""
    return full if IS_FULL else short


def database_of(url: str) -> str:
    """The name under which the figures of this database go."""
    return _DATABASES[url.partition(":")[0].partition("+")[0]]


def note(fault: str, database: str, **figures: object) -> None:
    """Keeps the figures of the running test, in place of those of the last run; its bars count as missed as yet."""
    print(fault, database, figures)
    if not IS_FULL:
        return
    run = {
        "commit": _commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": _machine(),
        "test": os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0],
        "held": False,
    }
    with _known() as known:
        known.setdefault(fault, {})[database] = {"figures": figures, "run": run}


def confirm(test: str, *, held: bool) -> None:
    """The bars of what this test noted, now or in an earlier run, hold: it has passed. Or not yet: it begins."""
    with _known() as known:
        for of_fault in known.values():
            for cell in of_fault.values():
                if cell["run"]["test"] == test:
                    cell["run"]["held"] = held


@contextmanager
def _known() -> Generator[dict[str, dict[str, dict[str, Any]]]]:
    """All cells, by fault and database; what is changed is kept."""
    with FIGURES.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = json.loads(file.read() or "{}")
        yield known
        file.seek(0)
        file.truncate()
        file.write(json.dumps(known, indent=2, sort_keys=True) + "\n")


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def _commit() -> str:
    """What of this repository was measured. The figures themselves, which each row changes, make no difference."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":!{FIGURES.name}")
    return f"{commit}-dirty" if changed else commit or "unknown"


def _git(*arguments: str) -> str:
    asked = subprocess.run(["git", *arguments], cwd=FIGURES.parent, capture_output=True, text=True, check=False)
    return asked.stdout.strip()
