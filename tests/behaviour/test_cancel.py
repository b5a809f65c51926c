"""Cancelling: ready work never starts, running work is told to stop, finished work stays as it is."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tenacity

from durable_sync import (
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    TaskCancelledError,
    TaskContext,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0
UNKNOWN = "00000000-0000-7000-8000-000000000000"


# what is not running


@every_path
def test_ready_work_never_starts(new_executor: NewExecutor) -> None:
    """Once `cancel` of ready work has returned True, no executor claims it."""
    executor = new_executor()
    runs: list[str] = []

    @executor.task
    def note(name: str) -> None:
        runs.append(name)

    cancelled, kept = executor.enqueue(note, "cancelled"), executor.enqueue(note, "kept")
    assert cancelled.cancel() is True
    executor.start()
    kept.wait(timeout=SOON)
    executor.drain(timeout=SOON)

    assert runs == ["kept"]
    ended = cancelled.wait(timeout=SOON)
    assert ended.status is ExecutionStatus.CANCELLED
    assert ended.started_at is None
    assert cancelled.cancelled()


@one_database
def test_work_that_waits_for_its_time_is_cancelled(executor: DurableExecutor) -> None:
    """Delayed work, and work that waits for its next attempt, can be cancelled like any other."""

    @executor.task(retry=tenacity.Retrying(wait=tenacity.wait_fixed(3600)))
    def fail() -> None:
        raise OSError("away")

    delayed = executor.enqueue(fail.options(delay=3600))
    retried = executor.enqueue(fail)
    wait_until(lambda: retried.get_execution().error is not None)

    assert delayed.cancel()
    assert retried.cancel()
    executor.drain(timeout=SOON)
    assert (delayed.cancelled(), retried.cancelled()) == (True, True)


@one_database
def test_finished_work_stays_finished(executor: DurableExecutor) -> None:
    """`cancel` of finished work returns False and changes nothing."""

    @executor.task
    def work() -> str:
        return "done"

    handle = executor.enqueue(work)
    before = handle.wait(timeout=SOON)

    assert handle.cancel() is False
    assert handle.get_execution() == before
    assert not handle.cancelled()


@one_database
def test_what_does_not_exist_cannot_be_cancelled(new_executor: NewExecutor) -> None:
    """`cancel` of an unknown execution raises `ExecutionNotFoundError`."""
    executor = new_executor()

    @executor.task
    def work() -> None: ...

    with pytest.raises(ExecutionNotFoundError, match=UNKNOWN):
        executor.get_handle(work, UNKNOWN).cancel()


def test_one_of_many_calls_ends_it(new_executor: NewExecutor) -> None:
    """Of several `cancel` calls at once exactly one returns True."""
    registry = TaskRegistry()

    @registry.task
    def work() -> None: ...

    executors = [new_executor(tasks=registry) for _ in range(2)]
    execution_id = executors[0].enqueue(work).execution_id
    start = threading.Barrier(4)

    def cancel(number: int) -> bool:
        start.wait(SOON)
        return executors[number % 2].get_handle(work, execution_id).cancel()

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(cancel, range(4))) == [False, False, False, True]


# what is running


@every_path
def test_running_work_is_stopped(executor: DurableExecutor) -> None:
    """`cancel` of running work ends the execution at once, and stops the function soon after."""
    started, stopped = threading.Event(), threading.Event()

    @executor.task
    def spin() -> None:
        started.set()
        try:
            while not stopped.wait(0.002):
                pass
        finally:
            stopped.set()

    handle = executor.enqueue(spin)
    assert started.wait(SOON)
    assert handle.cancel() is True

    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.CANCELLED
    assert ended.error is not None
    with pytest.raises(TaskCancelledError) as caught:
        handle.result(timeout=SOON)
    assert caught.value.execution == ended
    assert stopped.wait(SOON)
    wait_until(lambda: not executor.running_execution_ids)


def test_work_that_another_executor_runs_is_stopped(new_executor: NewExecutor) -> None:
    """A cancel by one process stops a function that another runs."""
    registry = TaskRegistry()
    started, stopped = threading.Event(), threading.Event()

    @registry.task
    def spin() -> None:
        started.set()
        try:
            while not stopped.wait(0.002):
                pass
        finally:
            stopped.set()

    client, worker = new_executor(tasks=registry), new_executor(tasks=registry)
    worker.start()
    handle = client.enqueue(spin)
    assert started.wait(SOON)

    assert handle.cancel() is True
    assert stopped.wait(SOON)
    wait_until(lambda: not worker.running_execution_ids)
    assert handle.get_execution().status is ExecutionStatus.CANCELLED


@one_database
def test_a_context_sees_the_signal_first(executor: DurableExecutor) -> None:
    """A function that takes `ctx` has time to look at `cancel_signal` before it is interrupted."""
    started = threading.Event()
    seen: list[bool] = []

    @executor.task
    def work(ctx: TaskContext) -> None:
        started.set()
        seen.append(ctx.cancel_signal.wait(SOON))
        ctx.cancel_signal.raise_if_set()

    handle = executor.enqueue(work)
    assert started.wait(SOON)
    handle.cancel()

    wait_until(lambda: not executor.running_execution_ids)
    assert seen == [True]


@one_database
def test_a_context_that_looks_away_is_interrupted(executor: DurableExecutor) -> None:
    """A function that takes `ctx` and never looks at its signal is interrupted like any other."""
    started, stopped = threading.Event(), threading.Event()

    @executor.task
    def spin(ctx: TaskContext) -> None:
        started.set()
        try:
            while True:
                time.sleep(0.002)
        finally:
            stopped.set()

    handle = executor.enqueue(spin)
    assert started.wait(SOON)
    handle.cancel()

    assert stopped.wait(SOON)
    wait_until(lambda: not executor.running_execution_ids)


@one_database
def test_a_task_cannot_swallow_its_cancel(executor: DurableExecutor) -> None:
    """`except Exception` in a task does not catch what stops it, and what it catches on purpose changes nothing."""
    started = threading.Event()
    caught: list[str] = []

    @executor.task
    def stubborn() -> str:
        started.set()
        try:
            try:
                while True:
                    time.sleep(0.002)
            except Exception:
                caught.append("as an Exception")
        except BaseException:
            caught.append("on purpose")
        return "done"

    handle = executor.enqueue(stubborn)
    assert started.wait(SOON)
    handle.cancel()
    wait_until(lambda: caught)

    assert caught == ["on purpose"]
    wait_until(lambda: not executor.running_execution_ids)
    assert handle.cancelled()


@one_database
def test_hooks_free_a_blocked_thread(executor: DurableExecutor) -> None:
    """An `on_cancel` hook frees a thread that is blocked where no exception reaches it."""
    ours, theirs = socket.socketpair()
    blocked, ended = threading.Event(), threading.Event()

    @executor.task
    def read(ctx: TaskContext) -> None:
        ctx.on_cancel(lambda: ours.shutdown(socket.SHUT_RDWR))
        blocked.set()
        try:
            ours.recv(1)
        finally:
            ended.set()

    with ours, theirs:
        handle = executor.enqueue(read)
        assert blocked.wait(SOON)
        handle.cancel()
        assert ended.wait(2.0)
        wait_until(lambda: not executor.running_execution_ids)


@one_database
def test_a_hook_that_raises_does_not_hold_up_the_others(
    executor: DurableExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """What an `on_cancel` hook raises is logged; the hooks after it are called all the same."""
    ready, freed = threading.Event(), threading.Event()

    def broken() -> None:
        raise LookupError("no such connection")

    @executor.task
    def work(ctx: TaskContext) -> None:
        ctx.on_cancel(broken)
        ctx.on_cancel(freed.set)
        ready.set()
        freed.wait(SOON)

    handle = executor.enqueue(work)
    assert ready.wait(SOON)
    handle.cancel()

    assert freed.wait(SOON)
    assert "no such connection" in caplog.text
    assert handle.execution_id in caplog.text


@one_database
def test_a_hook_registered_too_late_is_called_at_once(executor: DurableExecutor) -> None:
    """`on_cancel` after the cancel calls the hook before it returns."""
    started = threading.Event()
    calls: list[str] = []

    @executor.task
    def work(ctx: TaskContext) -> None:
        started.set()
        ctx.cancel_signal.wait(SOON)
        ctx.on_cancel(lambda: calls.append("hook"))
        calls.append("after")

    handle = executor.enqueue(work)
    assert started.wait(SOON)
    handle.cancel()

    wait_until(lambda: calls == ["hook", "after"])


@every_path
def test_an_outcome_after_the_cancel_is_refused(executor: DurableExecutor, gate: Gate) -> None:
    """Once `cancel` has returned, what the function still returns is not accepted."""

    @executor.task
    def work() -> str:
        gate.pass_through()
        return "late"

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    assert handle.cancel()
    cancelled = handle.get_execution()
    gate.open()
    wait_until(lambda: not executor.running_execution_ids)

    # The recorder answers in order: once a later outcome is there, so is the answer to the late one.
    @executor.task
    def after() -> None: ...

    executor.enqueue(after).result(timeout=SOON)
    assert handle.get_execution() == cancelled


@one_database
def test_a_cancelled_task_is_not_retried(executor: DurableExecutor, gate: Gate) -> None:
    """A cancel is the end: the retry policy isn't asked."""
    attempts: list[int] = []

    @executor.task(retry=tenacity.Retrying(wait=tenacity.wait_fixed(0)))
    def work(ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        gate.pass_through()
        raise OSError("stopped")

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    handle.cancel()
    gate.open()
    executor.drain(timeout=SOON)
    wait_until(lambda: not executor.running_execution_ids)

    assert handle.cancelled()
    assert attempts == [0]


@one_database
def test_the_thread_takes_other_work_afterwards(new_executor: NewExecutor) -> None:
    """A thread whose task was cancelled runs the next one undisturbed."""
    executor = new_executor(max_workers=1)
    executor.start()
    started = threading.Event()

    @executor.task
    def spin() -> None:
        started.set()
        while True:
            time.sleep(0.002)

    @executor.task
    def add(first: int, second: int) -> int:
        return first + second

    for number in range(3):
        handle = executor.enqueue(spin)
        assert started.wait(SOON)
        started.clear()
        assert handle.cancel()
        assert executor.enqueue(add, number, 1).result(timeout=SOON) == number + 1


# by the task itself


def test_a_task_may_cancel_itself(executor: DurableExecutor) -> None:
    """A task that raises `TaskCancelledError` ends as cancelled, with its message, and is not retried."""
    runs: list[int] = []

    @executor.task(retry=5)
    def work() -> None:
        runs.append(1)
        raise TaskCancelledError("nothing to do")

    handle = executor.enqueue(work)

    with pytest.raises(TaskCancelledError, match=r"^nothing to do"):
        handle.result(timeout=SOON)
    assert handle.cancelled()
    assert runs == [1]


@one_database
def test_a_task_may_cancel_its_own_execution(executor: DurableExecutor) -> None:
    """`cancel` called from inside the execution that it ends returns to nobody: the function is stopped."""
    went_on: list[bool] = []

    @executor.task
    def work(ctx: TaskContext) -> None:
        executor.get_handle(work, ctx.execution_id).cancel()
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            time.sleep(0.002)
        went_on.append(True)

    handle = executor.enqueue(work)

    assert handle.wait(timeout=SOON).status is ExecutionStatus.CANCELLED
    wait_until(lambda: not executor.running_execution_ids)
    assert went_on == []
