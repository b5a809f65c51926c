"""Reads executions: whole, or only whether they have finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import and_, select
from sqlalchemy.engine import Connection

from durable_sync.execution import ACTIVE, ExecutionStatus
from durable_sync.storage.records import StoredExecution
from durable_sync.storage.statements import Sql

__all__ = ["any_active", "finished", "get"]

_IDS_AT_ONCE = 1000


def get(sql: Sql, connection: Connection, ids: Sequence[str]) -> dict[str, StoredExecution]:
    """The executions of these ids that exist, by id."""
    t, e = sql.executions, sql.tables.executors
    wanted = [column for column in t.c if column.name not in {"lane", "timer_at", "key", "active_key"}]
    query = select(*wanted, e.c.lease_expires_at).select_from(
        t.outerjoin(e, and_(e.c.id == t.c.executor_id, t.c.status == ExecutionStatus.RUNNING))
    )
    rows = (row for some in _chunks(ids) for row in connection.execute(query.where(sql.dialect.is_in(t.c.id, some))))
    return {row.id: StoredExecution.from_row(row) for row in rows}


def finished(sql: Sql, connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of these ids that need no more waiting: they have finished, or don't exist."""
    t = sql.executions
    active: set[str] = set()
    for some in _chunks(ids):
        query = select(t.c.id).where(sql.dialect.is_in(t.c.id, some), t.c.finished_at.is_(None))
        active |= set(connection.execute(query).scalars())
    return set(ids) - active


def any_active(sql: Sql, connection: Connection, tasks: Sequence[str]) -> bool:
    """True if an execution of one of these tasks is active and not asleep."""
    t = sql.executions
    waits = sorted(ACTIVE - {ExecutionStatus.SLEEPING})
    query = select(t.c.id).where(t.c.status.in_(waits), t.c.task_id.in_(tasks), t.c.finished_at.is_(None)).limit(1)
    return connection.execute(query).first() is not None


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield list(ids[start : start + _IDS_AT_ONCE])
