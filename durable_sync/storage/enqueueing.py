"""Writes new executions, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    bindparam,
    insert,
    literal,
    select,
)
from sqlalchemy.engine import Connection

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.bulk import insert_many
from durable_sync.storage.keys import Enqueued, insert_keyed, present
from durable_sync.storage.newrows import begins_now, values_of
from durable_sync.storage.records import NewExecution
from durable_sync.storage.statements import Sql
from durable_sync.transitions import Plus, claim

__all__ = ["enqueue", "enqueue_claimed"]


def enqueue(sql: Sql, connection: Connection, rows: Sequence[NewExecution], *, uncertain: bool) -> list[Enqueued]:
    """Inserts the rows, in the caller's transaction; rows whose key is taken are not inserted.

    `uncertain`: an earlier try may have committed, so rows that are there already are no error.
    """
    # A sleeping one always has a key.
    plain = [row for row in rows if row.key is None]
    if uncertain:
        there = present(sql, connection, plain)
        plain = [row for row in plain if row.execution_id not in there]
    if len(plain) == 1:
        _insert_one(sql, connection, plain[0])
    elif plain:
        insert_many(sql, connection, plain)
    keyed = iter(insert_keyed(sql, connection, [row for row in rows if row.key is not None]))
    return [Enqueued(row.execution_id, True) if row.key is None else next(keyed) for row in rows]


def _insert_one(sql: Sql, connection: Connection, row: NewExecution) -> None:
    """With the present time as the database tells it."""
    if not begins_now(row):
        connection.execute(insert(sql.executions).values(**values_of(row, sql.now())))
        return
    values = {name: value for name, value in values_of(row, None).items() if value is not None}
    connection.execute(sql.built("insert_one", lambda: _insert_now(sql)), values)


def enqueue_claimed(
    sql: Sql, connection: Connection, row: NewExecution, *, executor_id: str, uncertain: bool
) -> tuple[bool, bool]:
    """Inserts a row that this executor has claimed already, unless the executor is dead.

    Returns whether the row is there, and whether it is claimed by this executor. `uncertain` as in `enqueue`.
    """
    if uncertain:
        found = _standing(sql, connection, row)
        if found is not None:
            return True, found == (ExecutionStatus.RUNNING, executor_id, 1)
    given = {f"v_{name}": getattr(row, name) for name in _CLAIMED_COLUMNS}
    given |= {"v_id": row.execution_id, "v_owner": executor_id}
    statement = sql.built("insert_claimed", lambda: _insert_claimed(sql))
    inserted = connection.execute(statement, given).rowcount == 1
    return inserted, inserted


def _standing(sql: Sql, connection: Connection, row: NewExecution) -> tuple[str, str | None, int] | None:
    c = sql.executions.c
    found = connection.execute(
        select(c.status, c.executor_id, c.claim_token).where(c.id == row.execution_id)
    ).one_or_none()
    return None if found is None else (found.status, found.executor_id, found.claim_token)


_CLAIMED_COLUMNS = ("task_id", "queue", "priority", "max_recoveries", "timeout", "max_retries", "input")


def _insert_claimed(sql: Sql) -> Any:
    """The columns as they are for any new row, and what a first claim makes of them."""
    c, owner = sql.executions.c, sql.tables.executors.c
    move = claim("")
    chosen: dict[str, ColumnElement[Any]] = {
        "id": bindparam("v_id", type_=c.id.type),
        **{name: bindparam(f"v_{name}", type_=c[name].type) for name in _CLAIMED_COLUMNS},
        "status": literal(move.target.value),
        "delay": literal(0, BigInteger),
        "created_at": sql.now(),
        "ready_at": sql.now(),
    }
    for name, value in move.values.items():
        match value:
            case None:
                continue
            case Plus(amount):
                chosen[name] = literal(amount, c[name].type)
            case str():
                chosen[name] = owner.id
            case _:
                chosen[name] = sql.now()
    # A dead owner's claim would be recovered at once, and counted.
    alive = select(*chosen.values()).where(owner.id == bindparam("v_owner"), owner.dead_at.is_(None))
    return insert(sql.executions).from_select(list(chosen), alive).execution_options(preserve_rowcount=True)


def _insert_now(sql: Sql) -> Any:
    return insert(sql.executions).values(dict.fromkeys(("created_at", "ready_at", "updated_at"), sql.now()))
