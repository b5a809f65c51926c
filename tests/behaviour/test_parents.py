"""Parents: what a function spawns runs after it, and its output is put together of theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import tenacity
from attrs import frozen

from durable_sync import (
    ConfigurationError,
    DurableExecutor,
    ExecutionStatus,
    InvalidInputError,
    ParentOutput,
    Spawn,
    TaskContext,
    TaskError,
    TaskRegistry,
    TaskTimedOutError,
    as_completed,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import wait_for
from tests.gates import Gate
from tests.paths import every_path, one_database

SOON = 10.0
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@frozen
class Title:
    text: str
    at: datetime


# a parent and its children


@every_path
def test_a_parent_waits_for_its_children(executor: DurableExecutor, gate: Gate) -> None:
    """A parent is `running`, then `waiting_for_children`, then `completed` with all outputs in order."""
    seen: list[ExecutionStatus] = []

    @executor.task
    def child(n: int) -> int:
        gate.pass_through()
        return n * 10

    @executor.parent_task
    def parent(ctx: TaskContext, name: str) -> Spawn[str]:
        seen.append(executor.get_execution(ctx.execution_id).status)
        return Spawn(name.upper(), children=[child.bind(n) for n in range(3)])

    handle = executor.enqueue(parent, "abc")
    gate.wait_for_arrivals(3)
    waiting = handle.get_execution()
    assert seen == [ExecutionStatus.RUNNING]
    assert waiting.status is ExecutionStatus.WAITING_FOR_CHILDREN
    assert (waiting.run_output, waiting.output, waiting.error) == ("ABC", None, None)
    assert [child.status for child in waiting.children] == [ExecutionStatus.RUNNING] * 3
    assert not handle.done()
    assert not handle.running()
    gate.open()

    assert handle.result(timeout=SOON) == ParentOutput("ABC", (0, 10, 20))
    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.COMPLETED
    assert [child.status for child in ended.children] == [ExecutionStatus.COMPLETED] * 3
    assert [child.error for child in ended.children] == [None] * 3
    assert (ended.run_output, ended.output) == ("ABC", ParentOutput("ABC", (0, 10, 20)))


@one_database
def test_a_parent_without_children_completes_at_once(executor: DurableExecutor) -> None:
    """`Spawn(output)` without children and without finalize is a `ParentOutput` with no outputs of children."""

    @executor.parent_task
    def parent() -> Spawn[int]:
        return Spawn(5)

    handle = executor.enqueue(parent)

    assert handle.result(timeout=SOON) == ParentOutput(5, ())
    assert handle.get_execution().children == ()


@one_database
def test_children_may_come_from_a_generator(executor: DurableExecutor) -> None:
    """`children` may be any iterable."""

    @executor.task
    def child(n: int) -> int:
        return n

    @executor.parent_task
    def parent(many: int) -> Spawn[None]:
        return Spawn(None, children=(child.bind(n) for n in range(many)))

    assert executor.enqueue(parent, 4).result(timeout=SOON) == ParentOutput(None, (0, 1, 2, 3))


@one_database
def test_a_generator_that_fails_is_the_parents_failure(
    executor: DurableExecutor, count_executions: Callable[[], int]
) -> None:
    """An error in the generator of children is an error of the parent's function; no child is written."""

    @executor.task
    def child(n: int) -> int:
        return n

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, children=(child.bind(10 // n) for n in (2, 1, 0)))

    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert (ended.status, ended.error.type) == (ExecutionStatus.FAILED, "ZeroDivisionError")
    assert count_executions() == 1


@one_database
def test_the_order_is_that_of_the_spawn(executor: DurableExecutor) -> None:
    """Children and their outputs are in the order of the Spawn, whichever ends first and whatever its task."""
    others = threading.Semaphore(0)

    @executor.task
    def last() -> str:
        for _ in range(2):
            assert others.acquire(timeout=SOON)
        return "last to end"

    @executor.task
    def early(n: int) -> int:
        others.release()
        return n

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [last.bind(), early.bind(1), early.bind(2)])

    handle = executor.enqueue(parent)

    assert handle.result(timeout=SOON).children_outputs == ("last to end", 1, 2)
    assert [child.task_id for child in handle.get_execution().children] == ["last", "early", "early"]


def test_a_thousand_children(executor: DurableExecutor) -> None:
    """A parent of many children has all their outputs, in order."""

    @executor.task
    def child(n: int) -> int:
        return n * n

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(n) for n in range(1000)])

    assert executor.enqueue(parent).result(timeout=60).children_outputs == tuple(n * n for n in range(1000))


@one_database
def test_a_parent_that_spawns_itself(executor: DurableExecutor) -> None:
    """A parent may spawn itself; outputs come nested as the executions are."""

    @executor.parent_task
    def countdown(n: int) -> Spawn[int]:
        return Spawn(n, [countdown.bind(n - 1)] * 2 if n else [])

    leaf = ParentOutput(0, ())
    one = ParentOutput(1, (leaf, leaf))

    assert executor.enqueue(countdown, 2).result(timeout=SOON) == ParentOutput(2, (one, one))


@one_database
def test_a_task_may_be_a_child_and_a_root(executor: DurableExecutor) -> None:
    """Parents are enqueued in every way that tasks are: many at once, by `map`, and waited for."""

    @executor.task
    def child(n: int) -> int:
        return n

    @executor.parent_task
    def parent(n: int) -> Spawn[int]:
        return Spawn(n, [child.bind(n + 1)])

    handles = [*executor.enqueue_many([parent.bind(1), parent.bind(2)]), executor.enqueue(child, 3)]
    assert {handle.execution_id for handle in as_completed(handles, timeout=SOON)} == {h.execution_id for h in handles}
    assert [handle.result() for handle in handles] == [ParentOutput(1, (2,)), ParentOutput(2, (3,)), 3]
    assert list(executor.map(parent, [5, 6])) == [ParentOutput(5, (6,)), ParentOutput(6, (7,))]


def test_who_waits_is_told_of_the_whole_tree(executor: DurableExecutor, gate: Gate) -> None:
    """A parent's waiters and callbacks hear of it when its children have ended, not when its function has."""
    called = threading.Event()

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    handle = executor.enqueue(parent)
    handle.add_done_callback(lambda _handle: called.set())
    gate.wait_for_arrivals()
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    with pytest.raises(TimeoutError, match="waiting_for_children"):
        handle.wait(timeout=0.05)
    assert not called.is_set()
    gate.open()

    handle.wait(timeout=SOON)
    assert called.wait(SOON)


@every_path
def test_who_runs_a_child_need_not_know_the_parent(new_executor: NewExecutor) -> None:
    """A process that has only the children's task ends them, and with the last one their parent."""
    names = TaskRegistry()

    @names.task(queue="elsewhere")
    def child(n: int) -> int:
        return n

    here, there = new_executor(tasks=names, queues=["default"]), new_executor(tasks=names, queues=["elsewhere"])

    @here.parent_task
    def parent() -> Spawn[str]:
        return Spawn("out", [child.bind(1), child.bind(2)])

    here.start()
    handle = here.enqueue(parent)
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    here.shutdown()
    there.start()

    assert handle.result(timeout=SOON) == ParentOutput("out", (1, 2))


# what a parent may not return


@one_database
@pytest.mark.parametrize("returned", [None, 5, [], "Spawn"])
def test_a_parent_must_return_spawn(executor: DurableExecutor, returned: object) -> None:
    """A parent that returns something else fails, with an error that says what, and is not retried."""

    @executor.parent_task(retry=5)
    def parent() -> Spawn[int]:
        return returned

    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert (ended.status, ended.attempt) == (ExecutionStatus.FAILED, 0)
    assert "'parent' returned" in ended.error.message
    assert repr(returned) in ended.error.message
    assert ended.output is None


@every_path
def test_a_bad_child_fails_its_parent(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """Input that does not fit a child's signature fails the parent, names the child, and nothing is written."""

    @executor.task
    def child(n: int) -> int:
        return n

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(1), child.bind("two"), child.bind(3)])

    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert "children[1]: InvalidInputError" in ended.error.message
    assert "n:" in ended.error.message
    assert count_executions() == 1


@one_database
def test_a_child_is_validated(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """What a child's `validate` raises fails the parent before any child is written."""

    def must_be_even(n: int) -> None:
        if n % 2:
            raise ValueError(f"{n} is odd")

    @executor.task(validate=must_be_even)
    def child(n: int) -> int:
        return n

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(2), child.bind(4), child.bind(7)])

    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert "children[2]" in ended.error.message
    assert "7 is odd" in ended.error.message
    assert count_executions() == 1


@one_database
@pytest.mark.parametrize("stranger", [5, "child", None, print])
def test_children_must_be_calls(
    executor: DurableExecutor, count_executions: Callable[[], int], stranger: object
) -> None:
    """What is no `task.bind(...)` fails the parent, with an error that names it and its place."""

    @executor.task
    def child() -> None: ...

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(), stranger])

    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert "children[1]" in ended.error.message
    assert "task.bind(...)" in ended.error.message
    assert repr(stranger) in ended.error.message
    assert count_executions() == 1


@one_database
def test_a_task_without_bind_is_no_child(executor: DurableExecutor) -> None:
    """A task itself, not bound, is refused as a child in the same way."""

    @executor.task
    def child() -> None: ...

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child])

    assert "children[0]" in executor.enqueue(parent).wait(timeout=SOON).error.message


@one_database
def test_a_child_must_be_registered(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """A child of a task that this executor doesn't know fails the parent; so does a namesake."""
    elsewhere = TaskRegistry()

    @elsewhere.task
    def unknown() -> None: ...

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [unknown.bind()])

    first = executor.enqueue(parent).wait(timeout=SOON)
    executor.task(id="unknown")(lambda: None)
    second = executor.enqueue(parent).wait(timeout=SOON)

    assert first.status is second.status is ExecutionStatus.FAILED
    assert "children[0]: TaskNotRegisteredError: task 'unknown' is not registered" in first.error.message
    assert "children[0]: TaskNotRegisteredError: another task" in second.error.message
    assert count_executions() == 2


@one_database
def test_the_output_of_a_spawn_must_fit(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """An output that is not of the type in `Spawn[...]` fails the parent, and no child is written."""

    @executor.task
    def child() -> None: ...

    @executor.parent_task
    def parent() -> Spawn[int]:
        return Spawn("text", [child.bind()])

    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert (ended.status, ended.error.type) == (ExecutionStatus.FAILED, "SerializationError")
    assert "parent" in ended.error.message
    assert count_executions() == 1


# types


@every_path
def test_outputs_of_children_are_typed(executor: DurableExecutor) -> None:
    """Outputs of children and of the Spawn come back as the types that the functions are annotated with."""

    @executor.task
    def title(text: str) -> Title:
        return Title(text, NOON)

    @executor.task
    def when() -> datetime:
        return NOON

    @executor.parent_task
    def parent(title_: Title) -> Spawn[list[Title]]:
        return Spawn([title_], [title.bind("one"), when.bind(), nested.bind()])

    @executor.parent_task
    def nested() -> Spawn[timedelta]:
        return Spawn(timedelta(hours=1), [title.bind("two")])

    handle = executor.enqueue(parent, Title("given", NOON))

    output = handle.result(timeout=SOON)
    two = ParentOutput(timedelta(hours=1), (Title("two", NOON),))
    assert output == ParentOutput([Title("given", NOON)], (Title("one", NOON), NOON, two))
    assert handle.get_execution().run_output == [Title("given", NOON)]
    assert handle.get_execution().output == output


@one_database
def test_a_spawn_need_not_say_its_type(executor: DurableExecutor) -> None:
    """A parent annotated with a bare `Spawn`, or not at all, has plain JSON as its output."""

    @executor.parent_task
    def bare() -> Spawn:
        return Spawn({"a": [1, None]})

    @executor.parent_task
    def silent():
        return Spawn("text")

    assert executor.enqueue(bare).result(timeout=SOON) == ParentOutput({"a": [1, None]}, ())
    assert executor.enqueue(silent).result(timeout=SOON) == ParentOutput("text", ())


# a parent that is retried


@every_path
def test_a_parent_is_retried_before_it_spawns(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """The retry policy judges the parent's function; its children are born once, with the attempt that returns."""
    policy = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0))

    @executor.task
    def child(attempt: int) -> int:
        return attempt

    @executor.parent_task(retry=policy)
    def parent(ctx: TaskContext) -> Spawn[int]:
        spawn = Spawn(ctx.attempt, [child.bind(ctx.attempt)] * 2)
        if ctx.attempt < 2:
            raise OSError("away")
        return spawn

    handle = executor.enqueue(parent)

    assert handle.result(timeout=SOON) == ParentOutput(2, (2, 2))
    assert handle.get_execution().error is None
    assert handle.get_execution().attempt == 2
    assert count_executions() == 3


@one_database
def test_a_failed_child_does_not_retry_its_parent(executor: DurableExecutor) -> None:
    """A parent's policy judges its own function only: what its children do starts it no second time."""
    starts: list[int] = []

    @executor.task
    def child() -> None:
        raise OSError("away")

    @executor.parent_task(retry=5)
    def parent(ctx: TaskContext) -> Spawn[None]:
        starts.append(ctx.attempt)
        return Spawn(None, [child.bind()])

    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert starts == [0]


@one_database
def test_a_parent_that_fails_spawns_nothing(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """A parent's own failure and timeout are those of any task."""

    @executor.parent_task
    def failing() -> Spawn[None]:
        raise ValueError("own fault")

    @executor.parent_task(timeout=0.05)
    def slow(ctx: TaskContext) -> Spawn[None]:
        ctx.cancel_signal.wait(SOON)
        return Spawn(None, [failing.bind()])

    with pytest.raises(TaskError, match="ValueError: own fault"):
        executor.enqueue(failing).result(timeout=SOON)
    with pytest.raises(TaskTimedOutError):
        executor.enqueue(slow).result(timeout=SOON)
    assert count_executions() == 2


# declaring and calling


@one_database
def test_calling_a_parent_returns_its_spawn(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """A plain call of a parent returns what its function returns, for unit tests; nothing is stored."""
    executor.migrate()

    @executor.task
    def child(n: int) -> int:
        return n

    @executor.parent_task(finalize=lambda _parent: None)
    def parent(n: int) -> Spawn[str]:
        return Spawn("out", (child.bind(place) for place in range(n)))

    spawn = parent(2)

    assert spawn == Spawn("out", (child.bind(0), child.bind(1)))
    assert [call.arguments for call in spawn.children] == [{"n": 0}, {"n": 1}]
    assert count_executions() == 0


@one_database
def test_a_plain_task_does_not_spawn(executor: DurableExecutor) -> None:
    """A plain task that is annotated to return Spawn, and a parent that is annotated not to, are refused."""

    def spawns() -> Spawn[int]: ...

    def bare() -> Spawn: ...

    def plain() -> int: ...

    for function in (spawns, bare):
        with pytest.raises(ConfigurationError, match="parent_task"):
            executor.task(function)
    with pytest.raises(ConfigurationError, match="a parent task returns Spawn"):
        executor.parent_task(plain)


@one_database
def test_a_parent_is_declared_like_any_task(executor: DurableExecutor) -> None:
    """`parent_task` takes the options of `task`, and refuses the same functions and options."""
    checked: list[int] = []

    @executor.parent_task(id="other.name", queue="q", priority=4, validate=lambda n: checked.append(n))
    def parent(n: int) -> Spawn[int]:
        return Spawn(n)

    assert parent.id == "other.name"
    with pytest.raises(InvalidInputError):
        executor.enqueue(parent, "one")
    assert checked == []
    handle = executor.enqueue(parent, 1)
    assert checked == [1]
    assert handle.result(timeout=SOON) == ParentOutput(1, ())
    assert (handle.get_execution().queue, handle.get_execution().priority) == ("q", 4)

    async def asynchronous() -> Spawn[int]: ...

    with pytest.raises(ConfigurationError, match="async"):
        executor.parent_task(asynchronous)
    with pytest.raises(ConfigurationError, match="did you mean 'timeout'"):
        executor.parent_task(timeoutt=3)(lambda: Spawn(1))
    with pytest.raises(ConfigurationError, match="registered already"):
        executor.parent_task(id="other.name")(lambda: Spawn(1))


@one_database
def test_drain_waits_for_whole_trees(executor: DurableExecutor, gate: Gate) -> None:
    """`drain` returns once children and finalizes have ended, not when the parents' functions have."""

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task(finalize=lambda _parent: "finalized")
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    with pytest.raises(TimeoutError):
        executor.drain(timeout=0.05)
    gate.open()
    executor.drain(timeout=SOON)

    assert handle.get_execution().output == "finalized"
