"""Inserts many new rows at once, the way each database takes them best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    case,
    func,
    insert,
    literal,
    null,
    select,
)
from sqlalchemy.engine import Connection

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.dialects import MAX_PACKET
from durable_sync.storage.newrows import batches, values_of
from durable_sync.storage.records import NewExecution
from durable_sync.storage.statements import BULKY, Sql
from durable_sync.transitions import ORDINARY_LANE

__all__ = ["insert_many"]


def insert_many(sql: Sql, connection: Connection, rows: Sequence[NewExecution]) -> None:
    """Inserts rows without keys that don't sleep, ready in their order."""
    slender = all(len(row.input) <= BULKY for row in rows)
    if sql.dialect.json_rows and slender:
        _insert_json(sql, connection, rows)
    else:
        # Plain numbers, a microsecond apart to keep the callers' order: drivers batch no expressions.
        instants = count(sql.now_value(connection))
        for batch in batches(rows):
            connection.execute(insert(sql.executions), [values_of(row, next(instants)) for row in batch])


_COLUMNS = (
    "id",
    "task_id",
    "queue",
    "priority",
    "max_recoveries",
    "timeout",
    "max_retries",
    "root_id",
    "parent_id",
    "child_index",
    "input_from",
    "input",
    "delay",
)
_OTHERS: dict[str, Any] = {"run_at": BigInteger(), "waits_turn": Integer(), "place": BigInteger()}
"""What the columns that are computed are computed of."""


def _row(row: NewExecution, place: int) -> tuple[Any, ...]:
    """In the order of `_COLUMNS` and `_OTHERS`."""
    lineage = row.lineage
    family = (None, None, None) if lineage is None else (lineage.root_id, lineage.parent_id, lineage.child_index)
    return (
        row.execution_id,
        row.task_id,
        row.queue,
        row.priority,
        row.max_recoveries,
        row.timeout,
        row.max_retries,
        *family,
        row.input_from,
        row.input,
        row.delay,
        row.run_at,
        int(row.waits_turn),
        place,
    )


def _insert_json(sql: Sql, connection: Connection, rows: Sequence[NewExecution]) -> None:
    statement = sql.built("insert_json", lambda: _insert_from_json(sql))
    # Quotes are escaped twice, so that a text may double twice.
    for batch in batches(rows, MAX_PACKET // 4):
        listed = [_row(row, place) for place, row in enumerate(batch)]
        connection.execute(statement, {"v_rows": json.dumps(listed, ensure_ascii=False)})


def _insert_from_json(sql: Sql) -> Any:
    types = {name: sql.executions.c[name].type for name in _COLUMNS}
    v = sql.dialect.rows_of_json("v_rows", {**types, **_OTHERS})
    # The time may stand still within a statement; a microsecond apart, rows keep their order.
    present = sql.now() + v.c.place
    turn = v.c.waits_turn == 1
    waits = v.c.run_at.is_not(None) | (v.c.delay > 0)
    ready_at = case((turn, present), else_=func.coalesce(v.c.run_at, present + v.c.delay))
    chosen: dict[str, ColumnElement[Any]] = {
        **{name: v.c[name] for name in _COLUMNS},
        "status": literal(ExecutionStatus.READY.value),
        "lane": case((turn | waits, null()), else_=ORDINARY_LANE),
        "timer_at": case((turn, null()), (waits, ready_at), else_=null()),
        "created_at": present,
        "ready_at": ready_at,
        "updated_at": present,
    }
    return insert(sql.executions).from_select(list(chosen), select(*chosen.values()))
