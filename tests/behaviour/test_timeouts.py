"""Timeouts: an attempt that overruns its limit is stopped, and ends as timed out unless it is retried."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
import tenacity
from tenacity import Retrying

from durable_sync import (
    DurableExecutor,
    ExecutionStatus,
    TaskContext,
    TaskError,
    TaskTimedOutError,
)
from tests.behaviour.conftest import NewExecutor
from tests.paths import every_path, one_database

SOON = 10.0
SHORT = 0.05


def spin() -> None:
    """Runs Python code until it is stopped from outside, or for far too long."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        time.sleep(0.002)


@every_path
def test_a_task_that_overruns_is_stopped(executor: DurableExecutor) -> None:
    """After `timeout` seconds the function is stopped, and the execution is timed out, with an error."""
    stopped = threading.Event()

    @executor.task(timeout=SHORT)
    def work() -> None:
        try:
            spin()
        finally:
            stopped.set()

    handle = executor.enqueue(work)

    with pytest.raises(TaskTimedOutError, match=r"timeout of 0\.05 s"):
        handle.result(timeout=SOON)
    ended = handle.get_execution()
    assert ended.status is ExecutionStatus.TIMED_OUT
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert timedelta(seconds=SHORT) <= ended.finished_at - ended.started_at < timedelta(seconds=5)
    assert stopped.wait(SOON)
    assert "in spin" in ended.error.traceback


@one_database
def test_a_task_in_time_is_left_alone(executor: DurableExecutor) -> None:
    """A task that ends within its timeout completes."""

    @executor.task(timeout=SOON)
    def work() -> str:
        return "done"

    assert executor.enqueue(work).result(timeout=SOON) == "done"


def test_options_overrule_the_declared_timeout(executor: DurableExecutor) -> None:
    """`options(timeout=)` is stored with the execution, and holds whatever the task declares."""

    @executor.task(timeout=60)
    def work() -> None:
        spin()

    ended = executor.enqueue(work.options(timeout=timedelta(milliseconds=50))).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.TIMED_OUT


@one_database
def test_the_timeout_may_depend_on_the_attempt(executor: DurableExecutor) -> None:
    """A callable gets the attempt number, 0 at first, and may return None for no limit."""
    asked: list[int] = []

    def by_attempt(attempt: int) -> float | timedelta | None:
        asked.append(attempt)
        return [SHORT, timedelta(seconds=SHORT), None][attempt]

    @executor.task(timeout=by_attempt, retry=Retrying(wait=tenacity.wait_fixed(0)))
    def work(ctx: TaskContext) -> str:
        if ctx.attempt < 2:
            spin()
        return f"attempt {ctx.attempt}"

    assert executor.enqueue(work).result(timeout=SOON) == "attempt 2"
    assert sorted(set(asked)) == [0, 1, 2]


@one_database
@pytest.mark.parametrize("timeout", [-1, 0, "1", float("nan")])
def test_a_timeout_that_makes_no_sense_fails_the_execution(executor: DurableExecutor, timeout: object) -> None:
    """What a callable returns is checked when the attempt starts; the error names the option."""

    @executor.task(timeout=lambda _attempt: timeout, retry=3)
    def work() -> None: ...

    ended = executor.enqueue(work).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.error.type == "ConfigurationError"
    assert "timeout(0)" in ended.error.message


@one_database
def test_a_timeout_is_retried_like_an_error(executor: DurableExecutor) -> None:
    """The retry policy judges a timeout too; the next attempt sees it as its previous error."""
    seen: list[str] = []

    @executor.task(timeout=SHORT, retry=Retrying(wait=tenacity.wait_fixed(0)))
    def work(ctx: TaskContext) -> str:
        if ctx.attempt == 0:
            spin()
        seen.append(ctx.prev_error.type)
        return "done"

    handle = executor.enqueue(work)

    assert handle.result(timeout=SOON) == "done"
    assert handle.get_execution().error is None
    assert seen == ["TaskTimedOutError"]


@one_database
def test_the_last_timeout_is_the_end(executor: DurableExecutor) -> None:
    """When the policy gives up on a timeout, the execution is timed out, not failed."""
    policy = Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(0))

    @executor.task(timeout=SHORT, retry=policy)
    def work() -> None:
        spin()

    ended = executor.enqueue(work).wait(timeout=SOON)

    assert (ended.status, ended.attempt) == (ExecutionStatus.TIMED_OUT, 1)


def test_a_task_may_time_out_by_itself(executor: DurableExecutor) -> None:
    """A task that raises `TaskTimedOutError` ends as timed out, with its own message."""

    @executor.task
    def work() -> None:
        raise TaskTimedOutError("the bank was too slow")

    with pytest.raises(TaskTimedOutError, match=r"^the bank was too slow"):
        executor.enqueue(work).result(timeout=SOON)


@one_database
def test_the_task_sees_its_timeout_first(executor: DurableExecutor) -> None:
    """A timeout sets `cancel_signal`, whose `raise_if_set` then raises `TaskTimedOutError`."""
    raised: list[TaskError] = []

    @executor.task(timeout=SHORT)
    def work(ctx: TaskContext) -> None:
        assert ctx.cancel_signal.wait(SOON)
        try:
            ctx.cancel_signal.raise_if_set()
        except TaskError as error:
            raised.append(error)
            raise

    ended = executor.enqueue(work).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.TIMED_OUT
    assert [type(error) for error in raised] == [TaskTimedOutError]


@one_database
def test_an_output_after_the_timeout_comes_too_late(executor: DurableExecutor) -> None:
    """A function that returns in spite of its timeout has timed out all the same."""

    @executor.task(timeout=SHORT)
    def work(ctx: TaskContext) -> str:
        ctx.cancel_signal.wait(SOON)
        return "late"

    ended = executor.enqueue(work).wait(timeout=SOON)

    assert (ended.status, ended.output) == (ExecutionStatus.TIMED_OUT, None)


@one_database
def test_an_error_after_the_timeout_is_a_timeout(executor: DurableExecutor) -> None:
    """What a function raises because it was stopped is not what it ended with."""

    @executor.task(timeout=SHORT)
    def work() -> None:
        try:
            spin()
        finally:
            raise ValueError("could not clean up")

    assert executor.enqueue(work).wait(timeout=SOON).status is ExecutionStatus.TIMED_OUT


@one_database
def test_waiting_for_a_thread_is_no_overrun(new_executor: NewExecutor) -> None:
    """The timeout counts from the start of the function, not from the enqueue or the claim."""
    executor = new_executor(max_workers=1)
    executor.start()
    running = threading.Semaphore(0)

    @executor.task(timeout=0.4)
    def work() -> str:
        running.release()
        time.sleep(0.15)
        return "done"

    handles = executor.enqueue_many([work.bind() for _ in range(5)])

    assert [handle.result(timeout=SOON) for handle in handles] == ["done"] * 5


@one_database
def test_hooks_are_called_on_a_timeout(executor: DurableExecutor) -> None:
    """`on_cancel` callbacks free what a blocking call waits for when the timeout comes."""
    freed = threading.Event()

    @executor.task(timeout=SHORT)
    def work(ctx: TaskContext) -> None:
        ctx.on_cancel(freed.set)
        freed.wait(SOON)

    assert executor.enqueue(work).wait(timeout=SOON).status is ExecutionStatus.TIMED_OUT
    assert freed.is_set()
