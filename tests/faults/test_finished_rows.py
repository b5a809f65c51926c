"""Claims beside millions of executions that have finished."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import frozen
from sqlalchemy import event

from benchmarks.rows import FINISHED as ROWS
from benchmarks.rows import fill
from durable_sync import DurableExecutor
from durable_sync.storage.leases import Incarnation
from durable_sync.storage.storage import Storage
from durable_sync.transitions import ORDINARY_LANE
from tests.faults.figures import database_of, note, size
from tests.faults.workload import plain, registry

FINISHED = size(full=10_000_000, short=100_000)
READY = size(full=10_000, short=3_000)
BAR = size(full=0.9, short=0.5)
"""Claims a second, as a part of an empty table's."""
BATCH = 100


@frozen
class Table:
    """Executions under one prefix, with an incarnation that may claim them."""

    storage: Storage
    executor_id: str

    @classmethod
    def make(cls, url: str, prefix: str) -> Table:
        executor = DurableExecutor(url, tasks=registry, table_prefix=prefix)
        executor.migrate()
        storage = executor._desk.prepared_storage()
        executor_id = f"the-claimer-of-{prefix}"
        storage.register(Incarnation(executor_id=executor_id, name="c", hostname="h", pid=1, lease=10**12))
        executor.enqueue_many([plain.bind(0.0)] * READY)
        return cls(storage, executor_id)

    @property
    def name(self) -> str:
        return self.storage.sql.executions.name

    def claim(self, *, discovers: bool = False) -> int:
        """Claims one batch, as the claimer does, which now and then looks for new queues; returns how many it won."""
        seen = self.storage.peek(queues={"plain": ["default"]}, lane=ORDINARY_LANE, limit=BATCH, discovers=discovers)
        return len(self.storage.claim(seen.candidates, limit=BATCH, executor_id=self.executor_id))

    def seconds(self) -> float:
        """How long one batch takes."""
        began = time.perf_counter()
        assert self.claim() == BATCH
        return time.perf_counter() - began


@pytest.mark.timeout(size(full=7200, short=120))
def test_finished_rows(database_url: str) -> None:
    """What has finished costs a claim next to nothing, however much of it there is."""
    full, empty = Table.make(database_url, "durable_"), Table.make(database_url, "empty_")
    began = time.monotonic()
    fill(database_url, full.name, FINISHED, ROWS | {"task_id": "'plain'"})
    filled = time.monotonic() - began
    plans = plans_of(full)
    pairs = [pair(full, empty, number) for number in range(READY // BATCH - 1)]
    ratio = statistics.median(without / beside for beside, without in pairs)
    note(
        "finished_rows",
        database_of(database_url),
        finished=FINISHED,
        ready=READY,
        filled_in=round(filled),
        claims_a_second=round(BATCH / statistics.median(beside for beside, _ in pairs)),
        of_an_empty_table=round(BATCH / statistics.median(without for _, without in pairs)),
        ratio=round(ratio, 2),
    )
    assert f"ix_{full.name}_claim" in "\n".join(plans)
    assert whole_scans(plans, full.name) == []
    assert ratio >= BAR


def pair(full: Table, empty: Table, number: int) -> tuple[float, float]:
    """How long a batch of each takes; they go first in turns."""
    if number % 2:
        return full.seconds(), empty.seconds()
    without = empty.seconds()
    return full.seconds(), without


def kind_of(table: Table) -> str:
    name = table.storage.database.engine.dialect.name
    return {"mariadb": "mysql"}.get(name, name)


def plans_of(table: Table) -> list[str]:
    """How the database goes about each statement of one claim."""
    engine = table.storage.database.engine
    heard: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if table.name in statement:
            heard.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", hear)
    assert table.claim(discovers=True) == BATCH
    event.remove(engine, "before_cursor_execute", hear)
    explain = "EXPLAIN QUERY PLAN" if kind_of(table) == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        return [
            " ".join(map(str, row))
            for statement, parameters in heard
            for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)
        ]


def whole_scans(plans: Sequence[str], table: str) -> list[str]:
    """The steps that read the whole table, whatever the database calls that."""
    return [
        step
        for step in plans
        if f"Seq Scan on {table}" in step
        or (f"SCAN {table}" in step and "USING" not in step)
        or (f" {table} ALL " in step)
    ]
