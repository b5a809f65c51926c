"""Finds what may be claimed, and claims it.

A claim must not wade through what it can't take. So `peek` looks into the claim index once for each task and
queue that this executor serves, and `take` then claims the best of what it saw, guarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from attrs import frozen
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    String,
    Update,
    and_,
    bindparam,
    cast,
    exists,
    literal,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.engine import Connection

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.records import ClaimedExecution
from durable_sync.storage.statements import Sql, parameters_of, update_for, without_index
from durable_sync.transitions import ORDINARY_LANE, claim

__all__ = ["Glimpse", "peek", "take"]

_CANDIDATE, _TIMER, _HIGHEST_LANE, _QUEUE = range(4)
_MAX_BRANCHES = 200
"""Branches in one UNION: SQLite takes 500."""


@frozen
class Glimpse:
    """What a look at the claim index showed."""

    candidates: Sequence[str] = ()
    """Ids that may be claimed, best first."""
    timer_in: int | None = None
    """Microseconds until the next timer; zero or less if one is due; None if there is none."""
    recovered: bool = False
    """There may be recovered executions waiting."""
    queues: frozenset[tuple[str, str]] = frozenset()
    """(task, queue) with work that was not asked about."""


def peek(
    sql: Sql,
    connection: Connection,
    *,
    queues: Mapping[str, Sequence[str]],
    lane: int,
    limit: int,
    discovers: bool,
) -> Glimpse:
    """Looks in one lane for up to `limit` executions of the tasks, in the queues that `queues` gives for each.

    With `discovers`, also for queues not given. In the ordinary lane it tells of timers and of recovered work.
    """
    tasks = list(queues)
    wanted = tuple((task, tuple(names)) for task, names in queues.items())
    statements = sql.built_last(
        ("peek", lane, discovers), wanted, lambda: _looks(sql, queues, lane, discovers=discovers)
    )
    rows: list[Any] = []
    for statement in statements:
        rows += _all(connection, statement, {"v_limit": limit})
    return _read(rows, tasks)


def _looks(sql: Sql, queues: Mapping[str, Sequence[str]], lane: int, *, discovers: bool) -> list[Any]:
    """One statement, unless there are very many tasks and queues."""
    tasks = list(queues)
    branches = [_candidates(sql, task, queue, lane) for task in tasks for queue in queues[task]]
    if lane == ORDINARY_LANE:
        branches += [_next_timer(sql), _highest_lane(sql)]
    if discovers:
        for place, task in enumerate(tasks):
            branches += _other_queues(sql, lane, place, task, sorted(queues[task]))
    return [
        union_all(*(select(branch.subquery()) for branch in branches[start : start + _MAX_BRANCHES]))
        for start in range(0, len(branches), _MAX_BRANCHES)
    ]


def _read(rows: Iterable[Any], tasks: Sequence[str]) -> Glimpse:
    candidates: list[tuple[int, int, str]] = []
    timer_in: int | None = None
    recovered = False
    found: set[tuple[str, str]] = set()
    for kind, name, priority, instant in rows:
        if kind == _CANDIDATE:
            candidates.append((-priority, instant, name))
        elif kind == _TIMER:
            timer_in = instant
        elif kind == _HIGHEST_LANE:
            recovered = instant > ORDINARY_LANE
        else:
            found.add((tasks[int(instant)], name))
    return Glimpse([name for _, _, name in sorted(candidates)], timer_in, recovered, frozenset(found))


def _branch(kind: int, name: ColumnElement[Any], priority: ColumnElement[Any], instant: ColumnElement[Any]) -> Any:
    return select(
        literal(kind, Integer).label("kind"),
        cast(name, String(255)).label("name") if kind != _CANDIDATE else name.label("name"),
        priority.label("priority"),
        instant.label("instant"),
    )


def _candidates(sql: Sql, task: str, queue: str, lane: int) -> Any:
    c = sql.executions.c
    return (
        _branch(_CANDIDATE, c.id, c.priority, c.ready_at)
        .where(c.lane == lane, c.task_id == task, c.queue == queue)
        .order_by(c.priority.desc(), c.ready_at)
        .limit(bindparam("v_limit", type_=Integer))
    )


def _next_timer(sql: Sql) -> Any:
    c = sql.executions.c
    return (
        _branch(_TIMER, null(), cast(null(), Integer), c.timer_at - sql.now())
        .where(c.timer_at.is_not(None))
        .order_by(c.timer_at)
        .limit(1)
    )


def _highest_lane(sql: Sql) -> Any:
    # In the index's own order: a bare condition on the lane had PostgreSQL read the whole table.
    c = sql.executions.c
    return (
        _branch(_HIGHEST_LANE, null(), cast(null(), Integer), cast(c.lane, BigInteger))
        .where(c.lane.is_not(None))
        .order_by(c.lane.desc())
        .limit(1)
    )


def _other_queues(sql: Sql, lane: int, place: int, task: str, queues: Sequence[str]) -> list[Any]:
    """One look into each gap between the known queues' names, so that a long known queue costs nothing."""
    c = sql.executions.c
    if not queues:
        gaps: list[ColumnElement[bool]] = [true()]
    else:
        gaps = [c.queue < queues[0]]
        gaps += [and_(c.queue > before, c.queue < after) for before, after in pairwise(queues)]
        gaps.append(c.queue > queues[-1])
    return [
        _branch(_QUEUE, c.queue, cast(null(), Integer), cast(literal(place, Integer), BigInteger))
        .where(c.lane == lane, c.task_id == task, gap)
        .limit(1)
        for gap in gaps
    ]


def take(
    sql: Sql, connection: Connection, *, candidates: Sequence[str], limit: int, executor_id: str
) -> list[ClaimedExecution]:
    """Claims up to `limit` of the candidates that may still be claimed; nothing is won before COMMIT returns."""
    chosen = list(candidates if sql.dialect.claims_from_many else candidates[:limit])
    given = {"v_ids": chosen, "v_owner": executor_id, "v_limit": limit, **parameters_of(claim(executor_id))}
    if sql.dialect.update_returning:
        rows = _all(connection, sql.built("claim", lambda: _claiming(sql)), given)
    else:
        rows = _take_in_two_steps(sql, connection, given)
    order = {name: place for place, name in enumerate(candidates)}
    return sorted((ClaimedExecution.from_row(row) for row in rows), key=lambda claimed: order[claimed.execution_id])


def _all(connection: Connection, statement: Any, given: Mapping[str, Any]) -> list[Any]:
    result: Any = connection.execute(statement, given)
    return list(result)


def _guarded(sql: Sql) -> Update:
    owner = sql.tables.executors.c
    # A dead owner's claim would be recovered at once, and counted.
    alive = exists().where(owner.id == bindparam("v_owner"), owner.dead_at.is_(None))
    return update_for(sql, claim("")).where(without_index(sql.executions.c.lane) >= 0, alive)


def _claiming(sql: Sql) -> Any:
    c = sql.executions.c
    free = _lockable(sql)
    # Elsewhere a CTE, because a planner may run a subquery with LIMIT more than once.
    chosen = c.id.in_(free) if sql.dialect.single_writer else c.id == free.cte("picked").c.id
    statement: Any = _guarded(sql).where(chosen)
    return statement.returning(*_claimed_columns(sql))


def _take_in_two_steps(sql: Sql, connection: Connection, given: Mapping[str, Any]) -> list[Any]:
    c = sql.executions.c
    if sql.dialect.skip_locked:
        chosen = _locked(sql, connection, given["v_ids"], given["v_limit"])
        if not chosen:
            return []
        given = {**given, "v_ids": chosen}
    among = sql.dialect.is_among(c.id, "v_ids")
    connection.execute(sql.built("claim", lambda: _guarded(sql).where(among)), given)
    # Running rows of ours among the candidates are those just won: before, they were ready.
    mine = sql.built(
        "claimed",
        lambda: select(*_claimed_columns(sql)).where(
            among, c.status == ExecutionStatus.RUNNING, c.executor_id == bindparam("v_owner")
        ),
    )
    return _all(connection, mine, given)


def _locked(sql: Sql, connection: Connection, ids: Sequence[str], limit: int) -> list[str]:
    """Locks the first `limit` that nobody has locked.

    InnoDB locks all that it sorts, whatever the LIMIT, so it is given no more than that, and then twice as many.
    """
    statement = sql.built("lockable", lambda: _lockable(sql))
    chosen: list[str] = []
    start, size = 0, limit
    while start < len(ids) and len(chosen) < limit:
        given = {"v_ids": list(ids[start : start + size]), "v_limit": limit - len(chosen)}
        chosen += connection.execute(statement, given).scalars()
        start, size = start + size, size * 2
    return chosen


def _lockable(sql: Sql) -> Any:
    c = sql.executions.c
    return (
        select(c.id)
        .where(sql.dialect.is_among(c.id, "v_ids"), c.status == ExecutionStatus.READY, without_index(c.lane) >= 0)
        .order_by(c.priority.desc(), c.ready_at)
        .limit(bindparam("v_limit", type_=Integer))
        .with_for_update(skip_locked=True)
    )


def _claimed_columns(sql: Sql) -> list[Any]:
    c = sql.executions.c
    return [
        c.id,
        c.task_id,
        c.claim_token,
        c.starts,
        c.failures,
        c.recoveries,
        c.max_recoveries,
        c.idle_for,
        c.first_started_at,
        c.started_at,
        c.timeout,
        c.max_retries,
        c.queue,
        c.priority,
        c.root_id,
        c.parent_id,
        c.child_index,
        c.input,
        c.input_from,
        c.error,
    ]
