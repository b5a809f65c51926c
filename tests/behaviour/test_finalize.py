"""Finalize: what runs once the children have ended, and whose output is the parent's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import tenacity
from attrs import frozen
from sqlalchemy import Engine, text

from durable_sync import (
    ChildExecution,
    ConfigurationError,
    DurableExecutor,
    ExecutionStatus,
    FinalizeFailedError,
    ParentOutput,
    ParentResult,
    Spawn,
    TaskContext,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import child_ids, finalize_row, wait_for
from tests.clocks import ManualClock
from tests.gates import Gate
from tests.paths import every_path, one_database

SOON = 10.0
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@frozen
class Title:
    text: str
    at: datetime


@frozen
class Report:
    path: str
    titles: list[Title]
    size: int


def add_up(parent: ParentResult[int]) -> int:
    return parent.output + sum(parent.children_outputs)


# a function


@every_path
def test_a_finalize_makes_the_output(executor: DurableExecutor, gate: Gate) -> None:
    """Once the children have ended the parent is `waiting_for_finalize`; then the finalize's output is its own."""

    @executor.task
    def child(n: int) -> int:
        return n

    def combine(parent: ParentResult[int]) -> int:
        gate.pass_through()
        return add_up(parent)

    @executor.parent_task(finalize=combine)
    def parent(n: int) -> Spawn[int]:
        return Spawn(n, [child.bind(1), child.bind(2)])

    handle = executor.enqueue(parent, 10)
    gate.wait_for_arrivals()
    waiting = handle.get_execution()
    assert (waiting.status, waiting.output) == (ExecutionStatus.WAITING_FOR_FINALIZE, None)
    gate.open()

    assert handle.result(timeout=SOON) == 13
    ended = handle.get_execution()
    assert (ended.status, ended.run_output, ended.output) == (ExecutionStatus.COMPLETED, 10, 13)
    assert [child.task_id for child in ended.children] == ["child", "child"]


@every_path
def test_what_a_finalize_is_given(executor: DurableExecutor) -> None:
    """It gets one `ParentResult`: the parent's input and output, its children, and their outputs, all typed."""
    given: list[ParentResult[Any]] = []

    @executor.task
    def title(text: str) -> Title:
        return Title(text, NOON)

    @executor.parent_task
    def nested() -> Spawn[timedelta]:
        return Spawn(timedelta(hours=1), [title.bind("below")])

    def combine(parent: ParentResult[Title]) -> Report:
        given.append(parent)
        return Report(parent.input["path"], [parent.output, parent.children_outputs[0]], parent.input["size"])

    @executor.parent_task(finalize=combine)
    def parent(path: str, *, at: datetime, size: int = 5) -> Spawn[Title]:
        return Spawn(Title(path, at), [title.bind("child"), nested.bind()])

    handle = executor.enqueue(parent, "a.txt", at=NOON, size=7)

    own, child = Title("a.txt", NOON), Title("child", NOON)
    assert handle.result(timeout=SOON) == Report("a.txt", [own, child], 7)
    children = tuple(
        ChildExecution(task_id, execution_id, ExecutionStatus.COMPLETED)
        for task_id, execution_id in zip(["title", "nested"], child_ids(handle), strict=True)
    )
    below = ParentOutput(timedelta(hours=1), (Title("below", NOON),))
    assert given == [
        ParentResult(
            input={"path": "a.txt", "at": NOON, "size": 7},
            output=own,
            children=children,
            children_outputs=(child, below),
        )
    ]


@one_database
def test_a_finalize_runs_without_children(executor: DurableExecutor) -> None:
    """A Spawn without children goes to its finalize all the same, with no outputs of children."""
    seen: list[tuple[object, ...]] = []

    def combine(parent: ParentResult[int]) -> str:
        seen.append((parent.children, parent.children_outputs))
        return f"made of {parent.output}"

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[int]:
        return Spawn(5)

    handle = executor.enqueue(parent)

    assert handle.result(timeout=SOON) == "made of 5"
    assert handle.get_execution().children == ()
    assert seen == [((), ())]


@every_path
def test_a_function_is_a_hidden_task(executor: DurableExecutor, engine: Engine) -> None:
    """A finalize given as a function runs as the task `<parent id>.finalize`, a descendant and no child."""
    names: list[str] = []

    def combine(ctx: TaskContext, parent: ParentResult[None]) -> str:
        names.extend([ctx.task_id, ctx.execution_id])
        return f"attempt {ctx.attempt} of {parent.input}"

    @executor.parent_task(id="up.load", finalize=combine)
    def upload(n: int) -> Spawn[None]:
        return Spawn(None)

    handle = executor.enqueue(upload, 1)

    assert handle.result(timeout=SOON) == "attempt 0 of {'n': 1}"
    hidden = finalize_row(engine, handle.execution_id)
    assert names == ["up.load.finalize", hidden.id]
    execution = executor.get_execution(hidden.id)
    assert (execution.task_id, execution.parent, execution.root) == (
        "up.load.finalize",
        handle.execution_id,
        handle.execution_id,
    )
    assert execution.output == "attempt 0 of {'n': 1}"


@every_path
def test_a_function_has_the_parents_options(executor: DurableExecutor, engine: Engine, gate: Gate) -> None:
    """A hidden finalize has its parent's timeout, queue and priority, also those of the enqueue."""

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task(finalize=lambda _parent: None, timeout=60, queue="declared", priority=4)
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    declared = executor.enqueue(parent)
    changed = executor.enqueue(parent.options(timeout=30, queue="changed", priority=9))
    gate.wait_for_arrivals(2)
    for handle in (declared, changed):
        wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    rows = [finalize_row(engine, handle.execution_id) for handle in (declared, changed)]
    gate.open()
    for handle in (declared, changed):
        handle.result(timeout=SOON)

    assert [(row.queue, row.priority) for row in rows] == [("declared", 4), ("changed", 9)]
    # None: it is the declared one, in the task.
    assert [row.timeout for row in rows] == [None, 30_000_000]


@one_database
@pytest.mark.parametrize("overridden", [False, True])
def test_a_function_has_the_parents_timeout(executor: DurableExecutor, overridden: bool) -> None:
    """A hidden finalize that overruns its parent's timeout ends the parent as `finalize_failed`."""

    def overrun(ctx: TaskContext, _parent: ParentResult[None]) -> None:
        ctx.cancel_signal.wait(SOON)

    @executor.parent_task(finalize=overrun, timeout=60 if overridden else 0.05)
    def parent() -> Spawn[None]:
        return Spawn(None)

    handle = executor.enqueue(parent.options(timeout=0.05) if overridden else parent)

    with pytest.raises(FinalizeFailedError, match=r"'parent\.finalize' .*timed out.*0\.05 s"):
        handle.result(timeout=SOON)
    assert handle.get_execution().status is ExecutionStatus.FINALIZE_FAILED


@one_database
def test_a_function_is_not_retried(executor: DurableExecutor) -> None:
    """A hidden finalize has no retry, whatever its parent has, nor its parent's `validate` and `delay`."""
    attempts: list[int] = []

    def combine(ctx: TaskContext, _parent: ParentResult[None]) -> None:
        attempts.append(ctx.attempt)
        raise OSError("away")

    @executor.parent_task(finalize=combine, retry=5, delay=0.01, validate=lambda n: n)
    def parent(n: int) -> Spawn[None]:
        return Spawn(None)

    for task in (parent, parent.options(retry=3)):
        ended = executor.enqueue(task, 1).wait(timeout=SOON)
        assert ended.status is ExecutionStatus.FINALIZE_FAILED
    assert attempts == [0, 0]


@one_database
def test_a_finalize_may_have_no_annotations(executor: DurableExecutor) -> None:
    """A finalize without annotations works; its output is plain JSON."""

    @executor.task
    def child() -> int:
        return 3

    @executor.parent_task(finalize=lambda parent: {"sum": sum(parent.children_outputs)})
    def parent() -> Spawn[int]:
        return Spawn(1, [child.bind()])

    assert executor.enqueue(parent).result(timeout=SOON) == {"sum": 3}


# a task


@every_path
def test_a_task_has_its_own_options(new_executor: NewExecutor, clock: ManualClock, engine: Engine) -> None:
    """A finalize that is a task has its own retry, queue, priority and delay, not its parent's."""
    executor = new_executor(clock=clock)
    executor.start()

    @executor.task(retry=tenacity.Retrying(wait=tenacity.wait_fixed(0)), queue="own", priority=8)
    def combine(ctx: TaskContext, parent: ParentResult[int]) -> str:
        if ctx.attempt < 2:
            raise OSError("away")
        return f"{parent.output} at attempt {ctx.attempt}"

    @executor.parent_task(finalize=combine.options(delay=3600), priority=1, timeout=60)
    def parent() -> Spawn[int]:
        return Spawn(1)

    handle = executor.enqueue(parent.options(timeout=30))
    wait_for(handle, ExecutionStatus.WAITING_FOR_FINALIZE)
    row = finalize_row(engine, handle.execution_id)
    assert (row.task_id, row.queue, row.priority, row.timeout) == ("combine", "own", 8, None)
    assert row.lane is None
    clock.advance(3601)

    assert handle.result(timeout=SOON) == "1 at attempt 2"


@one_database
def test_a_delay_counts_from_its_turn(new_executor: NewExecutor, clock: ManualClock, gate: Gate) -> None:
    """The delay of a finalize begins when the last child has ended, not when the parent spawns."""
    executor = new_executor(clock=clock)
    executor.start()
    ran = threading.Event()

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.task(delay=3600)
    def combine(parent: ParentResult[None]) -> None:
        ran.set()

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    clock.advance(7200)
    gate.open()
    wait_for(handle, ExecutionStatus.WAITING_FOR_FINALIZE)
    assert not ran.is_set()
    clock.advance(3601)

    handle.result(timeout=SOON)
    assert ran.is_set()


@one_database
def test_one_task_may_finalize_several_parents(executor: DurableExecutor) -> None:
    """A task can be the finalize of several parents, and a task of its own."""
    combine = executor.task(add_up)

    @executor.parent_task(finalize=combine)
    def one() -> Spawn[int]:
        return Spawn(1)

    @executor.parent_task(finalize=combine)
    def two() -> Spawn[int]:
        return Spawn(2)

    assert [executor.enqueue(task).result(timeout=SOON) for task in (one, two)] == [1, 2]


@one_database
def test_a_finalize_may_have_further_parameters_with_defaults(executor: DurableExecutor) -> None:
    """A finalize takes one argument; further ones that have defaults are left to them."""

    @executor.task
    def combine(parent: ParentResult[int], factor: int = 3, *, shift: int = 1) -> int:
        return parent.output * factor + shift

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[int]:
        return Spawn(2)

    assert executor.enqueue(parent).result(timeout=SOON) == 7


@every_path
def test_a_finalize_may_be_a_parent(executor: DurableExecutor, engine: Engine) -> None:
    """A finalize may be a parent task whose finalize is a parent task, and so on: the last output is the root's."""

    @executor.task
    def child(n: int) -> int:
        return n

    @executor.parent_task(finalize=add_up)
    def third(result: ParentResult[int]) -> Spawn[int]:
        return Spawn(sum(result.children_outputs), [child.bind(1000)])

    @executor.parent_task(finalize=third)
    def second(result: ParentResult[int]) -> Spawn[int]:
        return Spawn(sum(result.children_outputs), [child.bind(result.output + 100)])

    @executor.parent_task(finalize=second)
    def first() -> Spawn[int]:
        return Spawn(1, [child.bind(10)])

    handle = executor.enqueue(first)

    # third is given second's children, and its own finalize the last one.
    assert handle.result(timeout=SOON) == 101 + 1000
    below = finalize_row(engine, handle.execution_id)
    assert below.task_id == "second"
    assert executor.get_execution(below.id).output == 1101
    deepest = finalize_row(engine, finalize_row(engine, below.id).id)
    assert (deepest.task_id, deepest.root_id) == ("third.finalize", handle.execution_id)
    # By reference, and straight to whom it is of: reading does not follow a chain.
    with engine.connect() as connection:
        query = text("SELECT output_from FROM durable_executions WHERE id = :id")
        assert connection.execute(query, {"id": handle.execution_id}).scalar_one() == deepest.id


@one_database
def test_a_finalize_that_is_a_parent_without_finalize(executor: DurableExecutor) -> None:
    """The output of a finalize that is a parent may be put together, of typed outputs."""

    @executor.task
    def title(text: str) -> Title:
        return Title(text, NOON)

    @executor.parent_task
    def more(result: ParentResult[Title]) -> Spawn[Title]:
        return Spawn(result.output, [title.bind("child")])

    @executor.parent_task(finalize=more)
    def parent() -> Spawn[Title]:
        return Spawn(Title("own", NOON))

    expected = ParentOutput(Title("own", NOON), (Title("child", NOON),))
    assert executor.enqueue(parent).result(timeout=SOON) == expected


@every_path
def test_a_finalize_may_be_a_sequence(executor: DurableExecutor) -> None:
    """A finalize may be a sequence: its first step is given the ParentResult, its last one's output is the parent's."""

    @executor.task
    def child(n: int) -> int:
        return n

    combine = executor.task(add_up)

    @executor.task
    def describe(total: int) -> str:
        return f"total {total}"

    @executor.parent_task(finalize=executor.sequential_tasks("steps", combine, describe))
    def parent() -> Spawn[int]:
        return Spawn(5, [child.bind(1), child.bind(2)])

    assert executor.enqueue(parent).result(timeout=SOON) == "total 8"


@one_database
def test_outputs_of_finalizes_are_typed(executor: DurableExecutor) -> None:
    """What a finalize returns comes back as its type, through parents that have it as theirs."""

    def when(_parent: ParentResult[None]) -> datetime:
        return NOON

    @executor.parent_task(finalize=when)
    def inner() -> Spawn[None]:
        return Spawn(None)

    @executor.parent_task(finalize=lambda parent: [type(o).__name__ for o in parent.children_outputs])
    def names() -> Spawn[None]:
        return Spawn(None, [inner.bind()])

    @executor.parent_task
    def outer() -> Spawn[None]:
        return Spawn(None, [inner.bind(), names.bind()])

    assert executor.enqueue(inner).result(timeout=SOON) == NOON
    assert executor.enqueue(outer).result(timeout=SOON).children_outputs == (NOON, ["datetime"])


# its turn


@every_path
def test_a_finalize_runs_once_and_last(executor: DurableExecutor, gate: Gate) -> None:
    """A finalize runs once, and not before the last child has ended."""
    order: list[str] = []

    @executor.task
    def child(name: str) -> None:
        gate.pass_through()
        order.append(name)

    def combine(_parent: ParentResult[None]) -> None:
        order.append("finalize")

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(str(n)) for n in range(20)])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals(4)
    assert order == []
    gate.open()
    handle.result(timeout=SOON)
    executor.drain(timeout=SOON)

    assert order[-1] == "finalize"
    assert sorted(order[:-1]) == sorted(str(n) for n in range(20))


@every_path
def test_a_process_that_does_not_know_it_leaves_it(new_executor: NewExecutor) -> None:
    """A process without the finalize's task ends the last child, and another process finalizes."""
    children, whole = TaskRegistry(), TaskRegistry()

    @children.task(queue="children")
    def child(n: int) -> int:
        return n

    @whole.parent_task(finalize=add_up)
    def parent() -> Spawn[int]:
        return Spawn(1, [child.bind(2), child.bind(3)])

    spawning = new_executor(tasks=[children, whole], queues=["default"])
    working = new_executor(tasks=children)
    spawning.start()
    handle = spawning.enqueue(parent)
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    spawning.shutdown()
    working.start()
    wait_for(handle, ExecutionStatus.WAITING_FOR_FINALIZE)
    new_executor(tasks=whole).start()

    assert handle.result(timeout=SOON) == 6


# declaring


@one_database
def test_a_finalize_that_makes_no_sense_is_refused(executor: DurableExecutor) -> None:
    """A finalize that can't be fed one ParentResult is refused when its parent is declared, by name."""

    @executor.task
    def two(one: int, other: int) -> None: ...

    @executor.task
    def none() -> None: ...

    @executor.task
    def only_by_name(*, result: int) -> None: ...

    async def asynchronous(parent: ParentResult[Any]) -> None: ...

    def generating(parent: ParentResult[Any]) -> Any:
        yield parent

    def spawning(parent: ParentResult[Any]) -> Spawn[None]: ...

    def two_plain(one: int, other: int) -> None: ...

    def none_plain() -> None: ...

    single = executor.task(id="single")(add_up)
    sleeper = executor.sleeping_task("sleeper")
    keyed, timed = single.options(key="k"), single.options(run_at=NOON)
    refused = [two, none, only_by_name, asynchronous, generating, spawning, two_plain, none_plain]
    for number, finalize in enumerate([*refused, sleeper, keyed, timed, 5, "combine", TaskRegistry]):
        with pytest.raises(ConfigurationError, match=f"p{number}: its finalize"):
            executor.parent_task(id=f"p{number}", finalize=finalize)(lambda: Spawn(1))


@one_database
def test_the_hidden_id_must_be_possible(executor: DurableExecutor) -> None:
    """`<parent id>.finalize` must be an id like any other: not too long, and nobody else's."""
    longest = "x" * (200 - len(".finalize"))
    executor.parent_task(id=longest, finalize=add_up)(lambda: Spawn(1))
    assert executor.enqueue(executor._registry.get(longest)).result(timeout=SOON) == 1
    with pytest.raises(ConfigurationError, match=r"\.finalize' is malformed"):
        executor.parent_task(id=longest + "x", finalize=add_up)(lambda: Spawn(1))

    executor.task(id="taken.finalize")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"'taken\.finalize' is registered already"):
        executor.parent_task(id="taken", finalize=add_up)(lambda: Spawn(1))


@one_database
def test_what_is_refused_leaves_nothing(executor: DurableExecutor) -> None:
    """A parent whose finalize's id is taken is not registered itself, so its id stays free."""
    executor.task(id="taken.finalize")(lambda: None)
    with pytest.raises(ConfigurationError):
        executor.parent_task(id="taken", finalize=add_up)(lambda: Spawn(1))

    parent = executor.parent_task(id="taken")(lambda: Spawn(2))
    assert executor.enqueue(parent).result(timeout=SOON) == ParentOutput(2, ())


@one_database
def test_a_finalize_comes_with_its_parent(new_executor: NewExecutor) -> None:
    """Whoever registers a parent has its finalize, and that one's, without naming them."""
    apart, registry = TaskRegistry(), TaskRegistry()

    @apart.parent_task(finalize=add_up)
    def second(result: ParentResult[int]) -> Spawn[int]:
        return Spawn(result.output * 2)

    @registry.parent_task(finalize=second)
    def first() -> Spawn[int]:
        return Spawn(21)

    assert {task.id for task in registry} == {"first", "second", "second.finalize"}
    executor = new_executor(tasks=registry)
    executor.start()
    assert executor.enqueue(first).result(timeout=SOON) == 42


@one_database
def test_two_registries_may_share_a_finalize(new_executor: NewExecutor) -> None:
    """The same finalize through two registries is one task; two tasks of one id are refused."""
    one, two, other = TaskRegistry(), TaskRegistry(), TaskRegistry()
    combine = one.task(id="combine")(add_up)
    first = one.parent_task(id="first", finalize=combine)(lambda: Spawn(1))
    second = two.parent_task(id="second", finalize=combine)(lambda: Spawn(2))
    other.task(id="combine")(lambda: 3)

    executor = new_executor(tasks=[one, two])
    executor.start()
    assert [executor.enqueue(task).result(timeout=SOON) for task in (first, second)] == [1, 2]
    with pytest.raises(ConfigurationError, match="'combine' is registered already"):
        new_executor(tasks=[one, other])


@one_database
def test_a_finalize_is_not_the_users_to_enqueue(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """A finalize task that is enqueued by itself with what is no ParentResult is refused like any bad input."""
    executor.migrate()
    combine = executor.task(id="combine")(add_up)

    with pytest.raises(ValueError, match="add_up"):
        executor.enqueue(combine, "no result")
    assert count_executions() == 0
