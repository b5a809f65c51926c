"""How families end: by a child that does not complete, or by a cancel; nothing is left active below."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import tenacity
from sqlalchemy import Engine, text

from durable_sync import (
    ChildrenFailedError,
    ConfigurationError,
    DurableExecutor,
    ExecutionStatus,
    ParentOutput,
    Spawn,
    TaskCall,
    TaskCancelledError,
    TaskContext,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import active_tasks, child_ids, run_until_stopped, wait_for
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0


def without_heartbeat(new_executor: NewExecutor) -> DurableExecutor:
    """An executor that runs, and is told at once what to stop or not at all: its heartbeat would find out later."""
    executor = new_executor(lease=600)
    executor.start()
    background = executor._desk.background
    assert background is not None
    background.supervisor.stop()
    background.heartbeat.stop()
    return executor


# a child that does not complete: fail fast


@every_path
def test_the_first_failure_ends_the_family(new_executor: NewExecutor, gate: Gate) -> None:
    """A child that fails makes its parent `children_failed`; siblings that wait and run are cancelled, and stopped."""
    executor = without_heartbeat(new_executor)
    running, stopped = threading.Event(), threading.Event()

    @executor.task
    def failing() -> None:
        gate.pass_through()
        raise ValueError("spoilt")

    @executor.task
    def sibling(ctx: TaskContext) -> None:
        running.set()
        run_until_stopped(ctx, stopped)

    @executor.task
    def waiting() -> None:
        raise AssertionError("must never run")

    @executor.task
    def quick() -> int:
        return 1

    @executor.parent_task
    def parent() -> Spawn[int]:
        later = waiting.options(delay=3600)
        return Spawn(1, [quick.bind(), failing.bind(), sibling.bind(), later.bind()])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    assert running.wait(SOON)
    wait_until(lambda: handle.get_execution().children[0].status is ExecutionStatus.COMPLETED)
    gate.open()

    with pytest.raises(ChildrenFailedError, match="ValueError: spoilt") as caught:
        handle.result(timeout=SOON)
    ended = handle.get_execution()
    assert caught.value.execution == ended
    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert ended.error.type == "ChildrenFailedError"
    assert ended.output is None
    # A parent's end is seen with its whole effect, so nothing of it is waited for.
    assert [child.status for child in ended.children] == [
        ExecutionStatus.COMPLETED,
        ExecutionStatus.FAILED,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.CANCELLED,
    ]
    assert ended.children[1].error.message == "spoilt"
    assert ended.children[2].error.type == "TaskCancelledError"
    assert stopped.wait(SOON)
    executor.drain(timeout=SOON)


def test_a_failure_cancels_at_every_depth(executor: DurableExecutor, gate: Gate) -> None:
    """When a child fails, all descendants of its siblings are cancelled too, whatever they are doing."""

    @executor.task
    def leaf() -> None:
        gate.pass_through()

    @executor.task
    def failing() -> None:
        gate.pass_through()
        raise ValueError("spoilt")

    @executor.parent_task(finalize=lambda _parent: None)
    def branch(depth: int) -> Spawn[None]:
        return Spawn(None, [branch.bind(depth - 1) if depth else leaf.bind(), leaf.options(delay=3600).bind()])

    @executor.parent_task
    def root() -> Spawn[None]:
        return Spawn(None, [branch.bind(2), failing.bind()])

    handle = executor.enqueue(root)
    gate.wait_for_arrivals(2)
    gate.open()
    handle.wait(timeout=SOON)

    tree = handle.tree()
    below = [node for node in tree.walk() if node is not tree]
    # The leaf that ran may have ended before the failure.
    left = [node for node in below if node.task_id != "failing" and node.status is not ExecutionStatus.COMPLETED]
    assert {node.status for node in left} == {ExecutionStatus.CANCELLED}
    assert len([node for node in left if node.task_id == "branch"]) == 3
    assert all(node.finished_at is not None for node in below)


@every_path
def test_the_first_message_is_shown_at_every_level(executor: DurableExecutor) -> None:
    """`ChildrenFailedError` names the task that failed first and shows its message, also through several levels."""

    @executor.task
    def failing() -> None:
        raise ValueError("the deepest")

    @executor.parent_task
    def nest(depth: int) -> Spawn[None]:
        return Spawn(None, [nest.bind(depth - 1) if depth else failing.bind()])

    handle = executor.enqueue(nest, 3)

    with pytest.raises(ChildrenFailedError) as caught:
        handle.result(timeout=SOON)
    message = caught.value.message
    assert message.count("ValueError: the deepest") == 1
    assert "task 'failing'" in message
    assert "'nest'" not in message
    assert "in failing" in "".join(caught.value.__notes__)
    deepest = list(handle.tree().walk())[-1]
    assert deepest.execution_id in message
    levels = [node.error.message for node in handle.tree().walk()][:-1]
    assert levels == [message] * 4


@one_database
@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("fail", "failed: ValueError: why"),
        ("time out", "timed out: "),
        ("give up", "cancelled: TaskCancelledError: no"),
    ],
)
def test_whatever_a_child_does_not_complete_with(executor: DurableExecutor, ending: str, told: str) -> None:
    """A child that fails, times out, or cancels itself did not complete: its parent is `children_failed`."""

    @executor.task(timeout=0.05)
    def child(ctx: TaskContext) -> None:
        if ending == "time out":
            ctx.cancel_signal.wait(SOON)
        raise TaskCancelledError("no") if ending == "give up" else ValueError("why")

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    handle = executor.enqueue(parent)
    with pytest.raises(ChildrenFailedError) as caught:
        handle.result(timeout=SOON)

    (only,) = child_ids(handle)
    assert caught.value.message.startswith(f"task 'child' execution {only}: {told}")


@one_database
def test_a_child_that_is_retried_has_not_failed_yet(executor: DurableExecutor) -> None:
    """Only the end of a child counts: attempts that fail and are retried leave the family alone."""

    @executor.task(retry=tenacity.Retrying(wait=tenacity.wait_fixed(0)))
    def flaky(ctx: TaskContext) -> int:
        if ctx.attempt < 3:
            raise OSError("away")
        return ctx.attempt

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [flaky.bind(), flaky.bind()])

    assert executor.enqueue(parent).result(timeout=SOON).children_outputs == (3, 3)


# a child that does not complete: the others go on


@every_path
def test_without_fail_fast_all_children_end(executor: DurableExecutor, gate: Gate) -> None:
    """With `fail_fast=False` and no finalize the output has None for each child that did not complete."""

    @executor.task
    def child(n: int) -> int:
        if n == 1:
            raise ValueError("one")
        gate.pass_through()
        return n

    @executor.parent_task(fail_fast=False)
    def parent() -> Spawn[str]:
        return Spawn("own", [child.bind(n) for n in range(3)])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals(2)
    wait_until(lambda: handle.get_execution().children[1].status is ExecutionStatus.FAILED)
    assert handle.get_execution().status is ExecutionStatus.WAITING_FOR_CHILDREN
    gate.open()

    assert handle.result(timeout=SOON) == ParentOutput("own", (0, None, 2))
    ended = handle.get_execution()
    assert (ended.status, ended.error) == (ExecutionStatus.COMPLETED, None)
    assert ended.children[1].error.message == "one"


@one_database
def test_without_fail_fast_all_may_fail(executor: DurableExecutor) -> None:
    """With `fail_fast=False` a parent completes also when every child failed, its last one too."""

    @executor.task
    def child() -> None:
        raise ValueError

    @executor.parent_task(fail_fast=False)
    def parent() -> Spawn[int]:
        return Spawn(1, [child.bind()] * 3)

    assert executor.enqueue(parent).result(timeout=SOON) == ParentOutput(1, (None, None, None))


@one_database
def test_fail_fast_is_each_parents_own(executor: DurableExecutor) -> None:
    """A parent that tolerates failures takes a child's `children_failed` for one of them."""

    @executor.task
    def failing() -> None:
        raise ValueError("deep")

    @executor.parent_task
    def strict() -> Spawn[None]:
        return Spawn(None, [failing.bind()])

    @executor.parent_task(fail_fast=False)
    def tolerant() -> Spawn[None]:
        return Spawn(None, [strict.bind()])

    handle = executor.enqueue(tolerant)

    assert handle.result(timeout=SOON) == ParentOutput(None, (None,))
    (child,) = handle.get_execution().children
    assert child.status is ExecutionStatus.CHILDREN_FAILED
    assert "ValueError: deep" in child.error.message


@one_database
@pytest.mark.parametrize("fail_fast", [None, 1, "no"])
def test_fail_fast_is_true_or_false(executor: DurableExecutor, fail_fast: object) -> None:
    """Another value of `fail_fast` is refused at the declaration."""

    def parent() -> Spawn[None]: ...

    with pytest.raises(ConfigurationError, match="fail_fast"):
        executor.parent_task(fail_fast=fail_fast)(parent)


# cancelling


@every_path
def test_a_parent_is_cancelled_with_its_children(new_executor: NewExecutor) -> None:
    """`cancel` of a parent that waits for children cancels those that wait and those that run, and stops them."""
    executor = without_heartbeat(new_executor)
    running, stopped = threading.Event(), threading.Event()

    @executor.task
    def child(ctx: TaskContext) -> None:
        running.set()
        run_until_stopped(ctx, stopped)

    @executor.task
    def quick() -> int:
        return 1

    @executor.parent_task(finalize=lambda _parent: None)
    def parent() -> Spawn[None]:
        return Spawn(None, [quick.bind(), child.bind(), child.options(delay=3600).bind()])

    handle = executor.enqueue(parent)
    assert running.wait(SOON)
    wait_until(lambda: handle.get_execution().children[0].status is ExecutionStatus.COMPLETED)
    assert handle.cancel() is True

    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.CANCELLED
    assert [child.status for child in ended.children] == [
        ExecutionStatus.COMPLETED,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.CANCELLED,
    ]
    assert stopped.wait(SOON)
    wait_until(lambda: not executor.running_execution_ids)
    assert handle.cancel() is False
    with pytest.raises(TaskCancelledError):
        handle.result(timeout=SOON)
    executor.drain(timeout=SOON)
    assert handle.get_execution() == ended


@every_path
def test_nothing_active_is_left_below_a_cancelled_parent(executor: DurableExecutor, engine: Engine, gate: Gate) -> None:
    """After a cancel of the root nothing of a tree four levels deep is active: parents, finalizes, leaves."""

    @executor.task
    def leaf() -> None:
        gate.pass_through()

    @executor.parent_task(finalize=lambda _parent: gate.pass_through())
    def finalizing() -> Spawn[None]:
        return Spawn(None)

    @executor.parent_task(finalize=lambda _parent: None)
    def branch(depth: int) -> Spawn[None]:
        here: list[TaskCall[object]] = [leaf.options(delay=3600).bind()]
        return Spawn(None, [*here, branch.bind(depth - 1)] if depth else [*here, leaf.bind(), finalizing.bind()])

    handle = executor.enqueue(branch, 4)
    gate.wait_for_arrivals(2)
    assert handle.cancel()

    with engine.connect() as connection:
        below = connection.execute(
            text("SELECT count(*) FROM durable_executions WHERE root_id = :id"), {"id": handle.execution_id}
        ).scalar_one()
    assert active_tasks(engine) == []
    assert below == 17
    gate.open()
    wait_until(lambda: not executor.running_execution_ids)
    executor.drain(timeout=SOON)


def test_a_parent_is_cancelled_while_it_runs(
    executor: DurableExecutor, count_executions: Callable[[], int], gate: Gate
) -> None:
    """A parent that is cancelled while its function runs has no children: what it returns is refused."""

    @executor.task
    def child() -> None: ...

    @executor.parent_task
    def parent() -> Spawn[None]:
        gate.pass_through()
        return Spawn(None, [child.bind()])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    assert handle.cancel()
    gate.open()
    wait_until(lambda: not executor.running_execution_ids)

    ended = handle.get_execution()
    assert (ended.status, ended.children, ended.run_output) == (ExecutionStatus.CANCELLED, (), None)
    assert count_executions() == 1


@one_database
def test_a_parent_is_cancelled_before_it_runs(new_executor: NewExecutor) -> None:
    """A parent that is cancelled while it is ready never runs."""
    executor = new_executor()

    @executor.parent_task
    def parent() -> Spawn[None]:
        raise AssertionError("must never run")

    handle = executor.enqueue(parent)
    assert handle.cancel()
    executor.start()
    executor.drain(timeout=SOON)
    assert handle.get_execution().started_at is None


@every_path
def test_a_cancelled_child_fails_its_parent(executor: DurableExecutor, gate: Gate) -> None:
    """`cancel` of a child is an end without output like any other: the parent is `children_failed`."""

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(), child.options(delay=3600).bind()])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    first, second = child_ids(handle)
    assert executor.get_handle(child, second).cancel() is True

    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert f"task 'child' execution {second}: cancelled: TaskCancelledError" in ended.error.message
    assert executor.get_execution(first).status is ExecutionStatus.CANCELLED


@one_database
def test_a_cancelled_child_of_a_tolerant_parent(executor: DurableExecutor, gate: Gate) -> None:
    """With `fail_fast=False` a cancelled child is one whose output is None."""

    @executor.task
    def child(n: int) -> int:
        gate.pass_through()
        return n

    @executor.parent_task(fail_fast=False)
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(1), child.bind(2)])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals(2)
    assert executor.get_handle(child, child_ids(handle)[0]).cancel()
    assert not handle.done()
    gate.open()

    assert handle.result(timeout=SOON).children_outputs == (None, 2)


def test_another_process_stops_what_runs(new_executor: NewExecutor) -> None:
    """A cancel by one process of a parent stops children that another process runs."""
    registry = TaskRegistry()
    running, stopped = threading.Event(), threading.Event()

    @registry.task
    def child(ctx: TaskContext) -> None:
        running.set()
        run_until_stopped(ctx, stopped)

    @registry.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind()])

    client, worker = new_executor(tasks=registry), new_executor(tasks=registry)
    worker.start()
    handle = client.enqueue(parent)
    assert running.wait(SOON)
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)

    assert handle.cancel()
    assert stopped.wait(SOON)
