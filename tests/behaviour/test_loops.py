"""Loops: a task that runs over and over, until it returns Done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from attrs import frozen
from sqlalchemy import Engine, text

from durable_sync import (
    ChildrenFailedError,
    ConfigurationError,
    Done,
    DurableExecutor,
    ExecutionStatus,
    InvalidInputError,
    LoopResult,
    ParentOutput,
    ParentResult,
    Spawn,
    TaskContext,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import active_tasks, child_ids, wait_for
from tests.clocks import START, ManualClock
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@frozen
class Title:
    text: str
    at: datetime


class Count:
    """Counts the calls of an iteration. For any thread."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self.calls += 1
            return self.calls


# until it is done


@every_path
@pytest.mark.parametrize("needed", [1, 3])
def test_a_loop_ends_with_done(executor: DurableExecutor, needed: int) -> None:
    """A loop runs its iteration until that returns `Done(value)`, at once or later, and gives the value on."""
    count = Count()

    @executor.task
    def iteration(name: str) -> Done[str] | None:
        return Done(f"{name} after {needed}") if count() == needed else None

    loop = executor.looping_task("loop", iteration, max_iterations=5)
    handle = executor.enqueue(loop, "abc")

    assert handle.result(timeout=SOON) == LoopResult(True, f"abc after {needed}")
    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.COMPLETED
    assert ended.output == LoopResult(True, f"abc after {needed}")
    assert [child.task_id for child in ended.children] == ["iteration"] * needed
    assert {child.status for child in ended.children} == {ExecutionStatus.COMPLETED}
    executor.drain(timeout=SOON)
    assert count.calls == needed


@every_path
@pytest.mark.parametrize("most", [1, 4])
def test_a_loop_gives_up(executor: DurableExecutor, most: int) -> None:
    """After `max_iterations` without Done the loop completes all the same, without success and output."""
    count = Count()

    @executor.task
    def iteration() -> Done[int] | None:
        count()
        return None

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=most))

    assert handle.result(timeout=SOON) == LoopResult(False, None)
    assert handle.get_execution().status is ExecutionStatus.COMPLETED
    assert len(handle.get_execution().children) == most
    executor.drain(timeout=SOON)
    assert count.calls == most


@one_database
def test_the_last_iteration_may_be_done(executor: DurableExecutor) -> None:
    """Done from the very last iteration counts."""
    count = Count()

    @executor.task
    def iteration() -> Done[int] | None:
        return Done(count.calls) if count() == 3 else None

    loop = executor.looping_task("loop", iteration, max_iterations=3)

    assert executor.enqueue(loop).result(timeout=SOON) == LoopResult(True, 3)


@one_database
def test_done_with_none(executor: DurableExecutor) -> None:
    """`Done(None)` is a success whose output is None."""

    @executor.task
    def iteration() -> Done[None]:
        return Done(None)

    loop = executor.looping_task("loop", iteration, max_iterations=3)

    assert executor.enqueue(loop).result(timeout=SOON) == LoopResult(True, None)


@every_path
def test_the_input_is_the_same_each_time(executor: DurableExecutor) -> None:
    """Every iteration is given the loop's own input, typed; iterations follow each other, one at a time."""
    seen: list[tuple[object, ...]] = []
    running = threading.Semaphore(1)

    @executor.task
    def iteration(ctx: TaskContext, title: Title, *, factor: int = 1) -> Done[int] | None:
        assert running.acquire(blocking=False)
        seen.append((title, factor, ctx.attempt))
        running.release()
        return Done(1) if len(seen) == 3 else None

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=9), Title("t", NOON), factor=7)

    handle.result(timeout=SOON)
    assert seen == [(Title("t", NOON), 7, 0)] * 3
    assert handle.get_execution().input == {"title": Title("t", NOON), "factor": 7}
    inputs = [executor.get_execution(name).input for name in child_ids(handle)]
    assert inputs == [{"title": Title("t", NOON), "factor": 7}] * 3


@every_path
def test_the_output_is_typed(executor: DurableExecutor) -> None:
    """The value of Done comes back as the type in `Done[...]`."""

    @executor.task
    def iteration() -> Done[Title] | None:
        return Done(Title("t", NOON))

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=1))

    assert handle.result(timeout=SOON) == LoopResult(True, Title("t", NOON))
    assert executor.get_execution(child_ids(handle)[0]).output == Done(Title("t", NOON))


@one_database
def test_an_iteration_need_not_be_annotated(executor: DurableExecutor) -> None:
    """An iteration without return annotation ends the loop with Done as well; the value is plain JSON."""
    count = Count()

    @executor.task
    def iteration(n: int):
        return Done({"n": [n]}) if count() == 2 else "not yet"

    loop = executor.looping_task("loop", iteration, max_iterations=5)

    assert executor.enqueue(loop, 7).result(timeout=SOON) == LoopResult(True, {"n": [7]})
    assert count.calls == 2


@one_database
def test_only_done_ends_a_loop(executor: DurableExecutor) -> None:
    """What merely looks like Done once it is JSON does not end a loop."""

    @executor.task
    def iteration():
        return {"value": 1}

    loop = executor.looping_task("loop", iteration, max_iterations=2)

    assert executor.enqueue(loop).result(timeout=SOON) == LoopResult(False, None)


def test_a_long_loop(executor: DurableExecutor) -> None:
    """A loop of 100 iterations runs each of them once."""
    count = Count()

    @executor.task
    def iteration() -> Done[int] | None:
        return Done(count.calls) if count() == 100 else None

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=1000))

    assert handle.result(timeout=60) == LoopResult(True, 100)
    assert len(handle.get_execution().children) == 100


def test_outputs_of_iterations_are_not_copied(executor: DurableExecutor, engine: Engine) -> None:
    """The loop's row has nothing of what its iterations return; the input is kept with each."""

    @executor.task
    def iteration() -> Done[str]:
        return Done("x" * 50_000)

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=1))
    assert handle.result(timeout=SOON).output == "x" * 50_000

    with engine.connect() as connection:
        query = text("SELECT run_output FROM durable_executions WHERE id = :id")
        assert connection.execute(query, {"id": handle.execution_id}).scalar_one() == "null"
    assert handle.get_execution().run_output is None


# between iterations


@every_path
def test_a_delay_between_iterations(new_executor: NewExecutor, clock: ManualClock) -> None:
    """`delay` passes between the end of one iteration and the next; none before the first one."""
    executor = new_executor(clock=clock)
    executor.start()
    count = Count()

    @executor.task
    def iteration() -> Done[int] | None:
        return Done(3) if count() == 3 else None

    loop = executor.looping_task("loop", iteration, max_iterations=5, delay=timedelta(hours=1))
    handle = executor.enqueue(loop)

    wait_until(lambda: len(child_ids(handle)) == 2)
    second = executor.get_execution(child_ids(handle)[1])
    assert (second.status, second.ready_at - START) == (ExecutionStatus.READY, timedelta(hours=1))
    assert count.calls == 1
    clock.advance(3599)
    assert executor.get_execution(second.execution_id).status is ExecutionStatus.READY
    assert handle.get_execution().status is ExecutionStatus.WAITING_FOR_CHILDREN
    clock.advance(1)
    wait_until(lambda: len(child_ids(handle)) == 3)
    assert count.calls == 2
    clock.advance(3600)

    assert handle.result(timeout=SOON) == LoopResult(True, 3)


@one_database
def test_no_delay_after_the_last_iteration(new_executor: NewExecutor, clock: ManualClock) -> None:
    """A loop ends as soon as its last iteration does."""
    executor = new_executor(clock=clock)
    executor.start()

    @executor.task
    def iteration() -> Done[int] | None:
        return None

    loop = executor.looping_task("loop", iteration, max_iterations=1, delay=3600)

    assert executor.enqueue(loop).result(timeout=SOON) == LoopResult(False, None)


@every_path
def test_iterations_have_the_iterations_options(new_executor: NewExecutor, clock: ManualClock) -> None:
    """Every iteration, not only the first, has the queue, priority, timeout, retry and delay of its task's copy."""
    executor = new_executor(clock=clock)
    executor.start()
    attempts: list[int] = []

    @executor.task
    def iteration(ctx: TaskContext) -> Done[int] | None:
        attempts.append(ctx.attempt)
        return Done(1) if len(attempts) == 3 else None

    repeated = iteration.options(queue="other", priority=7, timeout=60, retry=2, delay=100)
    handle = executor.enqueue(executor.looping_task("loop", repeated, max_iterations=5, delay=10))
    for number in range(3):
        wait_until(lambda number=number: len(child_ids(handle)) == number + 1)
        latest = executor.get_execution(child_ids(handle)[-1])
        assert (latest.queue, latest.priority, latest.status) == ("other", 7, ExecutionStatus.READY)
        clock.advance(111)

    handle.result(timeout=SOON)
    with executor._desk.storage.database.engine.connect() as connection:
        query = text("SELECT timeout, max_retries, ready_at FROM durable_executions WHERE task_id = 'iteration'")
        rows = connection.execute(query).all()
    assert {(row.timeout, row.max_retries) for row in rows} == {(60_000_000, 2)}
    ready = sorted(row.ready_at for row in rows)
    # 100 of its own before the first; 111 since the clock moved, then 100 and 10 before the others.
    assert [(moment - ready[0]) // 1_000_000 for moment in ready] == [0, 121, 232]


@one_database
def test_an_iteration_is_retried_by_its_own_policy(executor: DurableExecutor) -> None:
    """Attempts of one iteration are no iterations."""
    attempts: list[int] = []

    @executor.task
    def iteration(ctx: TaskContext) -> Done[int] | None:
        attempts.append(ctx.attempt)
        if ctx.attempt == 0:
            raise OSError("away")
        return Done(1) if len(attempts) == 4 else None

    loop = executor.looping_task("loop", iteration.options(retry=1), max_iterations=2)

    assert executor.enqueue(loop).result(timeout=SOON) == LoopResult(True, 1)
    assert attempts == [0, 1, 0, 1]


# an iteration that does not complete


@every_path
def test_a_failed_iteration_fails_the_loop(executor: DurableExecutor, engine: Engine) -> None:
    """An iteration that fails makes the loop `children_failed`, with its message; no other follows."""
    count = Count()

    @executor.task
    def iteration() -> Done[int] | None:
        if count() == 2:
            raise ValueError("spoilt")
        return None

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=5))

    with pytest.raises(ChildrenFailedError, match=r"task 'iteration' .*failed: ValueError: spoilt"):
        handle.result(timeout=SOON)
    ended = handle.get_execution()
    assert (ended.status, ended.output) == (ExecutionStatus.CHILDREN_FAILED, None)
    assert [child.status for child in ended.children] == [ExecutionStatus.COMPLETED, ExecutionStatus.FAILED]
    assert active_tasks(engine) == []
    assert count.calls == 2


@one_database
def test_an_iteration_that_times_out_fails_the_loop(executor: DurableExecutor) -> None:
    """A timeout is of one iteration, and fails the loop."""

    @executor.task(timeout=0.05)
    def iteration(ctx: TaskContext) -> Done[int] | None:
        ctx.cancel_signal.wait(SOON)
        return None

    with pytest.raises(ChildrenFailedError, match="timed out"):
        executor.enqueue(executor.looping_task("loop", iteration, max_iterations=5)).result(timeout=SOON)


@every_path
def test_a_loop_is_cancelled(new_executor: NewExecutor, clock: ManualClock, engine: Engine) -> None:
    """`cancel` of a loop between two iterations leaves nothing active, and no other iteration runs."""
    executor = new_executor(clock=clock)
    executor.start()
    count = Count()

    @executor.task
    def iteration() -> Done[int] | None:
        count()
        return None

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=5, delay=3600))
    wait_until(lambda: len(child_ids(handle)) == 2)
    assert handle.cancel()

    assert active_tasks(engine) == []
    clock.advance(7200)
    executor.drain(timeout=SOON)
    assert handle.get_execution().status is ExecutionStatus.CANCELLED
    assert count.calls == 1


@every_path
def test_a_running_iteration_is_cancelled(executor: DurableExecutor, engine: Engine, gate: Gate) -> None:
    """`cancel` of an iteration fails the loop; `cancel` of the loop stops the iteration that runs."""

    @executor.task
    def iteration() -> Done[int] | None:
        gate.pass_through()
        return None

    loop = executor.looping_task("loop", iteration, max_iterations=5)
    by_child, by_loop = executor.enqueue(loop), executor.enqueue(loop)
    gate.wait_for_arrivals(2)
    for handle in (by_child, by_loop):
        wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    assert executor.get_handle(iteration, child_ids(by_child)[0]).cancel()
    assert by_loop.cancel()

    assert by_child.get_execution().status is ExecutionStatus.CHILDREN_FAILED
    assert by_loop.get_execution().status is ExecutionStatus.CANCELLED
    assert active_tasks(engine) == []
    gate.open()
    wait_until(lambda: not executor.running_execution_ids)
    assert len(child_ids(by_child)) == len(child_ids(by_loop)) == 1


# iterations of other kinds


@every_path
def test_an_iteration_may_be_a_parent(executor: DurableExecutor) -> None:
    """An iteration that is a parent is over with its tree; its finalize may return Done."""
    count = Count()

    @executor.task
    def child(n: int) -> int:
        return n

    def judge(parent: ParentResult[int]) -> Done[int] | None:
        return Done(sum(parent.children_outputs)) if parent.output == 3 else None

    @executor.parent_task(finalize=judge)
    def iteration(n: int) -> Spawn[int]:
        number = count()
        return Spawn(number, [child.bind(n), child.bind(number)])

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=5), 10)

    assert handle.result(timeout=SOON) == LoopResult(True, 13)
    assert len(child_ids(handle)) == 3


@one_database
def test_a_parent_without_finalize_is_never_done(executor: DurableExecutor) -> None:
    """An iteration whose output is put together is not Done, whatever its Spawn and its children give."""

    @executor.task
    def child() -> Done[int]:
        return Done(1)

    @executor.parent_task
    def iteration() -> Spawn[Done[int]]:
        return Spawn(Done(2), [child.bind()])

    handle = executor.enqueue(executor.looping_task("loop", iteration, max_iterations=2))

    assert handle.result(timeout=SOON) == LoopResult(False, None)
    assert executor.get_execution(child_ids(handle)[0]).output == ParentOutput(Done(2), (Done(1),))


@every_path
def test_an_iteration_may_be_a_sequence(executor: DurableExecutor) -> None:
    """An iteration that is a sequence ends the loop when its last step returns Done, also a nested one's."""
    count = Count()

    @executor.task
    def first(n: int) -> int:
        return n + count()

    @executor.task
    def last(n: int) -> Done[Title] | None:
        return Done(Title(str(n), NOON)) if n == 12 else None

    @executor.task
    def early(n: int) -> Done[int]:
        return Done(n)

    @executor.task
    def after(given: Done[int]) -> int:
        return given.value

    nested = executor.sequential_tasks("nested", after, last)
    steps = executor.sequential_tasks("steps", first, early, nested)

    handle = executor.enqueue(executor.looping_task("loop", steps, max_iterations=5), 10)

    assert handle.result(timeout=SOON) == LoopResult(True, Title("12", NOON))
    assert len(child_ids(handle)) == 2


@every_path
def test_loops_nest(executor: DurableExecutor) -> None:
    """A loop inside the iteration of a loop starts anew each time; its own Done does not end the outer one."""
    inner_count, outer_count = Count(), Count()

    @executor.task
    def iteration(n: int) -> Done[int] | None:
        return Done(n) if inner_count() % 2 == 0 else None

    inner = executor.looping_task("inner", iteration, max_iterations=5)

    @executor.task
    def judge(result: LoopResult[int]) -> Done[int] | None:
        return Done(result.output) if outer_count() == 3 else None

    outer = executor.looping_task("outer", executor.sequential_tasks("steps", inner, judge), max_iterations=5)
    bare = executor.looping_task("bare", inner, max_iterations=2)

    assert executor.enqueue(outer, 7).result(timeout=SOON) == LoopResult(True, 7)
    assert (inner_count.calls, outer_count.calls) == (6, 3)
    assert executor.enqueue(bare, 7).result(timeout=SOON) == LoopResult(False, None)


@one_database
def test_a_loop_may_be_a_child(executor: DurableExecutor) -> None:
    """A loop can be spawned; its LoopResult, with and without success, is an output of the parent's."""

    @executor.task
    def iteration(ends: bool) -> Done[Title] | None:
        return Done(Title("t", NOON)) if ends else None

    loop = executor.looping_task("loop", iteration, max_iterations=2)

    @executor.parent_task(finalize=lambda parent: [o.is_success for o in parent.children_outputs])
    def finalized() -> Spawn[None]:
        return Spawn(None, [loop.bind(True), loop.bind(False)])

    @executor.parent_task
    def plain() -> Spawn[None]:
        return Spawn(None, [loop.bind(True), loop.bind(False)])

    results = (LoopResult(True, Title("t", NOON)), LoopResult(False, None))
    assert executor.enqueue(plain).result(timeout=SOON) == ParentOutput(None, results)
    assert executor.enqueue(finalized).result(timeout=SOON) == [True, False]


@every_path
def test_a_finalize_may_be_a_loop(executor: DurableExecutor) -> None:
    """A finalize may be a loop, each of whose iterations is given the ParentResult."""
    seen: list[int] = []

    @executor.task
    def child() -> int:
        return 20

    @executor.task
    def iteration(parent: ParentResult[int]) -> Done[int] | None:
        seen.append(parent.output)
        return Done(parent.output + parent.children_outputs[0]) if len(seen) == 3 else None

    @executor.parent_task(finalize=executor.looping_task("loop", iteration, max_iterations=5))
    def parent() -> Spawn[int]:
        return Spawn(1, [child.bind()])

    assert executor.enqueue(parent).result(timeout=SOON) == LoopResult(True, 21)
    assert seen == [1, 1, 1]


# options, declaring, calling


@one_database
def test_a_loop_has_options(new_executor: NewExecutor, clock: ManualClock) -> None:
    """A loop takes key, queue, priority and delay for one enqueue, and is claimed where its iteration is."""
    executor = new_executor(clock=clock)
    executor.start()

    @executor.task(queue="own", priority=3)
    def iteration() -> Done[int]:
        return Done(1)

    loop = executor.looping_task("loop", iteration, max_iterations=1)
    delayed = executor.enqueue(loop.options(key="k", delay=3600))
    assert executor.enqueue(loop.options(key="k")) == delayed
    execution = delayed.get_execution()
    assert (execution.queue, execution.priority) == ("own", 3)
    other = executor.enqueue(loop.options(queue="other", priority=8))
    assert (other.get_execution().queue, other.get_execution().priority) == ("other", 8)
    assert other.result(timeout=SOON) == LoopResult(True, 1)
    assert executor.get_execution(child_ids(other)[0]).queue == "own"
    clock.advance(3600)
    assert delayed.result(timeout=SOON) == LoopResult(True, 1)
    for options in ({"timeout": 5}, {"retry": 1}):
        with pytest.raises(ConfigurationError, match=f"loop: {next(iter(options))} would mean nothing"):
            loop.options(**options)


@one_database
def test_the_iteration_checks_the_input(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """Input that does not fit the iteration, or that its `validate` refuses, raises at enqueue; nothing is written."""

    def must_be_positive(n: int) -> None:
        if n <= 0:
            raise ValueError(f"{n} is not positive")

    executor.migrate()

    @executor.task(validate=must_be_positive)
    def iteration(n: int) -> Done[int]:
        return Done(n)

    loop = executor.looping_task("loop", iteration, max_iterations=1)
    for bad in ("one", -1):
        with pytest.raises(InvalidInputError):
            executor.enqueue(loop, bad)
    assert count_executions() == 0


@one_database
def test_a_loop_that_makes_no_sense_is_refused(executor: DurableExecutor) -> None:
    """`max_iterations`, `delay`, the id and the iteration are checked when a loop is declared."""

    @executor.task
    def iteration() -> Done[int]:
        return Done(1)

    sleeper = executor.sleeping_task("sleeper")
    for bad in (0, -1, 1.5, True, None, "3"):
        with pytest.raises(ConfigurationError, match="loop: max_iterations"):
            executor.looping_task("loop", iteration, max_iterations=bad)
    for bad in (-1, "1", float("nan"), float("inf"), None):
        with pytest.raises(ConfigurationError, match="loop: delay"):
            executor.looping_task("loop", iteration, max_iterations=1, delay=bad)
    for bad in (print, None, sleeper, iteration.options(key="k"), iteration.options(run_at=NOON)):
        with pytest.raises(ConfigurationError, match="loop: its iteration"):
            executor.looping_task("loop", bad, max_iterations=1)
    with pytest.raises(ConfigurationError, match="malformed"):
        executor.looping_task("a b", iteration, max_iterations=1)
    loop = executor.looping_task("loop", iteration, max_iterations=1)
    with pytest.raises(ConfigurationError, match="'loop' is registered already"):
        executor.looping_task("loop", iteration, max_iterations=2)
    assert executor.enqueue(loop).result(timeout=SOON) == LoopResult(True, 1)


@one_database
def test_a_loop_can_be_called(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """A plain call of a loop calls its iteration's function until Done, for unit tests, without delay."""
    executor.migrate()
    count = Count()

    @executor.task
    def iteration(n: int) -> Done[int] | None:
        return Done(n) if count() == 3 else None

    @executor.task
    def with_context(ctx: TaskContext) -> Done[int]:
        return Done(1)

    loop = executor.looping_task("loop", iteration, max_iterations=4, delay=3600)

    assert loop(7) == LoopResult(True, 7)
    assert loop(7) == LoopResult(False, None)
    assert count.calls == 7
    with pytest.raises(ConfigurationError, match="takes a context"):
        executor.looping_task("other", with_context, max_iterations=1)()
    assert count_executions() == 0


@one_database
def test_an_iteration_comes_with_its_loop(new_executor: NewExecutor) -> None:
    """Whoever registers a loop has its iteration, and that one's steps."""
    apart, registry = TaskRegistry(), TaskRegistry()

    @apart.task
    def step() -> Done[int]:
        return Done(1)

    loop = registry.looping_task("loop", apart.sequential_tasks("steps", step), max_iterations=1)

    assert {task.id for task in registry} == {"loop", "steps", "step"}
    executor = new_executor(tasks=registry)
    executor.start()
    assert executor.enqueue(loop).result(timeout=SOON) == LoopResult(True, 1)
