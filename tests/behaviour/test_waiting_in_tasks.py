"""A task that waits on a handle would starve its own pool: it is warned once, and lent a thread."""

from __future__ import annotations

import logging
import threading

import pytest

from durable_sync import DurableExecutor, TaskContext, TaskHandle, as_completed, wait
from tests.behaviour.conftest import NewExecutor
from tests.gates import Gate
from tests.paths import one_database
from tests.waiting import wait_until

SOON = 10.0


def enqueue_sum(executor: DurableExecutor, way: str) -> TaskHandle[int]:
    """Enqueues a task that waits, in one way or another, for others of its own executor."""

    @executor.task
    def double(number: int) -> int:
        return 2 * number

    @executor.task
    def add_doubles() -> int:
        if way == "map":
            return sum(executor.map(double, range(4)))
        handles = executor.enqueue_many([double.bind(number) for number in range(4)])
        if way == "wait":
            assert wait(handles, timeout=SOON).not_done == set()
        if way == "as_completed":
            return sum(handle.result() for handle in as_completed(handles, timeout=SOON))
        return sum(handle.result(timeout=SOON) for handle in handles)

    return executor.enqueue(add_doubles)


@one_database
def test_a_task_that_waits_with_one_worker(new_executor: NewExecutor) -> None:
    """With a single worker, a task that waits for others gets their results all the same."""
    executor = new_executor(max_workers=1)
    executor.start()

    assert enqueue_sum(executor, "result").result(timeout=SOON) == 12


@one_database
@pytest.mark.parametrize("way", ["map", "wait", "as_completed"])
def test_every_way_to_wait(new_executor: NewExecutor, way: str) -> None:
    """`map`, `wait` and `as_completed` inside a task are lent a thread like `result`."""
    executor = new_executor(max_workers=1)
    executor.start()

    assert enqueue_sum(executor, way).result(timeout=SOON) == 12


@one_database
def test_waiting_tasks_inside_waiting_tasks(new_executor: NewExecutor) -> None:
    """Tasks that wait for tasks that wait, deeper than the pool is wide, come to an end."""
    executor = new_executor(max_workers=2)
    executor.start()

    @executor.task
    def count_down(number: int) -> int:
        return 0 if number == 0 else 1 + executor.enqueue(count_down, number - 1).result(timeout=SOON)

    assert executor.enqueue(count_down, 10).result(timeout=SOON) == 10


@one_database
def test_what_it_waits_for_may_be_queued_here_already(new_executor: NewExecutor) -> None:
    """What was claimed ahead, behind the task that then waits for it, gets the thread that is lent."""
    executor = new_executor(max_workers=1)

    @executor.task
    def quick() -> int:
        return 1

    @executor.task
    def waiting() -> int:
        background = executor._desk.background
        assert background is not None
        # With a key it is not claimed by its enqueue.
        handle = executor.enqueue(quick.options(key="one"))
        wait_until(lambda: background.pool.room < 0, interval=0.001)
        return handle.result(timeout=SOON)

    with executor:
        for handle in executor.enqueue_many(quick.bind() for _ in range(20)):
            handle.result(timeout=SOON)
        assert executor.enqueue(waiting).result(timeout=2 * SOON) == 1


@one_database
def test_a_loan_ends_with_an_interrupt(new_executor: NewExecutor, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is stopped just when it is lent a thread gives it back."""
    executor = new_executor(max_workers=1)
    sleeper = executor.sleeping_task("sleeper")

    @executor.task
    def waiting() -> None:
        executor.enqueue(sleeper.options(key="never")).wait()

    with executor:
        background = executor._desk.background
        assert background is not None
        freed = background.pool._on_free

        def freed_slowly() -> None:
            if background.pool.lent and background.pool.is_worker():
                gate.pass_through()
            freed()

        monkeypatch.setattr(background.pool, "_on_free", freed_slowly)
        handle = executor.enqueue(waiting)
        gate.wait_for_arrivals()
        (attempt,) = background.attempts.running()
        assert handle.cancel()
        wait_until(lambda: attempt.interruptible.interrupted)
        gate.open()
        wait_until(lambda: background.pool.load == 0)
        assert background.pool.lent == 0


@one_database
def test_it_is_warned_once(new_executor: NewExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """An executor whose tasks wait on handles says so once, as a warning that says what to do instead."""
    executor = new_executor(max_workers=1)
    executor.start()
    enqueue_sum(executor, "result").result(timeout=SOON)

    @executor.task
    def done() -> None: ...

    @executor.task
    def wait_again() -> None:
        executor.enqueue(done).result(timeout=SOON)

    executor.enqueue(wait_again).result(timeout=SOON)

    warnings = [record for record in caplog.records if "waits on a handle" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].levelno == logging.WARNING
    assert "wait outside of it" in warnings[0].getMessage()


@one_database
def test_who_waits_outside_is_not_warned(executor: DurableExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """Threads that are no workers wait without a word."""

    @executor.task
    def work() -> None: ...

    executor.enqueue(work).result(timeout=SOON)

    assert "waits on a handle" not in caplog.text


@one_database
def test_lent_threads_are_given_back(new_executor: NewExecutor) -> None:
    """After the waits, no more tasks run at once than `max_workers`."""
    executor = new_executor(max_workers=2)
    executor.start()
    enqueue_sum(executor, "result").result(timeout=SOON)

    lock = threading.Lock()
    running = 0
    most = 0

    @executor.task
    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.005)
        with lock:
            running -= 1

    executor.enqueue_many([work.bind() for _ in range(30)])
    executor.drain(timeout=SOON)
    assert most == 2


@one_database
@pytest.mark.parametrize("way", ["result", "as_completed"])
def test_a_task_that_waits_can_be_cancelled(executor: DurableExecutor, way: str) -> None:
    """A cancel frees a task that waits for an execution that never ends."""
    waiting = threading.Event()
    ended = threading.Event()

    @executor.task
    def never() -> None: ...

    @executor.task
    def work(ctx: TaskContext) -> None:
        handle = executor.enqueue(never.options(delay=3600))
        waiting.set()
        try:
            if way == "result":
                handle.result()
            else:
                list(as_completed([handle]))
        finally:
            ended.set()

    handle = executor.enqueue(work)
    assert waiting.wait(SOON)
    handle.cancel()

    assert ended.wait(3)
    wait_until(lambda: not executor.running_execution_ids)
