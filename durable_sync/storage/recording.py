"""Writes what attempts came to: outcomes, and progress on the way."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from sqlalchemy import bindparam, select, update
from sqlalchemy.engine import Connection

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.statements import Fenced, Sql, apply_fenced

__all__ = ["ProgressMade", "record", "save_progress"]


@frozen
class ProgressMade:
    """How far the attempt of one claim says it is, as JSON text."""

    execution_id: str
    claim_token: int
    progress: str


def record(sql: Sql, connection: Connection, outcomes: Sequence[Fenced], *, uncertain: bool) -> set[tuple[str, int]]:
    """Writes the outcomes whose claims still hold; returns the (execution id, claim token) of those.

    `uncertain`: an earlier try may have committed, so outcomes that are there already count as written.
    """
    there: set[tuple[str, int]] = _recorded(sql, connection, outcomes) if uncertain else set()
    return there | apply_fenced(sql, connection, [o for o in outcomes if o.identity not in there])


def _recorded(sql: Sql, connection: Connection, outcomes: Sequence[Fenced]) -> set[tuple[str, int]]:
    t = sql.executions
    expected = {o.identity: o.transition.target for o in outcomes}
    ids = sorted({o.execution_id for o in outcomes})
    query = select(t.c.id, t.c.claim_token, t.c.status).where(sql.dialect.is_in(t.c.id, ids))
    return {
        (row.id, row.claim_token)
        for row in connection.execute(query)
        if expected.get((row.id, row.claim_token)) == ExecutionStatus(row.status)
    }


def save_progress(sql: Sql, connection: Connection, made: Sequence[ProgressMade]) -> None:
    """Writes progress of attempts whose claims still hold."""
    t = sql.executions
    statement = (
        update(t)
        .where(
            t.c.id == bindparam("v_id"),
            t.c.claim_token == bindparam("v_token"),
            t.c.status == ExecutionStatus.RUNNING,
        )
        .values(progress=bindparam("v_progress"))
    )
    rows = [{"v_id": m.execution_id, "v_token": m.claim_token, "v_progress": m.progress} for m in made]
    connection.execute(statement, rows)
