"""Writes new executions whose key nobody active has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count

from attrs import frozen
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from durable_sync.errors import DurableError
from durable_sync.storage.newrows import MAX_ROWS, batches, values_of
from durable_sync.storage.records import NewExecution
from durable_sync.storage.statements import Sql

__all__ = ["Enqueued", "insert_keyed", "key_holders", "present"]


@frozen
class Enqueued:
    """What became of one new execution."""

    execution_id: str
    created: bool
    """False: an active execution had its key, and this is its id."""


def insert_keyed(sql: Sql, connection: Connection, rows: Sequence[NewExecution]) -> list[Enqueued]:
    """Inserts those of the rows whose key is free; what became of each, in order."""
    statement = sql.dialect.insert_unless_taken(sql.executions)
    if len(rows) < 2 or statement is None:
        return [_insert_one(sql, connection, row) for row in rows]
    instants = count(sql.now_value(connection))
    for batch in batches(rows):
        connection.execute(statement, [values_of(row, next(instants)) for row in batch])
    created = present(sql, connection, rows)
    held = key_holders(sql, connection, [row for row in rows if row.execution_id not in created])
    return [_outcome(sql, connection, row, created, held) for row in rows]


def _outcome(
    sql: Sql, connection: Connection, row: NewExecution, created: set[str], held: dict[tuple[str, str], str]
) -> Enqueued:
    if row.execution_id in created:
        return Enqueued(row.execution_id, True)
    holder = held.get((row.task_id, row.key or ""))
    # Without a holder, that one has finished since.
    return _insert_one(sql, connection, row) if holder is None else Enqueued(holder, False)


def present(sql: Sql, connection: Connection, rows: Sequence[NewExecution]) -> set[str]:
    """The ids of those of the rows that are there."""
    t = sql.executions
    found: set[str] = set()
    for some in _chunks([row.execution_id for row in rows]):
        found |= set(connection.execute(select(t.c.id).where(sql.dialect.is_in(t.c.id, some))).scalars())
    return found


def _insert_one(sql: Sql, connection: Connection, row: NewExecution) -> Enqueued:
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
    values = values_of(row, sql.now())
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
    by_task: dict[str, list[str]] = {}
    for row in rows:
        if row.key is not None:
            by_task.setdefault(row.task_id, []).append(row.key)
    return {
        (task_id, found.active_key): found.id
        for task_id, keys in by_task.items()
        for some in _chunks(keys)
        for found in connection.execute(
            select(t.c.id, t.c.active_key).where(t.c.task_id == task_id, sql.dialect.is_in(t.c.active_key, some))
        )
    }


def _chunks(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), MAX_ROWS):
        yield list(names[start : start + MAX_ROWS])
