"""Wakes sleeping executions, by their key."""

from __future__ import annotations

from attrs import define, field, frozen
from sqlalchemy import select
from sqlalchemy.engine import Connection

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.statements import Sql
from durable_sync.storage.trees import Effects, end
from durable_sync.transitions import Transition

__all__ = ["Awakening", "FormerSleeper", "former_sleeper", "wake"]


@frozen
class FormerSleeper:
    """Of those that had a key and sleep no more, the last."""

    execution_id: str
    status: ExecutionStatus
    finished_at: int


@define
class Awakening:
    """One call to wake, over all its tries."""

    task_id: str
    key: str
    transition: Transition
    found: str | None = None
    """The id of the sleeper that an earlier try found."""
    effects: Effects = field(factory=Effects)


def wake(sql: Sql, connection: Connection, awakening: Awakening, *, uncertain: bool) -> bool:
    """Ends the sleeper of that key; False if none sleeps.

    `uncertain`: an earlier try may have committed.
    """
    t = sql.executions
    if uncertain and awakening.found is not None and _is_woken(sql, connection, awakening):
        return True
    holder = select(t.c.id).where(t.c.task_id == awakening.task_id, t.c.active_key == awakening.key)
    awakening.found = connection.execute(holder).scalar()
    if awakening.found is None:
        return False
    awakening.effects = end(sql, connection, [awakening.found], awakening.transition)
    return awakening.found in awakening.effects.finished


def _is_woken(sql: Sql, connection: Connection, awakening: Awakening) -> bool:
    t = sql.executions
    row = connection.execute(
        select(t.c.status, t.c.run_output, t.c.error).where(t.c.id == awakening.found)
    ).one_or_none()
    values = awakening.transition.values
    return (
        row is not None
        and row.status == awakening.transition.target
        and row.run_output == values.get("run_output")
        and row.error == values.get("error")
    )


def former_sleeper(sql: Sql, connection: Connection, task_id: str, key: str) -> FormerSleeper | None:
    """The last execution that had the key and has finished; None if there never was one."""
    t = sql.executions
    query = (
        select(t.c.id, t.c.status, t.c.finished_at)
        .where(t.c.key == key, t.c.task_id == task_id, t.c.finished_at.is_not(None))
        .order_by(t.c.finished_at.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else FormerSleeper(row.id, ExecutionStatus(row.status), row.finished_at)
