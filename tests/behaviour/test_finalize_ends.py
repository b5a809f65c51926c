"""Finalize with what did not complete: its own failure, its cancel, and failed children that it reads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine

from durable_sync import (
    DurableExecutor,
    ErrorInfo,
    ExecutionStatus,
    FinalizeFailedError,
    ParentResult,
    Spawn,
    TaskCancelledError,
    TaskContext,
)
from tests.behaviour.looking import active_tasks, child_ids, finalize_row, run_until_stopped, wait_for
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0


# when it does not complete


@every_path
def test_a_finalize_that_fails(executor: DurableExecutor) -> None:
    """A finalize that raises makes its parent `finalize_failed`; the error shows its message; children stay."""

    @executor.task
    def child() -> int:
        return 1

    def combine(_parent: ParentResult[None]) -> None:
        raise ValueError("can't combine")

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    handle = executor.enqueue(parent)

    with pytest.raises(FinalizeFailedError, match=r"'parent\.finalize' .*failed: ValueError: can't combine") as caught:
        handle.result(timeout=SOON)
    ended = handle.get_execution()
    assert (ended.status, ended.output) == (ExecutionStatus.FINALIZE_FAILED, None)
    assert ended.error.type == "FinalizeFailedError"
    assert [child.status for child in ended.children] == [ExecutionStatus.COMPLETED]
    assert caught.value.execution == ended
    assert "in combine" in "".join(caught.value.__notes__)


@one_database
def test_a_failed_finalize_through_levels(executor: DurableExecutor) -> None:
    """The message of a finalize that failed is shown once by every ancestor, whatever each of them ends with."""

    def combine(_parent: ParentResult[None]) -> None:
        raise ValueError("the deepest")

    @executor.parent_task(finalize=combine)
    def inner(result: ParentResult[None]) -> Spawn[None]:
        return Spawn(None)

    @executor.parent_task(finalize=inner)
    def middle() -> Spawn[None]:
        return Spawn(None)

    @executor.parent_task
    def outer() -> Spawn[None]:
        return Spawn(None, [middle.bind()])

    handle = executor.enqueue(outer)
    ended = handle.wait(timeout=SOON)

    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert executor.get_execution(child_ids(handle)[0]).status is ExecutionStatus.FINALIZE_FAILED
    assert ended.error.message.count("ValueError: the deepest") == 1
    assert "'inner.finalize'" in ended.error.message


@one_database
def test_a_failed_child_of_a_finalize(executor: DurableExecutor) -> None:
    """A finalize whose own child fails did not complete: its parent is `finalize_failed`, with that message."""

    @executor.task
    def failing() -> None:
        raise ValueError("below the finalize")

    @executor.parent_task
    def more(result: ParentResult[None]) -> Spawn[None]:
        return Spawn(None, [failing.bind()])

    @executor.parent_task(finalize=more)
    def parent() -> Spawn[None]:
        return Spawn(None)

    with pytest.raises(FinalizeFailedError, match=r"task 'failing' .*ValueError: below the finalize"):
        executor.enqueue(parent).result(timeout=SOON)


@one_database
def test_a_finalize_that_cancels_itself(executor: DurableExecutor) -> None:
    """A finalize that raises TaskCancelledError did not complete either."""

    def combine(_parent: ParentResult[None]) -> None:
        raise TaskCancelledError("not worth it")

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None)

    with pytest.raises(FinalizeFailedError, match="cancelled: TaskCancelledError: not worth it"):
        executor.enqueue(parent).result(timeout=SOON)


@one_database
def test_a_finalize_whose_output_does_not_fit(executor: DurableExecutor) -> None:
    """A finalize that returns what its annotation refuses fails, and so does its parent."""

    def combine(_parent: ParentResult[None]) -> int:
        return "text"

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None)

    with pytest.raises(FinalizeFailedError, match=r"SerializationError: the output of task 'parent\.finalize'"):
        executor.enqueue(parent).result(timeout=SOON)


@every_path
def test_a_running_finalize_is_cancelled(executor: DurableExecutor, engine: Engine) -> None:
    """`cancel` of a finalize that runs stops it and makes its parent `finalize_failed`."""
    running, stopped = threading.Event(), threading.Event()

    @executor.task
    def combine(ctx: TaskContext, parent: ParentResult[None]) -> None:
        running.set()
        run_until_stopped(ctx, stopped)

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None)

    handle = executor.enqueue(parent)
    assert running.wait(SOON)
    assert executor.get_handle(combine, finalize_row(engine, handle.execution_id).id).cancel()

    assert stopped.wait(SOON)
    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.FINALIZE_FAILED
    assert "task 'combine'" in ended.error.message
    assert "cancelled: TaskCancelledError" in ended.error.message


@every_path
def test_a_finalize_is_cancelled_before_its_turn(executor: DurableExecutor, engine: Engine, gate: Gate) -> None:
    """`cancel` of a finalize that waits its turn fails its parent at once, and cancels the children."""

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.task
    def combine(parent: ParentResult[None]) -> None:
        raise AssertionError("must never run")

    @executor.parent_task(finalize=combine)
    def inner() -> Spawn[None]:
        return Spawn(None, [child.bind(), child.options(delay=3600).bind()])

    @executor.parent_task
    def outer() -> Spawn[None]:
        return Spawn(None, [inner.bind()])

    handle = executor.enqueue(outer)
    gate.wait_for_arrivals()
    (inner_id,) = child_ids(handle)
    wait_until(lambda: executor.get_execution(inner_id).status is ExecutionStatus.WAITING_FOR_CHILDREN)
    assert executor.get_handle(combine, finalize_row(engine, inner_id).id).cancel()

    below = executor.get_execution(inner_id)
    assert below.status is ExecutionStatus.FINALIZE_FAILED
    assert [child.status for child in below.children] == [ExecutionStatus.CANCELLED] * 2
    assert handle.get_execution().status is ExecutionStatus.CHILDREN_FAILED
    assert active_tasks(engine) == []


@every_path
def test_a_parent_is_cancelled_while_it_is_finalized(executor: DurableExecutor) -> None:
    """`cancel` of a parent that waits for its finalize stops that, and leaves nothing active."""
    running, stopped = threading.Event(), threading.Event()

    def combine(ctx: TaskContext, _parent: ParentResult[None]) -> None:
        running.set()
        run_until_stopped(ctx, stopped)

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None)

    handle = executor.enqueue(parent)
    assert running.wait(SOON)
    wait_for(handle, ExecutionStatus.WAITING_FOR_FINALIZE)
    assert handle.cancel()

    assert handle.get_execution().status is ExecutionStatus.CANCELLED
    assert stopped.wait(SOON)
    executor.drain(timeout=SOON)


@every_path
def test_a_failed_child_keeps_the_finalize_from_running(executor: DurableExecutor, engine: Engine) -> None:
    """With `fail_fast` a child that fails ends the parent; its finalize never runs, and is not left behind."""

    @executor.task
    def failing() -> None:
        raise ValueError("spoilt")

    def combine(_parent: ParentResult[None]) -> None:
        raise AssertionError("must never run")

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None, [failing.bind()])

    handle = executor.enqueue(parent)

    assert handle.wait(timeout=SOON).status is ExecutionStatus.CHILDREN_FAILED
    row = finalize_row(engine, handle.execution_id)
    assert (row.status, row.starts) == ("cancelled", 0)


# without fail_fast


@every_path
def test_a_finalize_reads_failures(executor: DurableExecutor) -> None:
    """With `fail_fast=False` the finalize sees each child's status, output (None if it has none) and error."""
    given: list[ParentResult[Any]] = []

    @executor.task(timeout=0.05)
    def child(ctx: TaskContext, n: int) -> int:
        if n == 1:
            raise ValueError("one")
        if n == 2:
            ctx.cancel_signal.wait(SOON)
        if n == 3:
            raise TaskCancelledError("three")
        return n

    @executor.parent_task
    def nested() -> Spawn[None]:
        return Spawn(None, [child.options(timeout=60).bind(1)])

    def combine(parent: ParentResult[None]) -> str:
        given.append(parent)
        return "finalized"

    @executor.parent_task(finalize=combine, fail_fast=False)
    def parent() -> Spawn[None]:
        calls = [child.options(timeout=60).bind(n) if n != 2 else child.bind(n) for n in range(4)]
        return Spawn(None, [*calls, nested.bind()])

    handle = executor.enqueue(parent)

    assert handle.result(timeout=SOON) == "finalized"
    (result,) = given
    assert [child.status for child in result.children] == [
        ExecutionStatus.COMPLETED,
        ExecutionStatus.FAILED,
        ExecutionStatus.TIMED_OUT,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.CHILDREN_FAILED,
    ]
    assert result.children_outputs == (0, None, None, None, None)
    assert result.children == handle.get_execution().children
    assert result.children[0].error is None
    errors = [child.error for child in result.children[1:]]
    assert all(isinstance(error, ErrorInfo) for error in errors)
    assert [error.type for error in errors] == [
        "ValueError",
        "TaskTimedOutError",
        "TaskCancelledError",
        "ChildrenFailedError",
    ]
    assert errors[0].message == "one"
    assert "in child" in errors[0].traceback
