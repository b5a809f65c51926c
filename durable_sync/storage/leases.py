"""Executor incarnations: their leases, and the recovery of what dead ones held.

A row in `executors` is one incarnation; its id is never used again. It is alive while `dead_at` is null. Only
the living may renew, and marking dead and renewing exclude each other by the row's lock. A row of `executions`
that runs under an owner who isn't alive is recovered, however it came to be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import field, frozen
from sqlalchemy import ColumnElement, Select, delete, exists, func, insert, literal, select, update
from sqlalchemy.engine import Connection

from durable_sync.execution import ExecutionStatus
from durable_sync.plans import End
from durable_sync.storage.recording import end_of
from durable_sync.storage.records import Lineage
from durable_sync.storage.statements import Fenced, Sql, apply_fenced
from durable_sync.storage.trees import Effects, lock_trees, settle
from durable_sync.transitions import give_up, lane_of, recover

__all__ = [
    "Incarnation",
    "Reaped",
    "Survey",
    "bury",
    "mark_dead",
    "owned",
    "reap",
    "register",
    "renew",
    "resign",
    "survey",
]

_RECOVERED_AT_ONCE = 500
_TOMBSTONE_SECONDS = 3600


@frozen(kw_only=True)
class Incarnation:
    """One life of one executor in one process."""

    executor_id: str
    name: str
    hostname: str
    pid: int
    lease: int
    """Microseconds a renewal lasts."""


@frozen
class Reaped:
    """What one sweep did."""

    dead: list[str] = field(factory=list[str])
    """Incarnations it marked dead."""
    recovered: list[tuple[str, str, str]] = field(factory=list[tuple[str, str, str]])
    """(task id, execution id, dead owner) of what is ready again."""
    given_up: list[tuple[str, str, str]] = field(factory=list[tuple[str, str, str]])
    """The same of what was recovered too often, and has failed."""
    effects: Effects = field(factory=Effects)
    """What this did to trees."""


@frozen
class Survey:
    """What a look at leases and orphans showed."""

    work: bool
    """A lease has lapsed, or something runs under an owner who isn't alive."""
    next_expiry: int | None
    """Microseconds until the first lease ends; None if nobody is alive."""


def register(sql: Sql, connection: Connection, incarnation: Incarnation) -> None:
    """Enters an incarnation with a fresh lease; once there, it is left alone."""
    t = sql.tables.executors
    if connection.execute(select(t.c.id).where(t.c.id == incarnation.executor_id)).scalar() is not None:
        return
    now = sql.now()
    connection.execute(
        insert(t).values(
            id=incarnation.executor_id,
            name=incarnation.name,
            hostname=incarnation.hostname,
            pid=incarnation.pid,
            started_at=now,
            lease_expires_at=now + incarnation.lease,
        )
    )


def renew(sql: Sql, connection: Connection, incarnation: Incarnation) -> bool:
    """Extends the lease; False if the incarnation is dead, and so are its claims."""
    t = sql.tables.executors
    statement = (
        update(t)
        .where(t.c.id == incarnation.executor_id, t.c.dead_at.is_(None))
        .values(lease_expires_at=sql.now() + incarnation.lease)
    )
    return connection.execute(statement).rowcount == 1


def resign(sql: Sql, connection: Connection, executor_id: str) -> None:
    """Marks the incarnation dead by its own wish: what it still holds may be recovered at once."""
    t = sql.tables.executors
    connection.execute(update(t).where(t.c.id == executor_id, t.c.dead_at.is_(None)).values(dead_at=sql.now()))


def owned(sql: Sql, connection: Connection, executor_id: str) -> set[tuple[str, int]]:
    """(execution id, claim token) of all that the database says this incarnation runs."""
    t = sql.executions
    query = select(t.c.id, t.c.claim_token).where(*_running(sql), t.c.executor_id == executor_id)
    return {(row.id, row.claim_token) for row in connection.execute(query)}


def _running(sql: Sql) -> tuple[ColumnElement[bool], ...]:
    t = sql.executions
    # The second says nothing new, but opens the index of what is active.
    return (t.c.status == ExecutionStatus.RUNNING, t.c.finished_at.is_(None))


def mark_dead(sql: Sql, connection: Connection, *, spare: str = "") -> list[str]:
    """Marks every incarnation dead whose lease has ended, but `spare`; returns those that this call marked."""
    t = sql.tables.executors
    lapsed = (t.c.dead_at.is_(None), t.c.lease_expires_at < sql.now(), t.c.id != spare)
    suspects = connection.execute(select(t.c.id).where(*lapsed).order_by(t.c.id)).scalars().all()
    return [
        name
        for name in suspects
        if connection.execute(update(t).where(t.c.id == name, *lapsed).values(dead_at=sql.now())).rowcount == 1
    ]


def reap(sql: Sql, connection: Connection, dead: list[str], *, gave_up: str) -> Reaped:
    """Recovers one batch of what runs under owners who aren't alive.

    `gave_up` is the JSON of the error for what has been recovered too often.
    """
    # Trees are locked before rows; a first look, without locks, tells which.
    first = connection.execute(_orphans(sql)).all()
    trees = {row.root_id for row in first if row.root_id is not None and _is_spent(row)}
    lock_trees(sql, connection, trees)
    seen = connection.execute(_locking(sql, _orphans(sql))).all()
    # Asked again under the lock: a row may have been recovered and claimed anew before it was ours to lock.
    owners = {row.executor_id for row in seen}
    living = _living(sql, connection, sorted(owners)) if owners else set[str]()
    # What has died since the first look, in another tree, is left to the next sweep.
    rows = [row for row in seen if row.executor_id not in living and not (_is_spent(row) and _stranger(row, trees))]
    changes = [
        Fenced(row.id, row.claim_token, give_up(gave_up), row.task_id, Lineage.from_row(row))
        if _is_spent(row)
        else Fenced(row.id, row.claim_token, recover(lane_of(row.recoveries + 1, row.max_recoveries)))
        for row in rows
    ]
    won = apply_fenced(sql, connection, changes)
    result = Reaped(dead)
    ends: list[tuple[Lineage, End]] = []
    for row, change in zip(rows, changes, strict=True):
        if change.identity in won:
            entry = (row.task_id, row.id, row.executor_id)
            spent = change.transition.target.is_finished
            (result.given_up if spent else result.recovered).append(entry)
            ended = end_of(change) if spent else None
            if ended is not None:
                ends.append(ended)
    result.effects.finished += [execution_id for _task, execution_id, _owner in result.given_up]
    result.effects.ready = bool(result.recovered)
    settle(sql, connection, ends, result.effects)
    return result


def _is_spent(row: Any) -> bool:
    return bool(row.recoveries >= row.max_recoveries)


def _stranger(row: Any, trees: set[str]) -> bool:
    return row.root_id is not None and row.root_id not in trees


def _living(sql: Sql, connection: Connection, executor_ids: Sequence[str]) -> set[str]:
    e = sql.tables.executors
    query = select(e.c.id).where(sql.dialect.is_in(e.c.id, executor_ids), e.c.dead_at.is_(None))
    return set(connection.execute(query).scalars())


def _orphans(sql: Sql) -> Select[Any]:
    t, e = sql.executions, sql.tables.executors
    alive = exists().where(e.c.id == t.c.executor_id, e.c.dead_at.is_(None))
    columns = [
        t.c.id,
        t.c.task_id,
        t.c.root_id,
        t.c.parent_id,
        t.c.child_index,
        t.c.claim_token,
        t.c.recoveries,
        t.c.max_recoveries,
        t.c.executor_id,
    ]
    return select(*columns).where(*_running(sql), ~alive).order_by(t.c.id).limit(_RECOVERED_AT_ONCE)


def _locking(sql: Sql, query: Select[Any]) -> Select[Any]:
    return query.with_for_update(skip_locked=True) if sql.dialect.skip_locked else query


def survey(sql: Sql, connection: Connection, *, spare: str = "") -> Survey:
    """Looks, in one statement and without a lock, whether there is anything to reap; `spare`'s lease doesn't count."""
    t, e = sql.executions, sql.tables.executors
    alive = exists().where(e.c.id == t.c.executor_id, e.c.dead_at.is_(None))
    orphan = select(t.c.id).where(*_running(sql), ~alive).limit(1)
    expiry = select(func.min(e.c.lease_expires_at) - sql.now()).where(e.c.dead_at.is_(None), e.c.id != spare)
    found, next_expiry = connection.execute(select(orphan.scalar_subquery(), expiry.scalar_subquery())).one()
    return Survey(found is not None or (next_expiry is not None and next_expiry < 0), next_expiry)


def bury(sql: Sql, connection: Connection) -> int:
    """Deletes tombstones of incarnations long dead that no running execution refers to; returns how many."""
    t, e = sql.executions, sql.tables.executors
    referred = exists().where(*_running(sql), t.c.executor_id == e.c.id)
    statement = delete(e).where(e.c.dead_at < sql.now() - literal(_TOMBSTONE_SECONDS * 1_000_000), ~referred)
    return connection.execute(statement).rowcount
