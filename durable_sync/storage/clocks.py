"""One count of time for all processes of a machine, where the database doesn't tell the time.

Their wall clocks may have been stepped between their starts, so they share the offset between the machine's
monotonic clock and the wall clock, kept in the database under the name of this boot. While no executor is
alive nobody depends on it, and it is set by the wall clock anew.
"""

from __future__ import annotations

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from durable_sync.clock import SteadyClock, boot_id, wall_offset
from durable_sync.storage.leases import mark_dead
from durable_sync.storage.statements import Sql

__all__ = ["adopt_offset", "agree_offset"]

_STEP = 1_000_000
"""Microseconds: a wall clock that differs from the kept count by more was stepped."""


def adopt_offset(sql: Sql, connection: Connection, clock: SteadyClock) -> bool:
    """Sets the clock by the offset kept in the database; False if none is kept."""
    t = sql.tables.clocks
    kept = connection.execute(select(t.c.clock_offset).where(t.c.boot_id == (boot_id() or ""))).scalar()
    if kept is None:
        return False
    clock.offset = int(kept)
    return True


def agree_offset(sql: Sql, connection: Connection, clock: SteadyClock) -> None:
    """Sets the clock by the kept offset while that is in use; otherwise by the wall clock, and keeps that."""
    boot = boot_id()
    if boot is None:
        return
    t = sql.tables.clocks
    kept = adopt_offset(sql, connection, clock)
    if kept and _anybody_alive(sql, connection):
        return
    offset = wall_offset()
    if kept and abs(offset - clock.offset) > _STEP:
        # While their leases can still be read: by another count, what has ended may seem to last for hours.
        mark_dead(sql, connection)
    clock.offset = offset
    if kept:
        connection.execute(update(t).where(t.c.boot_id == boot).values(clock_offset=clock.offset))
    else:
        connection.execute(insert(t).values(boot_id=boot, clock_offset=clock.offset))


def _anybody_alive(sql: Sql, connection: Connection) -> bool:
    e = sql.tables.executors
    query = select(e.c.id).where(e.c.dead_at.is_(None), e.c.lease_expires_at > sql.now()).limit(1)
    return connection.execute(query).first() is not None
