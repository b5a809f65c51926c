"""Sequences: tasks that run one after another, each fed the output of the one before it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import tenacity
from attrs import frozen
from sqlalchemy import Engine, text

from durable_sync import (
    ChildrenFailedError,
    ConfigurationError,
    DurableExecutor,
    ExecutionStatus,
    InvalidInputError,
    Spawn,
    Task,
    TaskContext,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import child_ids
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


def add_one(n: int) -> int:
    return n + 1


# one after another


@every_path
def test_steps_run_one_after_another(executor: DurableExecutor, gate: Gate) -> None:
    """A step starts when the one before it has ended, is fed its output, and the last output is the sequence's."""
    order: list[str] = []

    @executor.task
    def first(n: int, *, factor: int = 1) -> int:
        order.append("first")
        return n * factor

    @executor.task
    def second(n: int) -> str:
        gate.pass_through()
        order.append("second")
        return f"<{n}>"

    @executor.task
    def third(s: str) -> list[str]:
        order.append("third")
        return [s, s]

    steps = executor.sequential_tasks("steps", first, second, third)
    handle = executor.enqueue(steps, 2, factor=3)
    gate.wait_for_arrivals()
    waiting = handle.get_execution()
    assert order == ["first"]
    assert (waiting.status, waiting.run_output, waiting.output) == (ExecutionStatus.WAITING_FOR_CHILDREN, None, None)
    assert [child.status for child in waiting.children] == [
        ExecutionStatus.COMPLETED,
        ExecutionStatus.RUNNING,
        ExecutionStatus.READY,
    ]
    gate.open()

    assert handle.result(timeout=SOON) == ["<6>", "<6>"]
    ended = handle.get_execution()
    assert order == ["first", "second", "third"]
    assert ended.input == {"n": 2, "factor": 3}
    assert [child.task_id for child in ended.children] == ["first", "second", "third"]
    assert {child.status for child in ended.children} == {ExecutionStatus.COMPLETED}
    inputs = [executor.get_execution(child.execution_id).input for child in ended.children]
    assert inputs == [{"n": 2, "factor": 3}, {"n": 6}, {"s": "<6>"}]


@one_database
def test_a_sequence_of_one(executor: DurableExecutor) -> None:
    """A sequence may have one step."""
    only = executor.task(add_one)

    handle = executor.enqueue(executor.sequential_tasks("single", only), 1)

    assert handle.result(timeout=SOON) == 2
    assert len(handle.get_execution().children) == 1


@one_database
def test_a_task_may_be_several_steps(executor: DurableExecutor) -> None:
    """The same task may be a step more than once."""
    step = executor.task(add_one)

    assert executor.enqueue(executor.sequential_tasks("thrice", step, step, step), 1).result(timeout=SOON) == 4


@one_database
def test_a_thousand_steps(executor: DurableExecutor) -> None:
    """A sequence of 1,000 steps works, and each step is fed the right output."""
    step = executor.task(add_one)
    long = executor.sequential_tasks("long", *[step] * 1000)

    handle = executor.enqueue(long, 0)

    assert handle.result(timeout=100) == 1000
    assert len(handle.get_execution().children) == 1000


@one_database
def test_steps_take_a_context(executor: DurableExecutor) -> None:
    """Steps may take `ctx`, and have retries and timeouts of their own; the sequence goes on from where it was."""
    starts: list[str] = []

    @executor.task
    def first(ctx: TaskContext, n: int) -> int:
        starts.append(ctx.task_id)
        return n

    @executor.task(retry=tenacity.Retrying(wait=tenacity.wait_fixed(0)))
    def second(ctx: TaskContext, n: int) -> int:
        starts.append(ctx.task_id)
        if ctx.attempt < 2:
            raise OSError("away")
        return n + ctx.attempt

    assert executor.enqueue(executor.sequential_tasks("steps", first, second), 10).result(timeout=SOON) == 12
    assert starts == ["first", "second", "second", "second"]


@every_path
def test_values_between_steps_are_typed(executor: DurableExecutor) -> None:
    """What one step returns reaches the next as the type of its parameter, and the last output comes out typed."""
    seen: list[object] = []

    @executor.task
    def first(at: datetime) -> Title:
        return Title("one", at)

    @executor.task
    def second(title: Title) -> list[datetime]:
        seen.append(title)
        return [title.at, title.at + timedelta(days=1)]

    @executor.task
    def third(times: list[datetime]) -> datetime | None:
        seen.append(times)
        return times[1]

    @executor.task
    def fourth(at: datetime | None) -> Title:
        seen.append(at)
        return Title("last", at)

    handle = executor.enqueue(executor.sequential_tasks("steps", first, second, third, fourth), NOON)

    tomorrow = NOON + timedelta(days=1)
    assert handle.result(timeout=SOON) == Title("last", tomorrow)
    assert seen == [Title("one", NOON), [NOON, tomorrow], tomorrow]


@one_database
def test_values_are_read_by_the_type_they_are_for(executor: DurableExecutor) -> None:
    """A step without a return annotation feeds the next one all the same: its parameter's type says what fits."""
    seen: list[object] = []

    @executor.task
    def first():
        return {"text": "t", "at": NOON.isoformat()}

    @executor.task
    def second(title: Title) -> None:
        seen.append(title)

    executor.enqueue(executor.sequential_tasks("steps", first, second)).result(timeout=SOON)

    assert seen == [Title("t", NOON)]


@every_path
def test_a_misfit_between_steps(executor: DurableExecutor) -> None:
    """An output that does not fit the next step's parameter fails that step, and names the bad path."""

    @executor.task
    def first() -> dict[str, list[str]]:
        return {"numbers": ["one"]}

    @executor.task(retry=5)
    def second(given: dict[str, list[int]]) -> None:
        raise AssertionError("must never run")

    @executor.task
    def third(given: None) -> None: ...

    handle = executor.enqueue(executor.sequential_tasks("steps", first, second, third))

    ended = handle.wait(timeout=SOON)
    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert "task 'second'" in ended.error.message
    assert "SerializationError" in ended.error.message
    assert "['numbers'][0]" in ended.error.message
    assert executor.get_execution(child_ids(handle)[1]).attempt == 0


@one_database
def test_a_step_is_validated_when_it_is_fed(executor: DurableExecutor) -> None:
    """A later step's `validate` judges what it is fed; what it raises fails the step."""

    def must_be_even(n: int) -> None:
        if n % 2:
            raise ValueError(f"{n} is odd")

    first = executor.task(add_one)

    @executor.task(validate=must_be_even)
    def second(n: int) -> int:
        return n

    steps = executor.sequential_tasks("steps", first, second)

    assert executor.enqueue(steps, 1).result(timeout=SOON) == 2
    with pytest.raises(ChildrenFailedError, match=r"task 'second' .*InvalidInputError: .*3 is odd"):
        executor.enqueue(steps, 2).result(timeout=SOON)


@one_database
def test_a_step_may_have_further_parameters(executor: DurableExecutor) -> None:
    """A step takes one argument; what else it takes must have a default."""
    first = executor.task(add_one)

    @executor.task
    def second(ctx: TaskContext, n: int, factor: int = 10, *, shift: int = 1) -> int:
        return n * factor + shift

    @executor.task
    def third(n: int, /, *more: int, **others: int) -> list[int]:
        return [n, len(more), len(others)]

    assert executor.enqueue(executor.sequential_tasks("steps", first, second, third), 1).result(timeout=SOON) == [
        21,
        0,
        0,
    ]


def test_outputs_between_steps_are_not_copied(executor: DurableExecutor, engine: Engine) -> None:
    """A step's input is a reference to the output of the step before it; the sequence's row has none of them."""

    @executor.task
    def first() -> str:
        return "x" * 50_000

    @executor.task
    def second(given: str) -> str:
        return given[::-1] + "y"

    handle = executor.enqueue(executor.sequential_tasks("steps", first, second))
    assert len(handle.result(timeout=SOON)) == 50_001

    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT task_id, length(input) AS given, length(coalesce(run_output, '')) AS made"
                " FROM durable_executions"
            )
        ).all()
    assert {row.task_id for row in rows if row.made > 1000} == {"first", "second"}
    assert all(row.given < 100 for row in rows)
    assert handle.get_execution().run_output is None


# options


@every_path
def test_a_sequence_has_options(new_executor: NewExecutor, clock: ManualClock) -> None:
    """A sequence takes key, queue, priority, delay and run_at for one enqueue; its steps keep their own."""
    executor = new_executor(clock=clock)
    executor.start()
    ran: list[str] = []

    @executor.task(queue="first", priority=2)
    def first(n: int) -> int:
        ran.append("first")
        return n

    second = executor.task(queue="second", priority=3)(add_one)
    steps = executor.sequential_tasks("steps", first, second.options(priority=4, delay=60))

    plain = executor.enqueue(steps.options(key="k"), 1)
    assert executor.enqueue(steps.options(key="k"), 1) == plain
    own = plain.get_execution()
    assert (own.queue, own.priority) == ("first", 2)
    wait_until(lambda: len(child_ids(plain)) == 2)
    wait_until(lambda: executor.get_execution(child_ids(plain)[0]).is_finished)
    placed = [(e.queue, e.priority) for e in map(executor.get_execution, child_ids(plain))]
    assert placed == [("first", 2), ("second", 4)]
    assert executor.get_execution(child_ids(plain)[1]).ready_at - START == timedelta(seconds=60)
    clock.advance(61)
    assert plain.result(timeout=SOON) == 2

    delayed = executor.enqueue(steps.options(queue="other", priority=9, delay=3600), 1)
    timed = executor.enqueue(steps.options(run_at=clock.time + timedelta(hours=1)), 1)
    execution = delayed.get_execution()
    assert (execution.queue, execution.priority) == ("other", 9)
    assert timed.get_execution().ready_at == execution.ready_at
    assert ran == ["first"]
    clock.advance(3601)
    for handle in (delayed, timed):
        wait_until(lambda handle=handle: len(child_ids(handle)) == 2)
        wait_until(lambda handle=handle: executor.get_execution(child_ids(handle)[0]).is_finished)
    clock.advance(61)
    assert [handle.result(timeout=SOON) for handle in (delayed, timed)] == [2, 2]


@one_database
def test_options_of_steps_hold(executor: DurableExecutor) -> None:
    """A step may be a task with other options: its timeout and retry hold whenever it runs."""
    attempts: list[int] = []

    @executor.task
    def slow(ctx: TaskContext, n: int) -> int:
        ctx.cancel_signal.wait(SOON)
        return n

    @executor.task
    def flaky(ctx: TaskContext, n: int) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt < 1:
            raise OSError("away")
        return n

    steps = executor.sequential_tasks("steps", flaky.options(retry=1), slow.options(timeout=0.05))

    with pytest.raises(ChildrenFailedError, match=r"task 'slow' .*timed out"):
        executor.enqueue(steps, 1).result(timeout=SOON)
    assert attempts == [0, 1]


@one_database
def test_options_that_mean_nothing_are_refused(executor: DurableExecutor) -> None:
    """A sequence has no attempt of its own to time or to retry."""
    steps = executor.sequential_tasks("steps", executor.task(add_one))

    for options in ({"timeout": 5}, {"retry": 1}):
        with pytest.raises(ConfigurationError, match=f"steps: {next(iter(options))} would mean nothing"):
            steps.options(**options)


@every_path
def test_the_first_step_checks_the_input(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """Input that does not fit the first step, or that its `validate` refuses, raises at enqueue; nothing is written."""

    def must_be_positive(n: int) -> None:
        if n <= 0:
            raise ValueError(f"{n} is not positive")

    executor.migrate()
    first = executor.task(validate=must_be_positive)(add_one)
    second = executor.task(id="second")(add_one)
    steps = executor.sequential_tasks("steps", first, second)
    outer = executor.sequential_tasks("outer", steps, second)

    for task in (steps, outer):
        with pytest.raises(InvalidInputError, match="n:"):
            executor.enqueue(task, "one")
        with pytest.raises(InvalidInputError, match="n: is missing"):
            executor.enqueue(task)
        with pytest.raises(InvalidInputError) as caught:
            executor.enqueue(task, -1)
        assert isinstance(caught.value.__cause__, ValueError)
    assert count_executions() == 0
    assert executor.enqueue(outer, 1).result(timeout=SOON) == 4


# declaring and calling


@one_database
def test_a_sequence_that_makes_no_sense_is_refused(executor: DurableExecutor) -> None:
    """No steps, steps that can't be fed one value, and what is no task are refused when it is declared."""
    first = executor.task(add_one)

    @executor.task
    def two(one: int, other: int) -> None: ...

    @executor.task
    def none() -> None: ...

    @executor.task
    def by_name(*, n: int) -> None: ...

    sleeper = executor.sleeping_task("sleeper")
    with pytest.raises(ConfigurationError, match=r"'steps'.* has no tasks"):
        executor.sequential_tasks("steps")
    for bad in (two, none, by_name, print, add_one, None, sleeper, first.options(key="k")):
        with pytest.raises(ConfigurationError, match="steps: step 1"):
            executor.sequential_tasks("steps", first, bad)
    for bad in (print, None, first.options(key="k"), first.options(run_at=NOON)):
        with pytest.raises(ConfigurationError, match="steps: step 0"):
            executor.sequential_tasks("steps", bad, first)
    for bad_id in ("", "a b", "x" * 201, 5):
        with pytest.raises(ConfigurationError, match="malformed"):
            executor.sequential_tasks(bad_id, first)
    assert executor.enqueue(executor.sequential_tasks("steps", first), 1).result(timeout=SOON) == 2


@one_database
def test_the_first_step_may_take_anything(executor: DurableExecutor) -> None:
    """The first step is called as the sequence is: with no argument, several, by name."""

    @executor.task
    def first(a: int, /, b: int, *rest: int, c: int = 0, **named: int) -> list[int]:
        return [a, b, *rest, c, *named.values()]

    @executor.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    steps = executor.sequential_tasks("steps", first, total)

    assert executor.enqueue(steps, 1, 2, 3, c=4, d=5).result(timeout=SOON) == 15


@one_database
def test_a_sequence_can_be_called(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """A plain call of a sequence calls its functions one after another, for unit tests; nothing is stored."""
    executor.migrate()
    step = executor.task(add_one)
    inner = executor.sequential_tasks("inner", step, step)

    @executor.task
    def show(n: int, suffix: str = "!") -> str:
        return f"{n}{suffix}"

    @executor.task
    def with_context(ctx: TaskContext, n: int) -> int:
        return n

    @executor.parent_task
    def parent(n: int) -> Spawn[int]:
        return Spawn(n)

    assert executor.sequential_tasks("outer", inner, step, show)(1) == "4!"
    with pytest.raises(ConfigurationError, match="'with_context' takes a context"):
        executor.sequential_tasks("a", step, with_context)(1)
    with pytest.raises(ConfigurationError, match="'parent' spawns children"):
        executor.sequential_tasks("b", step, parent)(1)
    with pytest.raises(ConfigurationError, match="'parent' spawns children"):
        executor.sequential_tasks("d", inner, executor.sequential_tasks("c", step, parent))(1)
    assert count_executions() == 0


@one_database
def test_steps_come_with_their_sequence(new_executor: NewExecutor) -> None:
    """Whoever registers a sequence has its steps, and theirs, also steps of another registry."""
    apart, registry = TaskRegistry(), TaskRegistry()
    step = apart.task(add_one)
    inner = apart.sequential_tasks("inner", step, step.options(priority=1))
    outer = registry.sequential_tasks("outer", inner, step)

    assert {task.id for task in registry} == {"outer", "inner", "add_one"}
    executor = new_executor(tasks=registry)
    executor.start()
    assert executor.enqueue(outer, 1).result(timeout=SOON) == 4
    assert executor.enqueue(step, 1).result(timeout=SOON) == 2


@one_database
def test_two_steps_of_one_id_are_refused(executor: DurableExecutor) -> None:
    """Two tasks of one id, from different registries, can't be steps of one sequence; nothing is registered."""
    one, other = TaskRegistry(), TaskRegistry()
    first = one.task(id="step")(add_one)
    second = other.task(id="step")(lambda: 1)

    @other.task(id="step2")
    def third(n: int) -> int:
        return n

    with pytest.raises(ConfigurationError):
        executor.sequential_tasks("steps", first, second)
    namesake: Task[..., int] = TaskRegistry().task(id="step")(third.function)
    with pytest.raises(ConfigurationError, match="'step' is registered already"):
        executor.sequential_tasks("steps", first, namesake)
    assert executor._registry.get("steps") is None
    assert executor._registry.get("step") is None


@one_database
def test_a_sequence_may_run_in_several_processes(new_executor: NewExecutor) -> None:
    """Steps run wherever their tasks are served; who runs a step need not know the sequence."""
    one, other = TaskRegistry(), TaskRegistry()
    first = one.task(id="first", queue="one")(add_one)
    second = other.task(id="second", queue="other")(add_one)
    steps = one.sequential_tasks("steps", first, second, first)

    new_executor(tasks=other, queues=["other"]).start()
    executor = new_executor(tasks=one, queues=["one"])
    executor.start()

    assert executor.enqueue(steps, 1).result(timeout=SOON) == 4
