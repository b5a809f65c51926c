"""What one idle process costs: statements a second and CPU."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from benchmarks.figures import Figure, at_most
from benchmarks.processes import told
from benchmarks.setting import Setting
from benchmarks.statements import Statements
from benchmarks.tasks import registry
from durable_sync import DurableExecutor

__all__ = ["main", "measure"]

PART = "idle"
SETTLING = 5.0
STATEMENTS = at_most(2.0, of_value=True)
CPU = at_most(0.5, of_value=True)


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database, in a process of its own."""
    seconds = setting.size(60, 5)
    seen = told("idle", setting.url, seconds)
    by_verb = ", ".join(f"{verb} {number / seconds:.2f}" for verb, number in sorted(seen["statements"].items()))
    yield Figure(
        part=PART,
        work="one idle process: statements",
        value=sum(seen["statements"].values()) / seconds,
        note=by_verb,
        unit="/s",
        bar=STATEMENTS,
    )
    yield Figure(part=PART, work="one idle process: CPU", value=seen["cpu"], unit="%", bar=CPU)


def main(url: str, seconds: str) -> None:
    """The idle process: default settings, with tasks that it looks for."""
    with DurableExecutor(url, tasks=registry) as executor:
        statements = Statements(executor)
        time.sleep(SETTLING)
        process = psutil.Process()
        before, began = sum(process.cpu_times()[:2]), time.monotonic()
        seen = statements.over(float(seconds))
        cpu = 100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
    print(json.dumps({"statements": seen, "cpu": cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
