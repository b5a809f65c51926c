"""The same work beside millions of rows that have finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

from benchmarks.figures import Bar, Figure, at_least
from benchmarks.raw import Raw
from benchmarks.rows import FINISHED, fill, settle
from benchmarks.setting import Setting, compared, taking_turns
from benchmarks.tasks import RAW, against_raw, end_to_end, make_executor, rows_of, started

__all__ = ["measure"]

PART = "finished"
EMPTY = "the empty table"
BARS: tuple[Bar, Bar] = (at_least(0.95), at_least(0.9))


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database: three tables, which take turns."""
    number = setting.size(20_000, 1_000)
    some, many = setting.size(1_000_000, 20_000), setting.size(10_000_000, 100_000)
    tables = {EMPTY: "empty_", f"beside {some:,} finished rows": "some_", f"beside {many:,} finished rows": "many_"}
    make_executor(setting.url, "empty_").migrate()
    settle(setting.url, rows_of("empty_"))
    for prefix, rows in {"some_": some, "many_": many}.items():
        make_executor(setting.url, prefix).migrate()
        fill(setting.url, rows_of(prefix), rows, FINISHED)
    with closing(Raw(setting.url)) as raw:
        taken = taking_turns(
            setting.rounds,
            {
                **{work: partial(_run, setting.url, prefix, number) for work, prefix in tables.items()},
                **against_raw(raw, number),
            },
        )
    full = [work for work in tables if work != EMPTY]
    for work, bar in zip(full, BARS, strict=True):
        yield compared(PART, f"{number:,} tasks {work}", taken, work, EMPTY, bar=bar, beside=RAW)


def _run(url: str, prefix: str, number: int) -> float:
    with started(url, prefix) as executor:
        return end_to_end(executor, number)
