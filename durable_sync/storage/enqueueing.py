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
    Boolean,
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
    # A sleeping one always has a key.
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
    if row.sleeps:
        return {
            **begins,
            "status": ExecutionStatus.SLEEPING,
            "timer_at": None if row.timeout is None else present + row.timeout,
        }
    if row.waits_turn:
        return begins
    if row.run_at is not None or row.delay > 0:
        ready_at = row.run_at if row.run_at is not None else present + row.delay
        return {**begins, "timer_at": ready_at, "ready_at": ready_at}
    return {**begins, "lane": ORDINARY_LANE}


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
    "root_id": String(),
    "parent_id": String(),
    "child_index": Integer(),
    "input_from": String(),
    "input": Text(),
    "delay": BigInteger(),
    "run_at": BigInteger(),
    "waits_turn": Boolean(),
}


def _array_row(row: NewExecution) -> tuple[Any, ...]:
    """In the order of `_ARRAY_COLUMNS`."""
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
        row.waits_turn,
    )


def _insert_arrays(sql: Sql, rows: Sequence[NewExecution]) -> Any:
    values = dict(zip(_ARRAY_COLUMNS, map(list, zip(*map(_array_row, rows), strict=True)), strict=True))
    v = (
        func.unnest(
            *(bindparam(f"v_{name}", values[name], type_=ARRAY(type_)) for name, type_ in _ARRAY_COLUMNS.items())
        )
        .table_valued(*(column(name, type_) for name, type_ in _ARRAY_COLUMNS.items()), name="v")
        .render_derived()
    )
    present = sql.now()
    waits = v.c.run_at.is_not(None) | (v.c.delay > 0)
    ready_at = case((v.c.waits_turn, present), else_=func.coalesce(v.c.run_at, present + v.c.delay))
    chosen: dict[str, ColumnElement[Any]] = {
        **{name: v.c[name] for name in _ARRAY_COLUMNS if name not in {"run_at", "waits_turn"}},
        "status": literal(ExecutionStatus.READY.value),
        "lane": case((v.c.waits_turn | waits, null()), else_=ORDINARY_LANE),
        "timer_at": case((v.c.waits_turn, null()), (waits, ready_at), else_=null()),
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
