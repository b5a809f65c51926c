"""Ready tasks behind a million rows that no worker here may run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

from benchmarks.figures import Figure, at_least
from benchmarks.raw import Raw
from benchmarks.rows import fill, later, settle, unknown
from benchmarks.setting import Setting, compared, taking_turns
from benchmarks.tasks import RAW, against_raw, make_executor, ripened, rows_of, small

__all__ = ["measure"]

PART = "backlog"
BAR = at_least(0.9)
ALONE = "without them"


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database: three tables, which take turns."""
    ready = setting.size(10_000, 1_000)
    rows = setting.size(1_000_000, 20_000)
    backlogs = {
        f"behind {rows:,} of a task unknown here": ("unknown_", unknown()),
        f"behind {rows:,} of higher priority, not due for a year": ("later_", later()),
    }
    make_executor(setting.url, "alone_").migrate()
    settle(setting.url, rows_of("alone_"))
    for prefix, columns in backlogs.values():
        make_executor(setting.url, prefix).migrate()
        fill(setting.url, rows_of(prefix), rows, columns)
    with closing(Raw(setting.url)) as raw:
        taken = taking_turns(
            setting.rounds,
            {
                ALONE: lambda: _run(setting.url, "alone_", ready),
                **{work: partial(_run, setting.url, prefix, ready) for work, (prefix, _) in backlogs.items()},
                **against_raw(raw, ready),
            },
        )
    for work in backlogs:
        yield compared(PART, f"{ready:,} ready tasks {work}", taken, work, ALONE, bar=BAR, beside=RAW)


def _run(url: str, prefix: str, ready: int) -> float:
    return ripened(make_executor(url, prefix), (small.bind(place) for place in range(ready)))
