"""Sleepers as children: parents wait for them, and end with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from attrs import frozen
from sqlalchemy import Engine

from durable_sync import (
    ChildrenFailedError,
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    ParentOutput,
    ParentResult,
    Spawn,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import active_tasks, child_ids, finalize_row, wait_for
from tests.clocks import ManualClock
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@frozen
class Payment:
    amount: int
    at: datetime


@every_path
def test_a_sleeper_is_a_child(executor: DurableExecutor) -> None:
    """A parent waits for a sleeping child; what it is woken with is its output there, typed."""
    payment = executor.sleeping_task("payment", output=Payment)

    @executor.task
    def work() -> int:
        return 1

    def combine(parent: ParentResult[str]) -> list[object]:
        work_output, paid = parent.children_outputs
        return [parent.output, work_output, type(paid).__name__, paid.amount]

    @executor.parent_task(finalize=combine)
    def order(number: str) -> Spawn[str]:
        return Spawn(number, [work.bind(), payment.options(key=number).bind()])

    handle = executor.enqueue(order, "n1")
    wait_until(lambda: [c.status for c in handle.get_execution().children][:1] == [ExecutionStatus.COMPLETED])
    execution = handle.get_execution()
    assert execution.status is ExecutionStatus.WAITING_FOR_CHILDREN
    assert execution.children[1].status is ExecutionStatus.SLEEPING
    executor.wake(payment, "n1", output=Payment(5, NOON))

    assert handle.result(timeout=SOON) == ["n1", 1, "Payment", 5]


@every_path
def test_a_wake_by_who_runs_nothing(new_executor: NewExecutor) -> None:
    """A wake by an executor that is not started lets the parent go on wherever it is served."""
    registry = TaskRegistry()
    approval = registry.sleeping_task("approval")

    @registry.parent_task
    def plain() -> Spawn[int]:
        return Spawn(1, [approval.options(key="plain").bind()])

    @registry.parent_task(finalize=lambda parent: parent.children_outputs[0])
    def finalized() -> Spawn[int]:
        return Spawn(1, [approval.options(key="finalized").bind()])

    worker, client = new_executor(tasks=registry), new_executor(tasks=registry)
    worker.start()
    handles = [client.enqueue(plain), client.enqueue(finalized)]
    for handle in handles:
        wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    client.wake(approval, "plain", output=7)
    assert handles[0].get_execution().status is ExecutionStatus.COMPLETED
    client.wake(approval, "finalized", output=8)

    assert [handle.result(timeout=SOON) for handle in handles] == [ParentOutput(1, (7,)), 8]


@every_path
@pytest.mark.parametrize("ending", ["error", "timeout", "cancel"])
def test_a_sleeping_child_that_does_not_complete(
    new_executor: NewExecutor, clock: ManualClock, engine: Engine, gate: Gate, ending: str
) -> None:
    """A sleeping child that is woken with an error, oversleeps or is cancelled fails its parent, and its siblings."""
    executor = new_executor(clock=clock)
    executor.start()
    approval = executor.sleeping_task("approval", timeout=60)

    @executor.task
    def sibling() -> None:
        gate.pass_through()

    @executor.parent_task
    def parent() -> Spawn[None]:
        calls = [approval.options(key="a").bind(), approval.options(key="b", timeout=7200).bind()]
        return Spawn(None, [*calls, sibling.bind()])

    @executor.parent_task
    def outer() -> Spawn[None]:
        return Spawn(None, [parent.bind()])

    handle = executor.enqueue(outer)
    gate.wait_for_arrivals()
    inner = executor.get_handle(parent, child_ids(handle)[0])
    wait_for(inner, ExecutionStatus.WAITING_FOR_CHILDREN)
    if ending == "error":
        executor.wake(approval, "a", error="refused")
    elif ending == "timeout":
        clock.advance(61)
    else:
        assert executor.get_handle(approval, child_ids(inner)[0]).cancel()

    told = {"error": "failed: TaskError: refused", "timeout": "timed out: ", "cancel": "cancelled: "}[ending]
    with pytest.raises(ChildrenFailedError, match=f"task 'approval' .*{told}"):
        handle.result(timeout=SOON)
    assert [child.status for child in inner.get_execution().children][1:] == [ExecutionStatus.CANCELLED] * 2
    assert active_tasks(engine) == []
    with pytest.raises(ExecutionNotFoundError, match="cancelled at"):
        executor.wake(approval, "b", output=1)


@one_database
def test_a_sleeping_child_of_a_tolerant_parent(executor: DurableExecutor, engine: Engine) -> None:
    """With `fail_fast=False` a sleeper that is woken with an error is a child with an error."""
    approval = executor.sleeping_task("approval")

    def combine(parent: ParentResult[None]) -> list[str]:
        return [f"{child.status.value} {child.error.message}" for child in parent.children]

    @executor.parent_task(finalize=combine, fail_fast=False)
    def parent() -> Spawn[None]:
        return Spawn(None, [approval.options(key="k").bind()])

    handle = executor.enqueue(parent)
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    assert finalize_row(engine, handle.execution_id).lane is None
    executor.wake(approval, "k", error="refused")

    assert handle.result(timeout=SOON) == ["failed refused"]


@every_path
def test_a_cancelled_parent_wakes_nobody(executor: DurableExecutor, engine: Engine) -> None:
    """A sleeper is cancelled with its parent; its key is free."""
    approval = executor.sleeping_task("approval")

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [approval.options(key="k").bind()])

    handle = executor.enqueue(parent)
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    assert handle.cancel()

    assert active_tasks(engine) == []
    with pytest.raises(ExecutionNotFoundError, match="cancelled at"):
        executor.wake(approval, "k", output=1)
    assert executor.enqueue(approval.options(key="k")).created


@every_path
def test_a_taken_key_of_a_sleeper_fails_the_parent(
    executor: DurableExecutor, count_executions: Callable[[], int]
) -> None:
    """A parent can't spawn a sleeper under a key that sleeps already: it fails, and nothing is written."""
    approval = executor.sleeping_task("approval")

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [approval.options(key=key).bind() for key in ("free", "taken")])

    held = executor.enqueue(approval.options(key="taken"))
    ended = executor.enqueue(parent).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert "'taken'" in ended.error.message
    assert count_executions() == 2
    assert held.get_execution().status is ExecutionStatus.SLEEPING
