"""Many handles waiting in one process: what they ask of the database."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, at_most
from benchmarks.processes import told
from benchmarks.setting import Setting
from benchmarks.statements import Statements
from benchmarks.tasks import make_executor, sleeper

__all__ = ["main", "measure"]

PART = "handles"
HANDLES = 1_000
SETTLING = 5.0
BAR = at_most(5.0, of_value=True)


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database, in a process of its own."""
    seconds = setting.size(30, 5)
    seen = told("handles", setting.url, seconds)
    by_verb = ", ".join(f"{verb} {number / seconds:.2f}" for verb, number in sorted(seen.items()))
    yield Figure(
        part=PART,
        work=f"{HANDLES:,} threads wait on a handle each: queries of their process in all",
        value=sum(seen.values()) / seconds,
        note=by_verb,
        unit="/s",
        bar=BAR,
    )


def main(url: str, seconds: str) -> None:
    """The process that waits, for executions that nobody wakes."""
    executor = make_executor(url)
    executor.start()
    handles = executor.enqueue_many(sleeper.options(key=str(place)).bind() for place in range(HANDLES))
    threading.stack_size(256 * 1024)
    for handle in handles:
        threading.Thread(target=handle.wait, daemon=True).start()
    statements = Statements(executor)
    time.sleep(SETTLING)
    print(json.dumps(statements.over(float(seconds))), flush=True)
    # Nobody will wake those threads either.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
