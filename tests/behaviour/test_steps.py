"""Steps of sequences: of every kind of task, failing, and cancelled."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from attrs import frozen
from sqlalchemy import Engine

from durable_sync import (
    ChildrenFailedError,
    Done,
    DurableExecutor,
    ExecutionStatus,
    LoopResult,
    ParentOutput,
    ParentResult,
    Spawn,
    TaskContext,
)
from tests.behaviour.looking import active_tasks, child_ids, run_until_stopped, wait_for
from tests.gates import Gate
from tests.paths import every_path, one_database

SOON = 10.0
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@frozen
class Title:
    text: str
    at: datetime


def add_one(n: int) -> int:
    return n + 1


# steps of other kinds


@every_path
def test_sequences_nest(executor: DurableExecutor) -> None:
    """A sequence may be any step of a sequence: the first, one in the middle, the last."""
    step = executor.task(add_one)

    @executor.task
    def double(n: int) -> int:
        return n * 2

    inner = executor.sequential_tasks("inner", step, double)
    deeper = executor.sequential_tasks("deeper", inner, step)
    outer = executor.sequential_tasks("outer", inner, deeper, step, inner)

    # ((1+1)*2=4, (4+1)*2+1=11, 12, 13*2=26)
    handle = executor.enqueue(outer, 1)
    assert handle.result(timeout=SOON) == 26
    assert executor.enqueue(deeper, 1).result(timeout=SOON) == 5


@one_database
def test_typed_values_through_nested_sequences(executor: DurableExecutor) -> None:
    """A nested sequence passes typed values on as its own steps do."""
    seen: list[object] = []

    @executor.task
    def first(at: datetime) -> Title:
        return Title("one", at)

    @executor.task
    def same(title: Title) -> Title:
        seen.append(title)
        return title

    inner = executor.sequential_tasks("inner", same, same)
    outer = executor.sequential_tasks("outer", first, inner, same, inner)

    assert executor.enqueue(outer, NOON).result(timeout=SOON) == Title("one", NOON)
    assert seen == [Title("one", NOON)] * 5


@every_path
def test_a_parent_may_be_a_step(executor: DurableExecutor) -> None:
    """A step that is a parent is done when its tree is; the next step is fed its output, typed."""
    seen: list[object] = []

    @executor.task
    def title(text: str) -> Title:
        return Title(text, NOON)

    @executor.parent_task
    def plain(n: int) -> Spawn[int]:
        return Spawn(n, [title.bind(f"title {place}") for place in range(n)])

    def last_title(parent: ParentResult[int]) -> Title:
        return parent.children_outputs[-1]

    @executor.parent_task(finalize=last_title)
    def finalized(given: ParentOutput[int]) -> Spawn[int]:
        seen.append(given)
        return Spawn(0, [title.bind("of the second")])

    @executor.task
    def show(given: Title) -> str:
        seen.append(given)
        return given.text

    handle = executor.enqueue(executor.sequential_tasks("steps", plain, finalized, show), 2)

    assert handle.result(timeout=SOON) == "of the second"
    assert seen == [
        ParentOutput(2, (Title("title 0", NOON), Title("title 1", NOON))),
        Title("of the second", NOON),
    ]


@one_database
def test_the_last_step_may_be_a_parent(executor: DurableExecutor) -> None:
    """The output of a sequence that ends with a parent is that parent's, finalized or put together."""
    step = executor.task(add_one)

    @executor.parent_task
    def plain(n: int) -> Spawn[int]:
        return Spawn(n, [step.bind(n)])

    @executor.parent_task(finalize=lambda parent: list(parent.children_outputs))
    def finalized(n: int) -> Spawn[int]:
        return Spawn(n, [step.bind(n), step.bind(n + 1)])

    assert executor.enqueue(executor.sequential_tasks("a", step, plain), 1).result(timeout=SOON) == ParentOutput(
        2, (3,)
    )
    assert executor.enqueue(executor.sequential_tasks("b", step, finalized), 1).result(timeout=SOON) == [3, 4]


@every_path
@pytest.mark.parametrize("ends", [True, False])
def test_a_loop_may_be_a_step(executor: DurableExecutor, ends: bool) -> None:
    """A step that is a loop gives a LoopResult, with and without success, to the next step and as the last output."""
    step = executor.task(add_one)

    @executor.task
    def iteration(n: int) -> Done[int] | None:
        return Done(n * 10) if ends else None

    @executor.task
    def show(given: LoopResult[int]) -> str:
        return f"{type(given).__name__} {given.is_success} {given.output}"

    loop = executor.looping_task("loop", iteration, max_iterations=2)
    in_the_middle = executor.sequential_tasks("middle", step, loop, show)
    at_the_end = executor.sequential_tasks("end", step, loop)
    nested = executor.sequential_tasks("nested", at_the_end, show)

    result = LoopResult(True, 20) if ends else LoopResult(False, None)
    assert executor.enqueue(at_the_end, 1).result(timeout=SOON) == result
    shown = f"LoopResult {result.is_success} {result.output}"
    assert executor.enqueue(in_the_middle, 1).result(timeout=SOON) == shown
    assert executor.enqueue(nested, 1).result(timeout=SOON) == shown


@one_database
def test_a_loop_at_the_end_of_a_sequence_of_a_family(executor: DurableExecutor) -> None:
    """A LoopResult stays one on its way up: through a sequence that is a child, and one that is a finalize."""

    @executor.task
    def iteration(given: object) -> Done[int] | None:
        return Done(5)

    @executor.task
    def first(given: object) -> None: ...

    steps = executor.sequential_tasks("steps", first, executor.looping_task("loop", iteration, max_iterations=1))

    @executor.parent_task
    def over() -> Spawn[None]:
        return Spawn(None, [steps.bind(1)])

    @executor.parent_task(finalize=executor.sequential_tasks("others", steps.options(), iteration))
    def finalized() -> Spawn[None]:
        return Spawn(None)

    assert executor.enqueue(over).result(timeout=SOON) == ParentOutput(None, (LoopResult(True, 5),))
    assert executor.enqueue(finalized).result(timeout=SOON) == Done(5)


@one_database
def test_a_sequence_may_be_a_child(executor: DurableExecutor) -> None:
    """A sequence can be spawned like any task, and its output is one of the parent's."""
    step = executor.task(add_one)
    twice = executor.sequential_tasks("twice", step, step)

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [twice.bind(1), step.bind(1), twice.bind(2)])

    assert executor.enqueue(parent).result(timeout=SOON).children_outputs == (3, 2, 4)


# a step that does not complete


@every_path
def test_a_failed_step_ends_the_sequence(executor: DurableExecutor, engine: Engine) -> None:
    """A step that fails makes the sequence `children_failed`; later steps are cancelled and never run."""
    step = executor.task(add_one)

    @executor.task
    def failing(n: int) -> int:
        raise ValueError(f"spoilt by {n}")

    handle = executor.enqueue(executor.sequential_tasks("steps", step, failing, step, step), 1)

    with pytest.raises(ChildrenFailedError, match=r"task 'failing' .*ValueError: spoilt by 2"):
        handle.result(timeout=SOON)
    ended = handle.get_execution()
    assert (ended.status, ended.output) == (ExecutionStatus.CHILDREN_FAILED, None)
    assert [child.status for child in ended.children] == [
        ExecutionStatus.COMPLETED,
        ExecutionStatus.FAILED,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.CANCELLED,
    ]
    assert all(executor.get_execution(name).started_at is None for name in child_ids(handle)[2:])
    assert active_tasks(engine) == []


@one_database
def test_the_last_step_may_fail(executor: DurableExecutor) -> None:
    """The last step's failure is the sequence's, as any other step's; so is the first one's."""
    step = executor.task(add_one)

    @executor.task
    def failing(n: int) -> int:
        raise ValueError("spoilt")

    last = executor.sequential_tasks("last", step, failing)
    first = executor.sequential_tasks("first", failing, step)
    nested = executor.sequential_tasks("nested", step, first, step)

    for task in (last, first, nested):
        with pytest.raises(ChildrenFailedError, match=r"task 'failing' .*ValueError: spoilt"):
            executor.enqueue(task, 1).result(timeout=SOON)


@every_path
def test_a_waiting_step_is_cancelled(executor: DurableExecutor, engine: Engine) -> None:
    """`cancel` of a step that waits its turn fails the sequence at once, and stops the step that runs."""
    running, stopped = threading.Event(), threading.Event()

    @executor.task
    def first(ctx: TaskContext, n: int) -> int:
        running.set()
        run_until_stopped(ctx, stopped)
        return n

    second = executor.task(add_one)
    handle = executor.enqueue(executor.sequential_tasks("steps", first, second, second), 1)
    assert running.wait(SOON)
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    waiting = child_ids(handle)[1]
    assert executor.get_execution(waiting).status is ExecutionStatus.READY
    assert executor.get_handle(second, waiting).cancel()

    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert [child.status for child in ended.children] == [ExecutionStatus.CANCELLED] * 3
    assert active_tasks(engine) == []
    assert stopped.wait(SOON)


@every_path
def test_a_sequence_is_cancelled(executor: DurableExecutor, engine: Engine, gate: Gate) -> None:
    """`cancel` of a sequence cancels the step that runs and those that wait, also of nested ones."""

    @executor.task
    def blocked(n: int) -> int:
        gate.pass_through()
        return n

    step = executor.task(add_one)
    inner = executor.sequential_tasks("inner", step, blocked, step)
    handle = executor.enqueue(executor.sequential_tasks("outer", inner, step), 1)
    gate.wait_for_arrivals()
    assert handle.cancel()

    assert handle.get_execution().status is ExecutionStatus.CANCELLED
    assert active_tasks(engine) == []


@one_database
def test_a_waiting_step_can_be_read(executor: DurableExecutor, gate: Gate) -> None:
    """A step that waits its turn is `ready`, with no input to show yet."""

    @executor.task
    def first() -> int:
        gate.pass_through()
        return 1

    second = executor.task(add_one)
    handle = executor.enqueue(executor.sequential_tasks("steps", first, second))
    gate.wait_for_arrivals()
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)

    waiting = executor.get_execution(child_ids(handle)[1])
    assert (waiting.status, waiting.input, waiting.attempt) == (ExecutionStatus.READY, {"n": None}, 0)
