"""Reads executions: whole, or only whether they have finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import and_, null, select
from sqlalchemy.engine import Connection

from durable_sync.execution import ACTIVE, ExecutionStatus
from durable_sync.storage.records import OutputRow, StoredExecution, TreeRow
from durable_sync.storage.statements import Sql, without_index

__all__ = ["any_active", "children", "finished", "get", "outputs", "tree"]

_IDS_AT_ONCE = 1000

T = TypeVar("T")

_SHOWN = (
    "id",
    "task_id",
    "status",
    "root_id",
    "parent_id",
    "queue",
    "priority",
    "executor_id",
    "starts",
    "created_at",
    "ready_at",
    "started_at",
    "finished_at",
    "updated_at",
    "progress",
    "plan",
    "input",
    "input_from",
    "run_output",
    "output_from",
    "error",
)
"""The columns of a StoredExecution."""


def get(sql: Sql, connection: Connection, ids: Sequence[str]) -> dict[str, StoredExecution]:
    """The executions of these ids that exist, by id."""
    query = sql.built("get", lambda: _whole(sql))
    rows = (row for some in _chunks(ids) for row in connection.execute(query, {"v_ids": some}).all())
    return {row.id: StoredExecution.from_row(row) for row in rows}


def _whole(sql: Sql) -> Any:
    t, e = sql.executions, sql.tables.executors
    wanted = [t.c[name] for name in _SHOWN]
    owned = t.outerjoin(e, and_(e.c.id == t.c.executor_id, t.c.status == ExecutionStatus.RUNNING))
    return select(*wanted, e.c.lease_expires_at).select_from(owned).where(sql.dialect.is_among(t.c.id, "v_ids"))


def outputs(sql: Sql, connection: Connection, ids: Sequence[str]) -> list[OutputRow]:
    """What is needed to read the outputs of these."""
    t = sql.executions
    query = sql.built("outputs", lambda: select(*_output_columns(sql)).where(sql.dialect.is_among(t.c.id, "v_ids")))
    rows = (row for some in _chunks(ids) for row in connection.execute(query, {"v_ids": some}).all())
    return [OutputRow.from_row(row) for row in rows]


def children(
    sql: Sql, connection: Connection, parents: Sequence[tuple[str, str]], *, with_outputs: bool
) -> dict[str, list[OutputRow]]:
    """The children of these parents, each given as (root of its tree, its id), in order; without finalizes."""
    t = sql.executions
    found: dict[str, list[OutputRow]] = {parent: [] for _tree, parent in parents}
    for some in _chunks(parents):
        query = (
            select(*_output_columns(sql, with_outputs=with_outputs))
            .where(
                sql.dialect.is_in(t.c.root_id, sorted({tree_id for tree_id, _parent in some})),
                sql.dialect.is_in(t.c.parent_id, [parent for _tree, parent in some]),
                t.c.child_index.is_not(None),
            )
            .order_by(t.c.parent_id, t.c.child_index)
        )
        for row in connection.execute(query):
            found[row.parent_id].append(OutputRow.from_row(row))
    return found


def _output_columns(sql: Sql, *, with_outputs: bool = True) -> list[Any]:
    c = sql.executions.c
    run_output = c.run_output if with_outputs else null().label("run_output")
    return [c.id, c.task_id, c.root_id, c.parent_id, c.status, c.plan, run_output, c.output_from, c.error]


def tree(sql: Sql, connection: Connection, root_id: str) -> tuple[int, list[TreeRow]]:
    """The present time, and the whole tree of this root: parents before children, children in order."""
    c = sql.executions.c
    columns = [
        c.id,
        c.task_id,
        c.parent_id,
        c.child_index,
        c.status,
        c.starts,
        c.created_at,
        c.started_at,
        c.finished_at,
        c.error,
    ]
    now = sql.now_value(connection)
    found = [
        TreeRow.from_row(row)
        for condition in (c.id == root_id, c.root_id == root_id)
        for row in connection.execute(select(*columns).where(condition))
    ]
    return now, found


def finished(sql: Sql, connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of these ids that need no more waiting: they have finished, or don't exist."""
    t = sql.executions
    query = sql.built(
        "finished",
        lambda: select(t.c.id).where(sql.dialect.is_among(t.c.id, "v_ids"), without_index(t.c.finished_at) < 0),
    )
    active: set[str] = set()
    for some in _chunks(ids):
        active |= set(connection.execute(query, {"v_ids": some}).scalars())
    return set(ids) - active


def any_active(sql: Sql, connection: Connection, tasks: Sequence[str]) -> bool:
    """True if an execution of one of these tasks is active and not asleep."""
    t = sql.executions
    waits = sorted(ACTIVE - {ExecutionStatus.SLEEPING})
    query = select(t.c.id).where(t.c.status.in_(waits), t.c.task_id.in_(tasks), t.c.finished_at.is_(None)).limit(1)
    return connection.execute(query).first() is not None


def _chunks(ids: Sequence[T]) -> Iterator[list[T]]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield list(ids[start : start + _IDS_AT_ONCE])
