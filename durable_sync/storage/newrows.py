"""The columns of new executions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.dialects import MAX_PACKET
from durable_sync.storage.records import NewExecution
from durable_sync.transitions import ORDINARY_LANE

__all__ = ["MAX_ROWS", "batches", "begins_now", "values_of"]

MAX_ROWS = 1000
"""Rows in one statement."""


def values_of(row: NewExecution, present: Any) -> dict[str, Any]:
    """The columns of a new row; `present` is the time in microseconds, or an expression for it."""
    lineage = row.lineage
    return {
        "id": row.execution_id,
        "task_id": row.task_id,
        "root_id": None if lineage is None else lineage.root_id,
        "parent_id": None if lineage is None else lineage.parent_id,
        "child_index": None if lineage is None else lineage.child_index,
        "input_from": row.input_from,
        "queue": row.queue,
        "priority": row.priority,
        **_place(row, present),
        "key": row.key,
        "active_key": row.key,
        "max_recoveries": row.max_recoveries,
        "timeout": row.timeout,
        "max_retries": row.max_retries,
        "created_at": present,
        "updated_at": present,
        "input": row.input,
    }


def _place(row: NewExecution, present: Any) -> dict[str, Any]:
    """Where a new row begins: to be claimed now, later, in its turn, or asleep."""
    begins = {"status": ExecutionStatus.READY, "lane": None, "timer_at": None, "ready_at": present, "delay": row.delay}
    if begins_now(row):
        return {**begins, "lane": ORDINARY_LANE}
    if row.sleeps:
        return {
            **begins,
            "status": ExecutionStatus.SLEEPING,
            "timer_at": None if row.timeout is None else present + row.timeout,
        }
    if row.waits_turn:
        return begins
    ready_at = row.run_at if row.run_at is not None else present + row.delay
    return {**begins, "timer_at": ready_at, "ready_at": ready_at}


def begins_now(row: NewExecution) -> bool:
    """True if it may be claimed as soon as it is there."""
    return row.run_at is None and row.delay <= 0 and not row.waits_turn and not row.sleeps


def batches(rows: Sequence[NewExecution], limit: int = MAX_PACKET) -> Iterator[list[NewExecution]]:
    """The rows in lists that fit one statement, with at most `limit` bytes of input."""
    batch: list[NewExecution] = []
    size = 0
    for row in rows:
        if batch and (len(batch) >= MAX_ROWS or size + len(row.input) > limit):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.input)
    if batch:
        yield batch
