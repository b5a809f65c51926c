"""Writes new executions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from attrs import frozen
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    String,
    Text,
    bindparam,
    case,
    column,
    func,
    insert,
    literal,
    null,
    select,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from durable_sync.errors import DurableError
from durable_sync.execution import ExecutionStatus
from durable_sync.storage.dialects import MAX_PACKET
from durable_sync.storage.records import NewExecution
from durable_sync.storage.statements import BULKY, Sql
from durable_sync.transitions import ORDINARY_LANE

__all__ = ["Enqueued", "enqueue", "key_holders"]

_MAX_ROWS = 1000


@frozen
class Enqueued:
    """What became of one new execution."""

    execution_id: str
    created: bool
    """False: an active execution had its key, and this is its id."""


def enqueue(sql: Sql, connection: Connection, rows: Sequence[NewExecution], *, uncertain: bool) -> list[Enqueued]:
    """Inserts the rows, in the caller's transaction; rows whose key is taken are not inserted.

    `uncertain`: an earlier try may have committed, so rows that are there already are no error.
    """
    plain = [row for row in rows if row.key is None]
    if uncertain:
        plain = _missing(sql, connection, plain)
    if len(plain) == 1:
        connection.execute(insert(sql.executions).values(**_values(plain[0], sql.now())))
    elif plain:
        _insert_many(sql, connection, plain)
    return [
        Enqueued(row.execution_id, True) if row.key is None else _insert_keyed(sql, connection, row) for row in rows
    ]


def _missing(sql: Sql, connection: Connection, rows: Sequence[NewExecution]) -> list[NewExecution]:
    t = sql.executions
    present: set[str] = set()
    for start in range(0, len(rows), _MAX_ROWS):
        ids = [row.execution_id for row in rows[start : start + _MAX_ROWS]]
        present |= set(connection.execute(select(t.c.id).where(sql.dialect.is_in(t.c.id, ids))).scalars())
    return [row for row in rows if row.execution_id not in present]


def _values(row: NewExecution, present: Any) -> dict[str, Any]:
    """The columns of a new row; `present` is the time in microseconds, or an expression for it."""
    waits = row.run_at is not None or row.delay > 0
    ready_at: Any = row.run_at if row.run_at is not None else present + row.delay if row.delay else present
    return {
        "id": row.execution_id,
        "task_id": row.task_id,
        "status": ExecutionStatus.READY,
        "queue": row.queue,
        "priority": row.priority,
        "lane": None if waits else ORDINARY_LANE,
        "timer_at": ready_at if waits else None,
        "key": row.key,
        "active_key": row.key,
        "max_recoveries": row.max_recoveries,
        "timeout": row.timeout,
        "max_retries": row.max_retries,
        "created_at": present,
        "ready_at": ready_at,
        "updated_at": present,
        "input": row.input,
    }


def _insert_many(sql: Sql, connection: Connection, rows: Sequence[NewExecution]) -> None:
    if sql.dialect.arrays and all(len(row.input) <= BULKY for row in rows):
        for batch in _batches(rows):
            connection.execute(_insert_arrays(sql, batch))
        return
    # Plain numbers, a microsecond apart to keep the callers' order: drivers batch no expressions.
    instants = count(sql.now_value(connection))
    for batch in _batches(rows):
        connection.execute(insert(sql.executions), [_values(row, next(instants)) for row in batch])


def _batches(rows: Sequence[NewExecution]) -> Iterator[list[NewExecution]]:
    batch: list[NewExecution] = []
    size = 0
    for row in rows:
        if batch and (len(batch) >= _MAX_ROWS or size + len(row.input) > MAX_PACKET):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.input)
    if batch:
        yield batch


_ARRAY_COLUMNS: dict[str, Any] = {
    "id": String(),
    "task_id": String(),
    "queue": String(),
    "priority": Integer(),
    "max_recoveries": Integer(),
    "timeout": BigInteger(),
    "max_retries": Integer(),
    "input": Text(),
    "delay": BigInteger(),
    "run_at": BigInteger(),
}


def _insert_arrays(sql: Sql, rows: Sequence[NewExecution]) -> Any:
    values: dict[str, list[Any]] = {
        name: [getattr(row, "execution_id" if name == "id" else name) for row in rows] for name in _ARRAY_COLUMNS
    }
    v = (
        func.unnest(
            *(bindparam(f"v_{name}", values[name], type_=ARRAY(type_)) for name, type_ in _ARRAY_COLUMNS.items())
        )
        .table_valued(*(column(name, type_) for name, type_ in _ARRAY_COLUMNS.items()), name="v")
        .render_derived()
    )
    present = sql.now()
    waits = v.c.run_at.is_not(None) | (v.c.delay > 0)
    ready_at = func.coalesce(v.c.run_at, present + v.c.delay)
    chosen: dict[str, ColumnElement[Any]] = {
        **{name: v.c[name] for name in _ARRAY_COLUMNS if name not in {"delay", "run_at"}},
        "status": literal(ExecutionStatus.READY.value),
        "lane": case((waits, null()), else_=ORDINARY_LANE),
        "timer_at": case((waits, ready_at), else_=null()),
        "created_at": present,
        "ready_at": ready_at,
        "updated_at": present,
    }
    return insert(sql.executions).from_select(list(chosen), select(*chosen.values()))


def _insert_keyed(sql: Sql, connection: Connection, row: NewExecution) -> Enqueued:
    t = sql.executions
    for _ in range(10):
        _insert_unless_taken(sql, connection, row)
        # Ours by its id, also if it has finished since: then an earlier try at this very enqueue wrote it.
        if connection.execute(select(t.c.id).where(t.c.id == row.execution_id)).scalar() is not None:
            return Enqueued(row.execution_id, True)
        holder = _holder(sql, connection, row)
        if holder is not None:
            return Enqueued(holder, False)
        # The holder finished between the two statements, so the key is free now.
    raise DurableError(f"the key {row.key!r} of task {row.task_id!r} was taken and freed again ten times")


def _insert_unless_taken(sql: Sql, connection: Connection, row: NewExecution) -> None:
    values = _values(row, sql.now())
    statement = sql.dialect.insert_unless_taken(sql.executions)
    if statement is not None:
        connection.execute(statement.values(**values))
        return
    with suppress(IntegrityError), connection.begin_nested():
        connection.execute(insert(sql.executions).values(**values))


def _holder(sql: Sql, connection: Connection, row: NewExecution) -> str | None:
    t = sql.executions
    query = select(t.c.id).where(t.c.task_id == row.task_id, t.c.active_key == row.key)
    holder = connection.execute(query).scalar()
    if holder is None:
        # A transaction of the user's may see the past; only a locking read sees what it has just collided with.
        holder = connection.execute(query.with_for_update(read=True)).scalar()
    return holder


def key_holders(sql: Sql, connection: Connection, rows: Sequence[NewExecution]) -> dict[tuple[str, str], str]:
    """The ids of the active executions that hold these rows' keys, by task and key."""
    t = sql.executions
    held: dict[tuple[str, str], str] = {}
    for row in rows:
        if row.key is not None:
            query = select(t.c.id).where(t.c.task_id == row.task_id, t.c.active_key == row.key)
            holder = connection.execute(query).scalar()
            if holder is not None:
                held[row.task_id, row.key] = holder
    return held
