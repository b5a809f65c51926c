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
from durable_sync.storage.fetching import Fetch, fetch_of
from durable_sync.storage.records import ClaimedExecution
from durable_sync.storage.statements import Sql, parameters_of, rendered, update_for, without_index
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
    looks = sql.built_last(("peek", lane, discovers), wanted, lambda: _looks(sql, queues, lane, discovers=discovers))
    return _read([row for look in looks for row in look(connection, {"v_limit": limit})], tasks)


def _looks(sql: Sql, queues: Mapping[str, Sequence[str]], lane: int, *, discovers: bool) -> list[Fetch]:
    """One statement, unless there are very many tasks and queues."""
    tasks = list(queues)
    branches = [_candidates(sql, task, queue, lane) for task in tasks for queue in queues[task]]
    if lane == ORDINARY_LANE:
        branches += [_next_timer(sql), _highest_lane(sql)]
    if discovers:
        for place, task in enumerate(tasks):
            branches += _other_queues(sql, lane, place, task, sorted(queues[task]))
    return [
        fetch_of(sql, union_all(*(select(branch.subquery()) for branch in branches[start : start + _MAX_BRANCHES])))
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
    given = {"v_ids": list(candidates), "v_owner": executor_id, "v_limit": limit, **parameters_of(claim(executor_id))}
    if sql.dialect.update_returning:
        rows = sql.built("claim", lambda: Fetch(_claiming(sql)))(connection, given)
    elif sql.dialect.single_writer:
        rows = _take_alone(sql, connection, given)
    else:
        rows = _take_among_others(sql, connection, given)
    order = {name: place for place, name in enumerate(candidates)}
    claimed = [ClaimedExecution.from_values(row) for row in rows]
    return sorted(claimed, key=lambda one: order[one.execution_id])


def _guarded(sql: Sql) -> Update:
    owner = sql.tables.executors.c
    # A dead owner's claim would be recovered at once, and counted.
    alive = exists().where(owner.id == bindparam("v_owner"), owner.dead_at.is_(None))
    return update_for(sql, claim("")).where(without_index(sql.executions.c.lane) >= 0, alive)


def _claiming(sql: Sql) -> Any:
    # A CTE, because a planner may run a subquery with LIMIT more than once.
    picked = _lockable(sql).cte("picked")
    statement: Any = _guarded(sql).where(sql.executions.c.id == picked.c.id)
    return statement.returning(*_claimed_columns(sql))


def _take_alone(sql: Sql, connection: Connection, given: Mapping[str, Any]) -> list[Sequence[Any]]:
    """Where nobody else writes before COMMIT: what the rows will be is read first, and then they are made so.

    But for the time, which is a moment later in the row.
    """
    c = sql.executions.c
    free = sql.built(
        "claimable",
        lambda: fetch_of(sql, _lockable(sql).with_only_columns(*_columns_to_be(sql)), c.input, c.error),
    )
    rows = free(connection, given)
    return rows if _take_named(sql, connection, [row[0] for row in rows], given) else []


def _take_among_others(sql: Sql, connection: Connection, given: Mapping[str, Any]) -> list[Sequence[Any]]:
    c = sql.executions.c
    ids, limit = given["v_ids"], given["v_limit"]
    chosen = _locked(sql, connection, ids, limit) if sql.dialect.skip_locked else ids[:limit]
    if not _take_named(sql, connection, chosen, given):
        return []
    # Running rows of ours among the chosen are those just won: before, they were ready.
    mine = sql.built(
        "claimed",
        lambda: Fetch(
            select(*_claimed_columns(sql)).where(
                sql.dialect.is_among(c.id, "v_ids"),
                c.status == ExecutionStatus.RUNNING,
                c.executor_id == bindparam("v_owner"),
            )
        ),
    )
    return mine(connection, {**given, "v_ids": chosen})


def _take_named(sql: Sql, connection: Connection, ids: Sequence[str], given: Mapping[str, Any]) -> bool:
    """Claims those of these that may be claimed; False if there were none."""
    if not ids:
        return False
    statement = sql.built("claim", lambda: _guarded(sql).where(sql.dialect.is_among(sql.executions.c.id, "v_ids")))
    return connection.execute(statement, {**given, "v_ids": ids}).rowcount > 0


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
    return [sql.executions.c[name] for name in ClaimedExecution.COLUMNS]


def _columns_to_be(sql: Sql) -> list[Any]:
    """The same as a claim will leave them."""
    changed = {name: null() if value is None else value for name, value in rendered(sql, claim("")).items()}
    return [changed.get(name, sql.executions.c[name]).label(name) for name in ClaimedExecution.COLUMNS]
