"""What an end does to parents, siblings and descendants, in the transaction of that end.

One lock a tree: whoever ends a member, or gives one children, first locks the row of the tree's root, and of
several trees in the order of their ids (docs/adr/0010-one-lock-a-tree.md). Under it nobody else changes what waits
for children, so what is read stays true until COMMIT. Claims need no such lock: they take ready rows only, and wait for
nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import define, evolve, field
from sqlalchemy import BigInteger, SmallInteger, and_, cast, insert, literal, null, or_, select
from sqlalchemy.engine import Connection

from durable_sync.errors import TaskCancelledError
from durable_sync.execution import ErrorInfo, ExecutionStatus
from durable_sync.ids import new_id
from durable_sync.plans import Consequence, End, Plan
from durable_sync.storage.records import Lineage
from durable_sync.storage.statements import Sql, apply_to
from durable_sync.transitions import ORDINARY_LANE, Transition, cancel, take_turn

__all__ = ["Effects", "end", "end_by", "lock_trees", "settle"]

_AT_ONCE = 500
_REPEATED = (
    "task_id",
    "root_id",
    "parent_id",
    "queue",
    "priority",
    "max_recoveries",
    "delay",
    "timeout",
    "max_retries",
    "input",
    "input_from",
)
"""What an iteration has from the one before it."""
_HAVE_CHILDREN = frozenset({ExecutionStatus.WAITING_FOR_CHILDREN, ExecutionStatus.WAITING_FOR_FINALIZE})


@define
class Effects:
    """What a transaction did that others want to hear of, once it has committed."""

    finished: list[str] = field(factory=list[str])
    """The ids of what has finished."""
    stopped: list[str] = field(factory=list[str])
    """Those of them that were running, and whose attempts are to stop."""
    ready: bool = False
    """Something has become ready."""


def lock_trees(sql: Sql, connection: Connection, roots: Iterable[str]) -> None:
    """Locks trees, by the ids of their roots, until the transaction's end."""
    wanted = sorted(set(roots))
    if sql.dialect.single_writer or not wanted:
        return
    t = sql.executions
    query = sql.built(
        "lock_trees",
        lambda: select(t.c.id).where(sql.dialect.is_among(t.c.id, "v_ids")).order_by(t.c.id).with_for_update(),
    )
    for some in _chunks(wanted):
        connection.execute(query, {"v_ids": some}).all()


def end(sql: Sql, connection: Connection, ids: Sequence[str], transition: Transition) -> Effects:
    """Ends those of these executions that stand in the transition's sources, with all that follows."""
    t = sql.executions
    family = [t.c.id, t.c.task_id, t.c.root_id, t.c.parent_id, t.c.child_index, t.c.status]
    named = sql.dialect.is_in(t.c.id, sorted(ids))
    # Whose tree it is never changes, so this may be read before the tree is locked.
    roots = {row.root_id or row.id for row in connection.execute(select(t.c.id, t.c.root_id).where(named))}
    lock_trees(sql, connection, roots)
    standing = sql.dialect.is_in(t.c.status, sorted(transition.sources))
    held = connection.execute(select(*family).where(named, standing).order_by(t.c.id).with_for_update()).all()
    effects = Effects()
    if not held:
        return effects
    apply_to(sql, connection, [row.id for row in held], transition)
    _note_ended(effects, held)
    parents = [row.id for row in held if ExecutionStatus(row.status) in _HAVE_CHILDREN]
    if parents:
        _cascade(sql, connection, parents, effects)
    ends = [_ending(row, transition) for row in held if row.parent_id is not None]
    settle(sql, connection, ends, effects)
    return effects


def _ending(row: Any, transition: Transition, *, is_done: bool = False, wraps: bool = False) -> tuple[Lineage, End]:
    lineage = Lineage(root_id=row.root_id, parent_id=row.parent_id, child_index=row.child_index)
    ended = end_by(transition, row.id, row.task_id, lineage, is_done=is_done)
    return lineage, evolve(ended, output_from=None) if wraps else ended


def end_by(transition: Transition, execution_id: str, task_id: str, lineage: Lineage, *, is_done: bool = False) -> End:
    """How an execution ends by a transition."""
    values = transition.values
    error, output_from = values.get("error"), values.get("output_from")
    return End(
        execution_id=execution_id,
        task_id=task_id,
        child_index=lineage.child_index,
        status=transition.target,
        error=error if isinstance(error, str) else None,
        output_from=output_from if isinstance(output_from, str) else None,
        is_done=is_done,
    )


def _note_ended(effects: Effects, rows: Iterable[Any]) -> None:
    for row in rows:
        effects.finished.append(row.id)
        if ExecutionStatus(row.status) is ExecutionStatus.RUNNING:
            effects.stopped.append(row.id)


def _cascade(sql: Sql, connection: Connection, parents: Sequence[str], effects: Effects) -> None:
    """Cancels what is active below these executions, level by level. Their trees are locked."""
    t = sql.executions
    roots = _roots_of(sql, connection, parents)
    error = ErrorInfo.of(TaskCancelledError("cancelled, because a task that it was spawned for has ended"))
    level: Sequence[str] = sorted(parents)
    while level:
        children: list[Any] = []
        for some in _chunks(level):
            query = (
                select(t.c.id, t.c.status)
                .where(
                    sql.dialect.is_in(t.c.root_id, roots),
                    sql.dialect.is_in(t.c.parent_id, some),
                    t.c.finished_at.is_(None),
                )
                .order_by(t.c.id)
                .with_for_update()
            )
            children += connection.execute(query).all()
        apply_to(sql, connection, [row.id for row in children], cancel(error.to_json()))
        _note_ended(effects, children)
        level = [row.id for row in children if ExecutionStatus(row.status) in _HAVE_CHILDREN]


def _roots_of(sql: Sql, connection: Connection, ids: Sequence[str]) -> list[str]:
    t = sql.executions
    rows = [
        row
        for some in _chunks(ids)
        for row in connection.execute(select(t.c.id, t.c.root_id).where(sql.dialect.is_in(t.c.id, some)))
    ]
    return sorted({row.root_id or row.id for row in rows})


def settle(sql: Sql, connection: Connection, ends: Sequence[tuple[Lineage, End]], effects: Effects) -> None:
    """Tells parents how children of theirs have ended, their own parents how they end by it, and so on up.

    The trees are locked, and the ends written.
    """
    level = list(ends)
    while level:
        level = _settle_level(sql, connection, level, effects)


def _settle_level(
    sql: Sql, connection: Connection, ends: Sequence[tuple[Lineage, End]], effects: Effects
) -> list[tuple[Lineage, End]]:
    by_parent: dict[str, list[End]] = {}
    for lineage, ended in ends:
        by_parent.setdefault(lineage.parent_id, []).append(ended)
    changes: list[tuple[Any, Consequence]] = []
    for parent in _waiting(sql, connection, sorted(by_parent)):
        plan = Plan.from_json(parent.plan)
        changes.append((parent, plan.after(parent.unfinished_children, by_parent[parent.id])))
    _apply(sql, connection, [(parent.id, consequence.transition) for parent, consequence in changes])
    _take_turns(sql, connection, changes, effects)
    _iterate(sql, connection, changes, effects)
    finished = [(parent, next_) for parent, next_ in changes if next_.transition.target.is_finished]
    effects.finished += [parent.id for parent, _ in finished]
    failed = [parent.id for parent, next_ in finished if next_.transition.target is not ExecutionStatus.COMPLETED]
    if failed:
        _cascade(sql, connection, failed, effects)
    return [
        _ending(parent, next_.transition, is_done=next_.is_done, wraps=next_.wraps)
        for parent, next_ in finished
        if parent.parent_id is not None
    ]


def _waiting(sql: Sql, connection: Connection, ids: Sequence[str]) -> list[Any]:
    """Of these, the rows that wait for a child or their finalize, and that nobody else changes until COMMIT."""
    query = sql.built("waiting", lambda: _those_that_wait(sql))
    rows: list[Any] = []
    for some in _chunks(ids):
        rows += connection.execute(query, {"v_ids": some})
    return rows


def _those_that_wait(sql: Sql) -> Any:
    t = sql.executions
    columns = [
        t.c.id,
        t.c.task_id,
        t.c.root_id,
        t.c.parent_id,
        t.c.child_index,
        t.c.unfinished_children,
        t.c.plan,
    ]
    waits = sql.dialect.is_in(t.c.status, sorted(_HAVE_CHILDREN))
    query = select(*columns).where(sql.dialect.is_among(t.c.id, "v_ids"), waits).order_by(t.c.id)
    # The tree's lock keeps others of this server away, and not those of another node.
    return query.with_for_update() if sql.dialect.nodes_lock_alone else query


def _apply(sql: Sql, connection: Connection, changes: Sequence[tuple[str, Transition]]) -> None:
    alike: dict[tuple[object, ...], tuple[Transition, list[str]]] = {}
    for execution_id, transition in changes:
        same = (transition.name, *transition.values.values())
        alike.setdefault(same, (transition, []))[1].append(execution_id)
    for transition, ids in alike.values():
        apply_to(sql, connection, ids, transition)


def _take_turns(sql: Sql, connection: Connection, changes: Sequence[tuple[Any, Consequence]], effects: Effects) -> None:
    t = sql.executions
    places = [
        and_(t.c.root_id == (parent.root_id or parent.id), t.c.parent_id == parent.id, t.c.child_index == next_.turn_of)
        for parent, next_ in changes
        if next_.turn_of is not None
    ]
    finalizes = [next_.finalize for _, next_ in changes if next_.finalize is not None]
    queries = [or_(*some) for some in _chunks(places, 50)]
    queries += [sql.dialect.is_in(t.c.id, some) for some in _chunks(sorted(finalizes))]
    by_delay: dict[int, list[str]] = {}
    for query in queries:
        for row in connection.execute(select(t.c.id, t.c.delay).where(query)):
            by_delay.setdefault(row.delay or 0, []).append(row.id)
    for delay, ids in by_delay.items():
        apply_to(sql, connection, ids, take_turn(delay))
        effects.ready = True


def _iterate(sql: Sql, connection: Connection, changes: Sequence[tuple[Any, Consequence]], effects: Effects) -> None:
    """Gives loops their next iteration: a copy of the last one's beginning."""
    t = sql.executions
    for parent, next_ in changes:
        if next_.iterates_after is None:
            continue
        last = and_(
            t.c.root_id == (parent.root_id or parent.id),
            t.c.parent_id == parent.id,
            t.c.child_index == next_.iterates_after,
        )
        pause = Plan.from_json(parent.plan).delay + (connection.execute(select(t.c.delay).where(last)).scalar() or 0)
        ready_at = sql.now() + literal(pause, BigInteger)
        chosen = {
            **{name: t.c[name] for name in _REPEATED},
            "id": literal(new_id()),
            "child_index": literal(next_.iterates_after + 1),
            "status": literal(ExecutionStatus.READY.value),
            "lane": literal(None if pause > 0 else ORDINARY_LANE, SmallInteger),
            "timer_at": ready_at if pause > 0 else cast(null(), BigInteger),
            "created_at": sql.now(),
            "ready_at": ready_at,
            "updated_at": sql.now(),
        }
        connection.execute(insert(t).from_select(list(chosen), select(*chosen.values()).where(last)))
        effects.ready = True


def _chunks(items: Sequence[Any], size: int = _AT_ONCE) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
