"""Turns what a function returned into an outcome: its output as text, its plan, and the rows of its children."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve

from durable_sync.clock import microseconds
from durable_sync.engine.attempts import Attempt, Outcome
from durable_sync.errors import DurableError, SerializationError, TaskError
from durable_sync.families import Done, is_done, is_spawn
from durable_sync.intake import Intake
from durable_sync.kinds import Loop, Parent, Sequence
from durable_sync.outputs import RESULT, VALUE
from durable_sync.plans import Plan, PlanKind
from durable_sync.serialization import Serializer
from durable_sync.storage.records import ClaimedExecution, Lineage, NewExecution
from durable_sync.task import Task, TaskCall
from durable_sync.transitions import complete, spawn, spawn_finalize

__all__ = ["Spawner"]


class Spawner:
    """Its methods raise DurableError for what can't be written. For any thread."""

    def __init__(self, intake: Intake, serializer: Serializer, max_children: int, max_payload_bytes: int) -> None:
        self._intake = intake
        self._serializer = serializer
        self._max_children = max_children
        self._max_payload_bytes = max_payload_bytes

    def outcome(self, attempt: Attempt, returned: Any) -> Outcome:
        """The outcome of an attempt whose function returned this; of a sequence or a loop, its arguments."""
        match attempt.task.kind:
            case Parent() as parent:
                return self._spawned(attempt, parent, returned)
            case Sequence(steps):
                return self._sequence(attempt, steps, returned)
            case Loop() as loop:
                return self._loop(attempt, loop, returned)
            case _:
                if is_spawn(returned):
                    raise TaskError(f"{attempt.task.id!r} returned Spawn: declare it with parent_task")
                text = self._encode(attempt.task, returned)
                return Outcome(complete(text), is_done=is_done(returned))

    def _spawned(self, attempt: Attempt, kind: Parent, returned: Any) -> Outcome:
        task, claimed = attempt.task, attempt.claimed
        if not is_spawn(returned):
            raise TaskError(
                f"a parent task returns Spawn(output, children), and {task.id!r} returned {returned!r:.200}"
            )
        text = self._encode(task, returned.output)
        self._refuse_too_many(task, len(returned.children))
        children = [self._child(claimed, place, call) for place, call in enumerate(returned.children)]
        _refuse_shared_keys(task, children)
        finalize = self._finalize(claimed, kind) if kind.finalize is not None else None
        plan = Plan(
            kind=PlanKind.CHILDREN,
            fail_fast=kind.fail_fast,
            finalize=None if finalize is None else finalize.execution_id,
        ).to_json()
        if finalize is None:
            return Outcome(spawn(text, plan, len(children)) if children else complete(text, plan), tuple(children))
        if not children:
            return Outcome(spawn_finalize(text, plan), (evolve(finalize, waits_turn=False),))
        return Outcome(spawn(text, plan, len(children)), (*children, finalize))

    def _child(self, claimed: ClaimedExecution, place: int, call: TaskCall[Any]) -> NewExecution:
        try:
            row = self._intake.row(call)
        except DurableError as error:
            raise TaskError(f"children[{place}]: {type(error).__name__}: {error}") from error
        return evolve(row, lineage=_below(claimed, place))

    def _finalize(self, claimed: ClaimedExecution, kind: Parent) -> NewExecution:
        assert kind.finalize is not None
        row = self._intake.fed_row(kind.finalize, claimed.execution_id, RESULT)
        row = evolve(row, lineage=_below(claimed, None))
        if not kind.hides_finalize:
            return row
        return evolve(row, queue=claimed.queue, priority=claimed.priority, timeout=claimed.timeout)

    def _sequence(self, attempt: Attempt, steps: tuple[Task[..., Any], ...], arguments: Any) -> Outcome:
        claimed = attempt.claimed
        self._refuse_too_many(attempt.task, len(steps))
        rows = [self._first(claimed, steps[0], arguments)]
        for place, step in enumerate(steps[1:], 1):
            row = self._intake.fed_row(step, rows[-1].execution_id, VALUE)
            rows.append(evolve(row, lineage=_below(claimed, place)))
        plan = Plan(kind=PlanKind.SEQUENCE).to_json()
        return Outcome(spawn("null", plan, len(rows)), tuple(rows))

    def _loop(self, attempt: Attempt, kind: Loop, arguments: Any) -> Outcome:
        plan = Plan(kind=PlanKind.LOOP, max_iterations=kind.max_iterations, delay=microseconds(kind.delay)).to_json()
        return Outcome(spawn("null", plan, 1), (self._first(attempt.claimed, kind.iteration, arguments),))

    def _first(self, claimed: ClaimedExecution, task: Task[..., Any], arguments: Any) -> NewExecution:
        """The row of what takes the same input; what is given by reference is passed on by reference."""
        if claimed.input_from is None:
            row = self._intake.row(TaskCall(task, arguments))
        else:
            what = next(iter(json.loads(claimed.input).values()))
            row = evolve(self._intake.fed_row(task, claimed.input_from, what), waits_turn=False)
        return evolve(row, lineage=_below(claimed, 0))

    def _refuse_too_many(self, task: Task[..., Any], children: int) -> None:
        if children > self._max_children:
            raise TaskError(
                f"task {task.id!r} has {children} children, more than max_children={self._max_children}: raise the "
                "limit, or spread them over several parents"
            )

    def _encode(self, task: Task[..., Any], output: Any) -> str:
        annotation = task.run_annotation
        if annotation is Any and is_done(output):
            annotation = Done[Any]
        try:
            text = self._serializer.dumps(output, annotation)
        except SerializationError as error:
            raise SerializationError(f"the output of task {task.id!r}: {error.message}") from error
        if len(text) > self._max_payload_bytes:
            raise SerializationError(
                f"the output of task {task.id!r} is {len(text)} bytes of JSON, more than max_payload_bytes="
                f"{self._max_payload_bytes}: store it elsewhere and return where"
            )
        return text


def _below(claimed: ClaimedExecution, place: int | None) -> Lineage:
    root_id = claimed.execution_id if claimed.lineage is None else claimed.lineage.root_id
    return Lineage(root_id=root_id, parent_id=claimed.execution_id, child_index=place)


def _refuse_shared_keys(task: Task[..., Any], children: list[NewExecution]) -> None:
    seen: set[tuple[str, str]] = set()
    for place, child in enumerate(children):
        if child.key is not None and (child.task_id, child.key) in seen:
            raise TaskError(
                f"children[{place}] of {task.id!r}: another child of task {child.task_id!r} has the key {child.key!r}"
            )
        if child.key is not None:
            seen.add((child.task_id, child.key))
