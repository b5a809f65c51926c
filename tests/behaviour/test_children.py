"""Children: how many and how large they may be, with which options and keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from durable_sync import (
    ConfigurationError,
    DurableExecutor,
    ExecutionStatus,
    ParentOutput,
    Spawn,
    TaskContext,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import child_ids, wait_for
from tests.clocks import START, ManualClock
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0


# how many children, and how large


@every_path
def test_max_children_is_a_bound(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """`max_children` children are allowed; one more fails the parent clearly, and nothing is written."""
    executor = new_executor(max_children=3)
    executor.start()

    @executor.task
    def child() -> None: ...

    @executor.parent_task
    def parent(many: int) -> Spawn[None]:
        return Spawn(None, [child.bind()] * many)

    assert executor.enqueue(parent, 3).result(timeout=SOON).children_outputs == (None,) * 3
    before = count_executions()
    ended = executor.enqueue(parent, 4).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert "4 children" in ended.error.message
    assert "max_children=3" in ended.error.message
    assert count_executions() == before + 1


@one_database
def test_the_default_bound(new_executor: NewExecutor) -> None:
    """Without the option a parent may have 50,000 children; a bound that makes no sense is refused."""
    assert inspect.signature(DurableExecutor).parameters["max_children"].default == 50_000
    for bad in (0, -1, 1.5, True, None):
        with pytest.raises(ConfigurationError, match="max_children"):
            new_executor(max_children=bad)


@one_database
def test_a_finalize_is_not_counted(new_executor: NewExecutor) -> None:
    """`max_children` bounds the children; the finalize comes on top."""
    executor = new_executor(max_children=2)
    executor.start()

    @executor.task
    def child() -> int:
        return 1

    @executor.parent_task(finalize=lambda parent: sum(parent.children_outputs))
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()] * 2)

    assert executor.enqueue(parent).result(timeout=SOON) == 2


def test_outputs_are_not_copied(executor: DurableExecutor, engine: Engine) -> None:
    """The output of a child is in the child's row and nowhere else; parents put theirs together when they are read."""
    large = "x" * 50_000

    @executor.task
    def child() -> str:
        return large

    @executor.parent_task(finalize=lambda result: result.children_outputs[0])
    def inner() -> Spawn[str]:
        return Spawn("own", [child.bind()])

    @executor.parent_task
    def outer() -> Spawn[int]:
        return Spawn(7, [child.bind(), inner.bind()])

    handle = executor.enqueue(outer)
    assert handle.result(timeout=SOON) == ParentOutput(7, (large, large))

    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT task_id, run_output, length(coalesce(run_output, '')) + length(input)"
                " + length(coalesce(plan, '')) AS size FROM durable_executions"
            )
        ).all()
    stored = {row.task_id: row for row in rows}
    assert stored["outer"].run_output == "7"
    assert stored["inner"].run_output == '"own"'
    holders = sorted(row.task_id for row in rows if row.size > 1000)
    assert holders == ["child", "child", "inner.finalize"]


@one_database
def test_an_output_that_is_too_large_fails_its_task(
    new_executor: NewExecutor, count_executions: Callable[[], int]
) -> None:
    """`max_payload_bytes` bounds a child's output, a parent's own, and a child's input."""
    executor = new_executor(max_payload_bytes=1000)
    executor.start()

    @executor.task
    def child(text: str, times: int) -> str:
        return text * times

    @executor.parent_task
    def parent(own: int, given: int, times: int) -> Spawn[str]:
        return Spawn("x" * own, [child.bind("y" * given, times)])

    by_output = executor.enqueue(parent, 1, 1, 2000).wait(timeout=SOON)
    assert by_output.status is ExecutionStatus.CHILDREN_FAILED
    assert "max_payload_bytes=1000" in by_output.error.message
    before = count_executions()
    own = executor.enqueue(parent, 2000, 1, 1).wait(timeout=SOON)
    by_input = executor.enqueue(parent, 1, 2000, 1).wait(timeout=SOON)
    assert own.status is by_input.status is ExecutionStatus.FAILED
    assert "the output of task 'parent'" in own.error.message
    assert "children[0]: InvalidInputError" in by_input.error.message
    assert count_executions() == before + 2


@one_database
def test_a_put_together_output_has_no_limit_of_its_own(new_executor: NewExecutor) -> None:
    """Outputs that are each small enough may be more together than one payload."""
    executor = new_executor(max_payload_bytes=1000)
    executor.start()

    @executor.task
    def child() -> str:
        return "x" * 900

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()] * 5)

    assert executor.enqueue(parent).result(timeout=SOON).children_outputs == ("x" * 900,) * 5


# options of children


@every_path
def test_children_have_options(new_executor: NewExecutor, clock: ManualClock, gate: Gate) -> None:
    """A child that is bound with options has them, as if it had been enqueued with them."""
    executor = new_executor(clock=clock, queues=["default", "other"])
    executor.start()
    run_at = START + timedelta(hours=2)

    @executor.task
    def child(name: str) -> str:
        gate.pass_through()
        return name

    @executor.parent_task(queue="other", priority=3)
    def parent() -> Spawn[None]:
        return Spawn(
            None,
            [
                child.bind("plain"),
                child.options(queue="other", priority=7).bind("placed"),
                child.options(delay=3600).bind("delayed"),
                child.options(run_at=run_at).bind("timed"),
            ],
        )

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals(2)
    plain, placed, delayed, timed = (executor.get_execution(name) for name in child_ids(handle))
    # Options are a child's own: nothing is passed down by its parent.
    assert (plain.queue, plain.priority) == ("default", 0)
    assert (placed.queue, placed.priority) == ("other", 7)
    assert timedelta(hours=1) <= delayed.ready_at - START < timedelta(hours=1, seconds=1)
    assert timed.ready_at == run_at
    assert delayed.status is timed.status is ExecutionStatus.READY
    gate.open()
    wait_until(lambda: executor.get_execution(placed.execution_id).is_finished)
    assert handle.get_execution().status is ExecutionStatus.WAITING_FOR_CHILDREN
    clock.advance(3601)
    wait_until(lambda: executor.get_execution(delayed.execution_id).is_finished)
    assert executor.get_execution(timed.execution_id).status is ExecutionStatus.READY
    clock.advance(3600)

    assert handle.result(timeout=SOON).children_outputs == ("plain", "placed", "delayed", "timed")


@one_database
def test_children_have_timeouts_and_retries(executor: DurableExecutor) -> None:
    """`timeout` and `retry` that a child is bound with overrule those of its task."""
    failed = []

    @executor.task(timeout=60)
    def slow(ctx: TaskContext) -> None:
        ctx.cancel_signal.wait(SOON)

    @executor.task
    def flaky(ctx: TaskContext) -> int:
        if ctx.attempt == 0:
            failed.append(ctx.execution_id)
            raise OSError("away")
        return ctx.attempt

    @executor.parent_task(fail_fast=False)
    def parent() -> Spawn[None]:
        return Spawn(None, [slow.options(timeout=0.05).bind(), flaky.options(retry=2).bind(), flaky.bind()])

    handle = executor.enqueue(parent)

    assert handle.result(timeout=SOON).children_outputs == (None, 1, None)
    ended = handle.get_execution()
    assert [child.status for child in ended.children] == [
        ExecutionStatus.TIMED_OUT,
        ExecutionStatus.COMPLETED,
        ExecutionStatus.FAILED,
    ]
    assert sorted(failed) == sorted(child.execution_id for child in ended.children[1:])


@one_database
def test_a_child_with_the_higher_priority_runs_first(new_executor: NewExecutor) -> None:
    """Among the children of one parent, what has the higher priority runs first."""
    executor = new_executor(max_workers=1)
    ran: list[str] = []

    @executor.task
    def child(name: str) -> None:
        ran.append(name)

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.options(priority=p).bind(str(p)) for p in (0, 5, -5, 9)])

    executor.start()
    executor.enqueue(parent).result(timeout=SOON)

    assert ran == ["9", "5", "0", "-5"]


# children with keys


@every_path
def test_children_have_keys(executor: DurableExecutor, gate: Gate) -> None:
    """A child holds the key it is bound with, and frees it when it ends."""

    @executor.task
    def child(name: str) -> str:
        gate.pass_through()
        return name

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.options(key=key).bind(key) for key in ("a", "b")] + [child.bind("c")])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals(3)
    again = executor.enqueue(child.options(key="b"), "again")
    assert not again.created
    assert again.execution_id == child_ids(handle)[1]
    gate.open()

    assert handle.result(timeout=SOON).children_outputs == ("a", "b", "c")
    assert executor.enqueue(child.options(key="b"), "again").created
    assert executor.enqueue(parent).wait(timeout=SOON).is_finished


@every_path
def test_a_taken_key_fails_the_parent(
    executor: DurableExecutor, count_executions: Callable[[], int], gate: Gate
) -> None:
    """A child whose key is taken fails the parent clearly, and none of its children is written."""

    @executor.task
    def child(name: str) -> str:
        gate.pass_through()
        return name

    @executor.parent_task(finalize=lambda _parent: None)
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind("plain"), *(child.options(key=key).bind(key) for key in ("free", "taken"))])

    holder = executor.enqueue(child.options(key="taken"), "holder")
    gate.wait_for_arrivals()
    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.children == ()
    assert "the key 'taken'" in ended.error.message
    assert holder.execution_id in ended.error.message
    assert count_executions() == 2
    assert gate.nobody_came()
    gate.open()
    assert holder.result(timeout=SOON) == "holder"
    assert executor.enqueue(parent).wait(timeout=SOON).status is ExecutionStatus.COMPLETED


@every_path
def test_two_children_with_one_key(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """Two children of one task with one key fail the parent; the same key of another task is another key."""

    @executor.task
    def child(n: int) -> int:
        return n

    @executor.task
    def other(n: int) -> int:
        return n

    @executor.parent_task
    def parent(clash: bool) -> Spawn[None]:
        third = child if clash else other
        return Spawn(None, [child.options(key="k").bind(0), child.bind(1), third.options(key="k").bind(2)])

    ended = executor.enqueue(parent, True).wait(timeout=SOON)
    assert ended.status is ExecutionStatus.FAILED
    assert "children[2]" in ended.error.message
    assert "the key 'k'" in ended.error.message
    assert count_executions() == 1
    assert executor.enqueue(parent, False).result(timeout=SOON).children_outputs == (0, 1, 2)


@one_database
def test_a_parent_that_lost_a_key_tells_its_own_parent(executor: DurableExecutor, gate: Gate) -> None:
    """A parent that fails for a taken key has failed for its own parent, too."""

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task
    def inner() -> Spawn[None]:
        return Spawn(None, [child.options(key="taken").bind()])

    @executor.parent_task
    def outer() -> Spawn[None]:
        return Spawn(None, [inner.bind()])

    executor.enqueue(child.options(key="taken"))
    ended = executor.enqueue(outer).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert "the key 'taken'" in ended.error.message


@one_database
def test_a_parent_may_have_a_key(executor: DurableExecutor, gate: Gate) -> None:
    """A parent holds its key until its whole tree has ended."""

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    first = executor.enqueue(parent.options(key="k"))
    gate.wait_for_arrivals()
    wait_for(first, ExecutionStatus.WAITING_FOR_CHILDREN)
    assert executor.enqueue(parent.options(key="k")) == first
    gate.open()
    first.wait(timeout=SOON)

    assert executor.enqueue(parent.options(key="k")) != first
