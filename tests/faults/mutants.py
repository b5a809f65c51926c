"""Ways to break the library, each of which the checker must catch."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from attrs import evolve
from sqlalchemy import BigInteger, Integer, bindparam, literal, select, update

from durable_sync.execution import ACTIVE

__all__ = ["MUTANTS", "apply"]


def no_fence() -> None:
    """Outcomes are written whatever claim they are of."""
    _refence(lambda _owner: True)


def fence_by_owner() -> None:
    """Outcomes are written if the same process owns the execution, under whatever claim."""
    _refence(lambda owner: owner == os.environ["WORKER"])


def _refence(accepts: Callable[[str | None], bool]) -> None:
    """Gives outcomes the token of the row's present claim, if `accepts` the name of the executor that has it."""
    from durable_sync.storage import recording

    apply_fenced = recording.apply_fenced

    def refenced(sql: Any, connection: Any, changes: Any, **options: Any) -> set[tuple[str, int]]:
        t, e = sql.executions, sql.tables.executors
        changes = list(changes)
        ids = sorted({change.execution_id for change in changes})
        query = select(t.c.id, t.c.claim_token, e.c.name).select_from(t.outerjoin(e, e.c.id == t.c.executor_id))
        found = {row.id: row for row in connection.execute(query.where(sql.dialect.is_in(t.c.id, ids)))}
        renewed: dict[tuple[str, int], Any] = {}
        for change in changes:
            row = found[change.execution_id]
            token = row.claim_token if accepts(row.name) else change.claim_token
            renewed[change.execution_id, token] = evolve(change, claim_token=token)
        won = apply_fenced(sql, connection, renewed.values(), **options)
        return {change.identity for change in changes if any(name == change.execution_id for name, _ in won)}

    recording.apply_fenced = refenced


def claim_without_guard() -> None:
    """A claim takes what it saw, whatever has become of it since."""
    from durable_sync.storage import claiming

    def unguarded(sql: Any, transition: Any) -> Any:
        return _Unguarded(update_for(sql, evolve(transition, sources=ACTIVE)))

    def lockable(sql: Any) -> Any:
        c = sql.executions.c
        return select(c.id).where(sql.dialect.is_among(c.id, "v_ids")).limit(bindparam("v_limit", type_=Integer))

    update_for = claiming.update_for
    claiming.update_for = unguarded
    claiming._lockable = lockable


class _Unguarded:
    """A claim whose first condition, the guard, is left out."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement

    def where(self, *_guard: Any) -> Any:
        return self._statement


def child_counted_twice() -> None:
    """A child's end takes two from its parent's count."""
    from durable_sync.plans import Plan, PlanKind

    after = Plan.after

    def hasty(self: Plan, unfinished: int, ends: Any) -> Any:
        early = self.kind is PlanKind.CHILDREN and ends[0].child_index is not None and unfinished > len(ends)
        return after(self, unfinished - len(ends) if early else unfinished, ends)

    Plan.after = hasty  # type: ignore[method-assign]


def leases_in_local_time(skew: float = 600.0) -> None:
    """Leases are compared with this process's clock, which is ahead."""
    from durable_sync.clock import SteadyClock
    from durable_sync.storage import leases

    class _Local:
        def __init__(self, sql: Any) -> None:
            self._sql = sql

        def now(self) -> Any:
            return literal(SteadyClock().now() + round(skew * 1e6), BigInteger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sql, name)

    mark_dead, survey = leases.mark_dead, leases.survey
    leases.mark_dead = lambda sql, connection, **options: mark_dead(_Local(sql), connection, **options)
    leases.survey = lambda sql, connection, **options: survey(_Local(sql), connection, **options)


def dead_renewed() -> None:
    """A renewal is accepted after the incarnation was marked dead."""
    from durable_sync.storage import leases

    def renew(sql: Any, connection: Any, incarnation: Any) -> bool:
        t = sql.tables.executors
        statement = update(t).where(t.c.id == incarnation.executor_id)
        values = {"lease_expires_at": sql.now() + incarnation.lease, "dead_at": None}
        return bool(connection.execute(statement.values(**values)).rowcount == 1)

    leases.renew = renew


def no_comparison() -> None:
    """Nobody looks for rows that are this incarnation's and that it doesn't know; and claims do get lost."""
    from durable_sync.engine.claimer import Claimer
    from durable_sync.engine.heartbeat import Heartbeat

    Heartbeat._compare = lambda self: None  # type: ignore[method-assign]
    take_in = Claimer._take_in

    def forgetful(self: Claimer, *claimed: Any) -> None:
        if random.random() > 0.05:
            take_in(self, *claimed)

    Claimer._take_in = forgetful  # type: ignore[method-assign]


def forgotten_claims() -> None:
    """No mutant: claims get lost on the way, as when a COMMIT's answer is; the library must cope."""
    from durable_sync.engine.heartbeat import Heartbeat

    compare = Heartbeat._compare
    no_comparison()
    Heartbeat._compare = compare  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        no_fence,
        fence_by_owner,
        claim_without_guard,
        child_counted_twice,
        leases_in_local_time,
        dead_renewed,
        no_comparison,
        forgotten_claims,
    )
}


def apply(name: str) -> None:
    """Breaks the library in this process."""
    MUTANTS[name]()
