"""Pretended processes that claim and record by hand, so that a test decides when."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from sqlalchemy import event

from durable_sync import Done, DurableExecutor, ParentResult, Spawn, TaskRegistry
from durable_sync.engine.attempts import Attempt, Attempts, Outcome
from durable_sync.engine.recorder import _Entry
from durable_sync.engine.spawner import Spawner
from durable_sync.errors import TaskError
from durable_sync.execution import ErrorInfo
from durable_sync.storage import leases
from durable_sync.storage.leases import Reaped
from durable_sync.storage.recording import Recorded
from durable_sync.storage.statements import Fenced
from durable_sync.storage.trees import Effects
from durable_sync.task import TaskCall
from durable_sync.transitions import fail
from tests.races.holding import incarnation, opened

registry = TaskRegistry()
"""Functions are never called: a test says what they return."""


@registry.task
def leaf(number: int = 0) -> int:
    return number


@registry.task(max_recoveries=0)
def fragile(number: int = 0) -> int:
    return number


@registry.task(id="add")
def add(parent: ParentResult[Any]) -> int:
    return sum(parent.children_outputs)


@registry.parent_task
def family() -> Spawn[str]:
    raise AssertionError


@registry.parent_task(finalize=add)
def finalized() -> Spawn[str]:
    raise AssertionError


@registry.parent_task(finalize=add, fail_fast=False)
def tolerant() -> Spawn[str]:
    raise AssertionError


@registry.task
def step(number: int) -> int:
    return number


@registry.task
def turn(number: int) -> Done[int] | None:
    return None


sequence = registry.sequential_tasks("sequence", leaf, step, step)
loop = registry.looping_task("loop", turn, max_iterations=3)
sleeper = registry.sleeping_task("sleeper")

GAVE_UP = ErrorInfo("TaskError", "gave up", "", False).to_json()
CANCELLED = ErrorInfo("TaskCancelledError", "cancelled by the test", "", False).to_json()


@frozen
class Kin:
    """The ids of those that were born with a spawn."""

    children: tuple[str, ...]
    finalize: str | None

    @classmethod
    def born_with(cls, outcome: Fenced) -> Kin:
        places = {
            None if birth.lineage is None else birth.lineage.child_index: birth.execution_id for birth in outcome.births
        }
        finalize = places.pop(None, None)
        return cls(tuple(places[place] for place in sorted(key for key in places if key is not None)), finalize)


class Process:
    """One pretended process: an executor that is never started."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.executor = DurableExecutor(url, tasks=registry, name=name)
        self.storage = self.executor._desk.prepared_storage()
        opened.append(self.storage)
        self.storage.register(incarnation(name))
        self._spawner = Spawner(self.executor._intake, self.executor._desk._serializer, 50_000, 1_000_000)
        self.errors: list[str] = []
        """What the database has refused, also what was tried again afterwards."""
        event.listen(self.storage.database.engine, "handle_error", self._note_error)

    def _note_error(self, context: Any) -> None:
        self.errors.append(str(context.original_exception))

    # --- what an attempt comes to -------------------------------------------------------------

    def claim(self, execution_id: str) -> Attempt:
        (claimed,) = self.storage.claim([execution_id], limit=1, executor_id=self.name)
        task = registry.get(claimed.task_id)
        assert task is not None
        return Attempts().hold(claimed, task, self.name)

    def returns(self, attempt: Attempt, output: Any) -> Fenced:
        """The outcome of an attempt whose function returned this."""
        return _Entry(attempt, self._spawner.outcome(attempt, output)).fenced

    def raises(self, attempt: Attempt, message: str = "no") -> Fenced:
        """The outcome of an attempt whose function raised."""
        error = ErrorInfo.of(TaskError(message)).to_json()
        return _Entry(attempt, Outcome(fail(error))).fenced

    def record(self, *outcomes: Fenced, uncertain: bool = False) -> Recorded:
        return self.storage.record(outcomes, uncertain=uncertain)

    # --- one step at a time -------------------------------------------------------------------

    def spawn(self, execution_id: str, *children: TaskCall[Any]) -> Kin:
        """Claims a parent, and records that it has spawned; a sequence or a loop takes its own children."""
        outcome = self.spawning(execution_id, *children)
        assert self.record(outcome).won == {outcome.identity}
        return Kin.born_with(outcome)

    def spawning(self, execution_id: str, *children: TaskCall[Any]) -> Fenced:
        """Claims a parent; the outcome in which it spawns."""
        attempt = self.claim(execution_id)
        if attempt.claimed.task_id in {"sequence", "loop"}:
            return self.returns(attempt, {"number": 0})
        return self.returns(attempt, Spawn("own", children=children))

    def completing(self, execution_id: str, output: Any = 0) -> Fenced:
        """Claims a leaf; the outcome in which it completes."""
        return self.returns(self.claim(execution_id), output)

    def failing(self, execution_id: str) -> Fenced:
        """Claims anything; the outcome in which it fails."""
        return self.raises(self.claim(execution_id))

    def complete(self, execution_id: str, output: Any = 0) -> None:
        outcome = self.completing(execution_id, output)
        assert self.record(outcome).won == {outcome.identity}

    def cancel(self, execution_id: str) -> Effects:
        return self.storage.cancel(execution_id, CANCELLED, patience=0)

    def reap(self) -> Reaped:
        """The second half of a sweep: recovers what dead owners held."""
        return self.storage.database.transact(
            "reap", lambda tx: leases.reap(self.storage.sql, tx.connection, [], gave_up=GAVE_UP)
        )
