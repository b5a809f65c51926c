"""What happens by itself when its time has come: the delayed become claimable, sleepers time out."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.engine import Connection

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.statements import Sql, apply_to
from durable_sync.storage.trees import Effects, end
from durable_sync.transitions import due, oversleep

__all__ = ["end_oversleepers", "promote_due"]

_AT_ONCE = 1000


def promote_due(sql: Sql, connection: Connection) -> int:
    """Makes executions whose `ready_at` has come claimable, whoever's they are; returns how many."""
    c = sql.executions.c
    waiting = select(c.id).where(c.timer_at <= sql.now(), c.status == ExecutionStatus.READY).order_by(c.timer_at)
    waiting = waiting.limit(_AT_ONCE)
    if sql.dialect.skip_locked:
        waiting = waiting.with_for_update(skip_locked=True)
    ids = list(connection.execute(waiting).scalars())
    return apply_to(sql, connection, ids, due()) if ids else 0


def end_oversleepers(sql: Sql, connection: Connection, *, error: str) -> Effects:
    """Ends sleepers that nobody has woken in time; `error` is what they end with, as JSON."""
    c = sql.executions.c
    late = select(c.id).where(c.timer_at <= sql.now(), c.status == ExecutionStatus.SLEEPING).order_by(c.timer_at)
    # No lock yet: their trees come first.
    ids = list(connection.execute(late.limit(_AT_ONCE)).scalars())
    return end(sql, connection, ids, oversleep(error)) if ids else Effects()
