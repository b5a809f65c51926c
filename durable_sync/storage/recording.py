"""Writes what attempts came to: outcomes, and progress on the way."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, evolve, field, frozen
from sqlalchemy import bindparam, select, update
from sqlalchemy.engine import Connection

from durable_sync.execution import ErrorInfo, ExecutionStatus
from durable_sync.plans import End
from durable_sync.storage.enqueueing import enqueue
from durable_sync.storage.keys import Enqueued
from durable_sync.storage.records import Lineage
from durable_sync.storage.statements import Fenced, Sql, apply_fenced
from durable_sync.storage.trees import Effects, end_by, lock_trees, settle
from durable_sync.transitions import fail

__all__ = ["ProgressMade", "Recorded", "end_of", "record", "save_progress"]


@frozen
class ProgressMade:
    """How far the attempt of one claim says it is, as JSON text."""

    execution_id: str
    claim_token: int
    progress: str


@define
class Recorded:
    """What came of recording some outcomes."""

    won: set[tuple[str, int]] = field(factory=set[tuple[str, int]])
    """(execution id, claim token) of those whose claims still held."""
    effects: Effects = field(factory=Effects)


def record(sql: Sql, connection: Connection, outcomes: Sequence[Fenced], *, uncertain: bool, hopeful: bool) -> Recorded:
    """Writes the outcomes whose claims still hold, with the children that are born and what parents do about it.

    `uncertain`: an earlier try may have committed, so outcomes that are there already count as written. `hopeful`: see
    `apply_fenced`.
    """
    known = _recorded(sql, connection, outcomes) if uncertain else set[tuple[str, int]]()
    recorded = Recorded(set(known))
    fresh = [outcome for outcome in outcomes if outcome.identity not in known]
    lock_trees(sql, connection, (outcome.lineage.root_id for outcome in fresh if outcome.lineage is not None))
    with_keys = [outcome for outcome in fresh if any(birth.key is not None for birth in outcome.births)]
    written = [outcome for outcome in fresh if outcome not in with_keys] if with_keys else fresh
    recorded.won |= apply_fenced(sql, connection, written, hopeful=hopeful)
    born = [birth for outcome in written if outcome.identity in recorded.won for birth in outcome.births]
    if born:
        enqueue(sql, connection, born, uncertain=False)
    for outcome in with_keys:
        written = [*written, _spawn_with_keys(sql, connection, outcome, recorded)]
    held = [outcome for outcome in written if outcome.identity in recorded.won]
    # What an earlier try did has not been told to anybody.
    told = [*held, *(outcome for outcome in outcomes if outcome.identity in known)]
    recorded.effects.ready = any(_makes_ready(outcome) for outcome in told)
    recorded.effects.finished += [outcome.execution_id for outcome in told if outcome.transition.target.is_finished]
    ended = (outcome for outcome in held if outcome.transition.target.is_finished)
    ends = [found for outcome in ended if (found := end_of(outcome)) is not None]
    settle(sql, connection, ends, recorded.effects)
    return recorded


def _makes_ready(outcome: Fenced) -> bool:
    return bool(outcome.births) or outcome.transition.target is ExecutionStatus.READY


def end_of(outcome: Fenced) -> tuple[Lineage, End] | None:
    """What the outcome of an execution means to its parent; None for a root."""
    if outcome.lineage is None:
        return None
    return outcome.lineage, end_by(
        outcome.transition, outcome.execution_id, outcome.task_id, outcome.lineage, is_done=outcome.is_done
    )


class _KeyTakenError(Exception):
    """A child's key belongs to an active execution."""


def _spawn_with_keys(sql: Sql, connection: Connection, outcome: Fenced, recorded: Recorded) -> Fenced:
    """Writes an outcome whose children have keys; if one is taken, the parent fails. Returns what was written."""
    try:
        with connection.begin_nested():
            won = apply_fenced(sql, connection, [outcome])
            if won:
                _refuse_taken(outcome, enqueue(sql, connection, outcome.births, uncertain=False))
    except _KeyTakenError as taken:
        failed = evolve(
            outcome, transition=fail(ErrorInfo("TaskError", str(taken), "", False).to_json()), births=(), is_done=False
        )
        recorded.won |= apply_fenced(sql, connection, [failed])
        return failed
    recorded.won |= won
    return outcome


def _refuse_taken(outcome: Fenced, born: Sequence[Enqueued]) -> None:
    for birth, enqueued in zip(outcome.births, born, strict=True):
        if not enqueued.created:
            raise _KeyTakenError(
                f"its child of task {birth.task_id!r} can't have the key {birth.key!r}: the active execution "
                f"{enqueued.execution_id} has it"
            )


def _recorded(sql: Sql, connection: Connection, outcomes: Sequence[Fenced]) -> set[tuple[str, int]]:
    t = sql.executions
    expected = {o.identity: _may_have_become(o) for o in outcomes}
    ids = sorted({o.execution_id for o in outcomes})
    query = select(t.c.id, t.c.claim_token, t.c.status).where(sql.dialect.is_in(t.c.id, ids))
    there = {
        (row.id, row.claim_token)
        for row in connection.execute(query)
        if ExecutionStatus(row.status) in expected.get((row.id, row.claim_token), ())
    }
    # A parent may have moved on since: that it has spawned is shown by its first child.
    firstborn = {o.births[0].execution_id: o.identity for o in outcomes if o.births}
    born = select(t.c.id).where(sql.dialect.is_in(t.c.id, sorted(firstborn)))
    return there | {firstborn[name] for name in connection.execute(born).scalars()} if firstborn else there


def _may_have_become(outcome: Fenced) -> set[ExecutionStatus]:
    has_keys = any(birth.key is not None for birth in outcome.births)
    return {outcome.transition.target, ExecutionStatus.FAILED} if has_keys else {outcome.transition.target}


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
