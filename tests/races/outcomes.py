"""What attempts come to, for the model's machine: any outcome, with families of children of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any
from uuid import UUID

from attrs import evolve, frozen
from hypothesis import strategies as st

from durable_sync.execution import ErrorInfo
from durable_sync.plans import Plan, PlanKind
from durable_sync.storage.records import ClaimedExecution, Lineage, NewExecution
from durable_sync.storage.statements import Fenced
from durable_sync.transitions import (
    Transition,
    cancel_self,
    complete,
    fail,
    release,
    retry,
    spawn,
    spawn_finalize,
    time_out,
)

SECOND = 1_000_000
ODD = 3 * SECOND + SECOND // 2
"""The delay of rows that are inserted together: some databases put a microsecond between such, and no clock of whole
seconds may show it."""


def error(kind: str, message: str = "m") -> str:
    """As JSON."""
    return ErrorInfo(kind, message).to_json()


@frozen
class Beginning:
    """How an execution begins."""

    delay: int = 0
    key: str | None = None
    sleeps: bool = False
    timeout: int | None = None

    def row(self, execution_id: str, recoveries: int = 1) -> NewExecution:
        """To be enqueued. What is delayed differs from the rest in all else, too."""
        return NewExecution(
            execution_id=execution_id,
            task_id="s" if self.sleeps else "t",
            input='{"late": true}' if self.delay else "{}",
            queue="late" if self.delay else "q",
            priority=int(self.delay > 0),
            max_recoveries=2 if self.delay else recoveries,
            max_retries=5 if self.delay else None,
            delay=self.delay,
            key=self.key,
            sleeps=self.sleeps,
            timeout=self.timeout,
        )


PLAIN = Beginning()
DELAYED = Beginning(delay=ODD, timeout=SECOND)
KEYED = [Beginning(key=key) for key in ("k", "l")]
SLEEPERS = [
    Beginning(key="m", sleeps=True),
    Beginning(key="n", sleeps=True, timeout=3 * SECOND),
    Beginning(key="o", sleeps=True, timeout=3 * SECOND),
]

UNKEYED = st.sampled_from([PLAIN, PLAIN, DELAYED])
ANY_BEGINNING = st.sampled_from([PLAIN, PLAIN, PLAIN, PLAIN, DELAYED, *KEYED, *SLEEPERS])


@frozen
class Family:
    """Whom an execution leaves behind when its function returns."""

    kind: PlanKind
    children: tuple[Beginning, ...]
    finalize: Beginning | None = None
    fail_fast: bool = True
    max_iterations: int = 0
    delay: int = 0

    def outcome(self, claimed: ClaimedExecution, ids: Iterator[str]) -> Fenced:
        """As the spawner would have it."""
        rows = self._children(claimed, ids)
        finalize = None if self.finalize is None else _fed(self.finalize, claimed, None, claimed.execution_id, ids)
        plan = Plan(
            kind=self.kind,
            fail_fast=self.fail_fast,
            finalize=None if finalize is None else finalize.execution_id,
            max_iterations=self.max_iterations,
            delay=self.delay,
        ).to_json()
        if finalize is None:
            return _fenced(claimed, spawn('"p"', plan, len(rows)) if rows else complete('"p"', plan), *rows)
        if not rows:
            return _fenced(claimed, spawn_finalize('"p"', plan), evolve(finalize, waits_turn=False))
        return _fenced(claimed, spawn('"p"', plan, len(rows)), *rows, finalize)

    def _children(self, claimed: ClaimedExecution, ids: Iterator[str]) -> list[NewExecution]:
        rows: list[NewExecution] = []
        for place, beginning in enumerate(self.children):
            if self.kind is PlanKind.SEQUENCE and place:
                rows.append(_fed(beginning, claimed, place, rows[-1].execution_id, ids))
                continue
            # The spawner refuses two children with one key.
            shared = beginning.key is not None and beginning.key in {row.key for row in rows}
            row = evolve((PLAIN if shared else beginning).row(next(ids)), lineage=_below(claimed, place))
            # A loop whose own input is given by reference passes that on.
            rows.append(evolve(row, input_from=claimed.execution_id) if self.kind is PlanKind.LOOP else row)
        return rows


def _fed(
    beginning: Beginning, claimed: ClaimedExecution, place: int | None, source: str, ids: Iterator[str]
) -> NewExecution:
    row = beginning.row(next(ids))
    return evolve(row, lineage=_below(claimed, place), input='{"x": "output"}', input_from=source, waits_turn=True)


def _below(claimed: ClaimedExecution, place: int | None) -> Lineage:
    root_id = claimed.execution_id if claimed.lineage is None else claimed.lineage.root_id
    return Lineage(root_id=root_id, parent_id=claimed.execution_id, child_index=place)


def _fenced(claimed: ClaimedExecution, transition: Transition, *births: NewExecution, is_done: bool = False) -> Fenced:
    return Fenced(
        claimed.execution_id, claimed.claim_token, transition, claimed.task_id, claimed.lineage, births, is_done
    )


PARENTS = st.builds(
    Family,
    st.just(PlanKind.CHILDREN),
    st.one_of(st.just(()), *[st.lists(ANY_BEGINNING, min_size=1, max_size=4).map(tuple)] * 5),
    finalize=st.sampled_from([None, PLAIN, PLAIN, DELAYED]),
    fail_fast=st.booleans(),
)
SEQUENCES = st.builds(Family, st.just(PlanKind.SEQUENCE), st.lists(UNKEYED, min_size=1, max_size=3).map(tuple))
LOOPS = st.builds(
    Family,
    st.just(PlanKind.LOOP),
    st.tuples(UNKEYED),
    max_iterations=st.sampled_from([2, 1, 3]),
    delay=st.sampled_from([0, 3 * SECOND]),
)
FAMILIES = st.one_of(PARENTS, PARENTS, SEQUENCES, LOOPS)

COMPLETE = st.builds(complete, st.sampled_from(['"x"', '"y"']))
FAIL = st.builds(fail, st.just(error("E")))
ENDS = st.one_of(COMPLETE, COMPLETE, FAIL)
SINGLE = st.one_of(
    COMPLETE,
    st.builds(retry, st.just(error("E")), st.sampled_from([0, 3 * SECOND])),
    FAIL,
    st.builds(time_out, st.just(error("T"))),
    st.builds(cancel_self, st.just(error("C"))),
    st.builds(release, started=st.booleans()),
)
DONE = "done"
INTENTIONS: st.SearchStrategy[Any] = st.one_of(COMPLETE, COMPLETE, st.just(DONE), FAMILIES, FAMILIES, SINGLE)
"""What an attempt has in mind; `fenced` makes an outcome of it."""


def fenced(claimed: ClaimedExecution, intention: Any, ids: Iterator[str], *, may_spawn: bool = True) -> Fenced:
    """The outcome of an attempt."""
    if isinstance(intention, Family) and may_spawn:
        return intention.outcome(claimed, ids)
    if isinstance(intention, Transition):
        return _fenced(claimed, intention)
    return _fenced(claimed, complete('"z"'), is_done=intention == DONE)


def numbered_ids() -> Iterator[str]:
    """Ids that are the same whenever the same is done."""
    return (str(UUID(int=number)) for number in count(1))
