"""Shutting down: what runs may end, what is left is given back, and nothing is counted against it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import tenacity
from sqlalchemy import Engine, text

from durable_sync import (
    ConfigurationError,
    DurableExecutor,
    ExecutionStatus,
    ExecutorShutdownError,
    TaskContext,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0


@pytest.fixture
def counts(engine: Engine) -> Callable[[str], tuple[int, int]]:
    """(failures, recoveries) of an execution, as the database counts them."""

    def read(execution_id: str) -> tuple[int, int]:
        query = text("SELECT failures, recoveries FROM durable_executions WHERE id = :id")
        with engine.connect() as connection:
            failures, recoveries = connection.execute(query, {"id": execution_id}).one()
            return failures, recoveries

    return read


def sleepless(seconds: float = SOON) -> None:
    """Never ends by itself, for a test's purposes; ends when it is interrupted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.002)


# what runs


def test_running_work_may_end(new_executor: NewExecutor, gate: Gate) -> None:
    """`shutdown` waits for what runs, and its outcome is recorded."""
    executor = new_executor()
    executor.start()

    @executor.task
    def work(ctx: TaskContext) -> bool:
        gate.pass_through()
        return ctx.shutdown_signal.wait(SOON)

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    with ThreadPoolExecutor(1) as thread:
        ending = thread.submit(executor.shutdown)
        gate.open()
        ending.result(timeout=SOON)

    ended = handle.get_execution()
    assert (ended.status, ended.output) == (ExecutionStatus.COMPLETED, True)


@every_path
def test_what_is_left_is_given_back(new_executor: NewExecutor, counts: Callable[[str], tuple[int, int]]) -> None:
    """After `timeout` what still runs is ready again, counted neither as failure nor as recovery."""
    registry = TaskRegistry()
    started = threading.Event()
    attempts: list[int] = []

    @registry.task
    def work(ctx: TaskContext) -> str:
        attempts.append(ctx.attempt)
        started.set()
        if ctx.attempt == 0:
            sleepless()
        return "done"

    first, second = new_executor(tasks=registry), new_executor(tasks=registry)
    first.start()
    handle = first.enqueue(work)
    assert started.wait(SOON)
    before = time.monotonic()
    first.shutdown(timeout=0.05)
    assert time.monotonic() - before < 5

    left = handle.get_execution()
    assert (left.status, left.error, left.attempt) == (ExecutionStatus.READY, None, 1)
    assert counts(handle.execution_id) == (0, 0)
    second.start()
    assert handle.result(timeout=SOON) == "done"
    assert attempts == [0, 1]


@one_database
def test_a_thread_that_cannot_be_stopped_does_not_hold_up_the_shutdown(new_executor: NewExecutor, gate: Gate) -> None:
    """With `timeout`, `shutdown` returns in time whatever the task does; its late outcome is refused."""
    executor = new_executor(name="stuck")
    executor.start()

    @executor.task
    def work() -> str:
        gate.pass_through()
        return "late"

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    before = time.monotonic()
    executor.shutdown(timeout=timedelta(milliseconds=100))
    assert time.monotonic() - before < 5
    assert handle.get_execution().status is ExecutionStatus.READY

    gate.open()
    wait_until(lambda: not [thread for thread in threading.enumerate() if "-run-stuck" in thread.name])
    assert handle.get_execution().status is ExecutionStatus.READY


@one_database
def test_the_task_sees_the_shutdown(new_executor: NewExecutor, counts: Callable[[str], tuple[int, int]]) -> None:
    """`shutdown_signal.raise_if_set()` ends the attempt early, and gives the execution back uncounted."""
    executor = new_executor()
    executor.start()
    started = threading.Event()

    @executor.task(retry=3)
    def work(ctx: TaskContext) -> None:
        started.set()
        assert ctx.shutdown_signal.wait(SOON)
        assert not ctx.cancel_signal.is_set()
        ctx.shutdown_signal.raise_if_set()

    handle = executor.enqueue(work)
    assert started.wait(SOON)
    executor.shutdown()

    left = handle.get_execution()
    assert (left.status, left.error) == (ExecutionStatus.READY, None)
    assert counts(handle.execution_id) == (0, 0)


@one_database
def test_a_release_is_not_judged_by_the_retry_policy(
    new_executor: NewExecutor, counts: Callable[[str], tuple[int, int]]
) -> None:
    """However often work is given back, its policy and `max_recoveries` have lost nothing."""
    registry = TaskRegistry()
    started = threading.Semaphore(0)

    @registry.task(
        retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(0)), max_recoveries=0
    )
    def work(ctx: TaskContext) -> str:
        started.release()
        if ctx.attempt < 3:
            sleepless()
        if ctx.attempt == 3:
            raise OSError("the first failure")
        return "done"

    execution_id = ""
    for _ in range(3):
        executor = new_executor(tasks=registry)
        executor.start()
        execution_id = execution_id or executor.enqueue(work).execution_id
        assert started.acquire(timeout=SOON)
        executor.shutdown(timeout=0)

    last = new_executor(tasks=registry)
    last.start()
    assert last.get_handle(work, execution_id).result(timeout=SOON) == "done"
    assert counts(execution_id) == (1, 0)


# what waits


@every_path
def test_prefetched_work_goes_back_at_once(
    new_executor: NewExecutor, gate: Gate, counts: Callable[[str], tuple[int, int]]
) -> None:
    """What was claimed and not started is ready again as soon as a shutdown begins, as if never claimed."""
    executor = new_executor(max_workers=1, lease=30)
    executor.start()

    @executor.task
    def work(waits: bool) -> None:
        if waits:
            gate.pass_through()

    # Many quick runs teach the executor that it may claim ahead.
    executor.enqueue_many([work.bind(False) for _ in range(50)])
    executor.drain(timeout=SOON)
    handles = executor.enqueue_many([work.bind(number == 0) for number in range(8)])
    gate.wait_for_arrivals()
    with ThreadPoolExecutor(1) as thread:
        ending = thread.submit(executor.shutdown)
        for handle in handles[1:]:
            wait_until(lambda handle=handle: handle.get_execution().status is ExecutionStatus.READY)
        assert not ending.done()
        gate.open()
        ending.result(timeout=SOON)

    assert handles[0].get_execution().status is ExecutionStatus.COMPLETED
    for handle in handles[1:]:
        left = handle.get_execution()
        assert (left.status, left.attempt) == (ExecutionStatus.READY, 0)
        assert counts(handle.execution_id) == (0, 0)


def test_nothing_is_claimed_after_a_shutdown(new_executor: NewExecutor) -> None:
    """What others enqueue after a shutdown is left alone by the executor that was shut down."""
    registry = TaskRegistry()

    @registry.task
    def work() -> None: ...

    worker, client = new_executor(tasks=registry, name="ended"), new_executor(tasks=registry)
    worker.start()
    client.enqueue(work).wait(timeout=SOON)
    worker.shutdown()

    assert not [thread for thread in threading.enumerate() if "-claim-ended" in thread.name]
    assert client.enqueue(work).get_execution().status is ExecutionStatus.READY


@one_database
def test_leaving_with_does_not_drain(new_executor: NewExecutor, gate: Gate) -> None:
    """Leaving `with` ends what runs and leaves what waits for the next executor."""
    with new_executor(max_workers=1) as executor:

        @executor.task
        def work() -> None:
            gate.pass_through()

        running = executor.enqueue(work)
        gate.wait_for_arrivals()
        waiting = executor.enqueue(work)
        threading.Timer(0.05, gate.open).start()

    assert running.get_execution().status is ExecutionStatus.COMPLETED
    assert waiting.get_execution().status is ExecutionStatus.READY


@one_database
def test_with_shuts_down_after_an_error_too(new_executor: NewExecutor) -> None:
    """An exception in the `with` block passes, and the executor is shut down."""
    executor = new_executor()
    with pytest.raises(LookupError), executor:
        raise LookupError

    with pytest.raises(ExecutorShutdownError):
        executor.start()


# twice, and afterwards


@one_database
def test_start_and_shutdown_may_be_called_twice(new_executor: NewExecutor) -> None:
    """Starting a started executor, and shutting down one that was, does nothing."""
    executor = new_executor()

    @executor.task
    def work() -> str:
        return "done"

    executor.start()
    threads = set(threading.enumerate())
    executor.start()
    assert set(threading.enumerate()) == threads
    assert executor.enqueue(work).result(timeout=SOON) == "done"
    executor.shutdown()
    executor.shutdown(timeout=0)


@one_database
def test_shutdown_from_several_threads(new_executor: NewExecutor, gate: Gate) -> None:
    """Each of several `shutdown` calls returns once the executor is down; the shortest timeout holds."""
    executor = new_executor()
    executor.start()

    @executor.task
    def work() -> None:
        gate.pass_through()

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    with ThreadPoolExecutor(2) as threads:
        patient = threads.submit(executor.shutdown)
        hasty = threads.submit(executor.shutdown, timeout=0.05)
        hasty.result(timeout=SOON)
        patient.result(timeout=SOON)

    assert handle.get_execution().status is ExecutionStatus.READY


@one_database
def test_an_executor_that_was_never_started_is_shut_down(new_executor: NewExecutor) -> None:
    """`shutdown` before `start` is legal, and final."""
    executor = new_executor()
    executor.shutdown()

    with pytest.raises(ExecutorShutdownError, match="make a new one"):
        executor.start()
    with pytest.raises(ExecutorShutdownError):
        executor.__enter__()


def test_handles_are_read_after_the_shutdown(new_executor: NewExecutor) -> None:
    """After a shutdown handles can be read, waited on and cancelled."""
    executor = new_executor()
    executor.start()

    @executor.task
    def work(number: int) -> int:
        return number

    done, left = executor.enqueue(work, 1), executor.enqueue(work.options(delay=3600), 2)
    done.wait(timeout=SOON)
    executor.shutdown()

    assert done.result(timeout=SOON) == 1
    assert done.get_execution().status is ExecutionStatus.COMPLETED
    assert executor.get_handle(work, left.execution_id).cancel()
    assert left.wait(timeout=SOON).status is ExecutionStatus.CANCELLED
    assert executor.running_execution_ids == frozenset()


def test_a_wait_goes_on_over_the_shutdown(new_executor: NewExecutor) -> None:
    """Who waits on a handle while its executor is shut down gets the result once another has run it."""
    registry = TaskRegistry()

    @registry.task
    def work() -> str:
        return "done"

    first, second = new_executor(tasks=registry, queues=["none"]), new_executor(tasks=registry)
    first.start()
    handle = first.enqueue(work)
    called = threading.Event()
    handle.add_done_callback(lambda _handle: called.set())
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(handle.result, timeout=SOON)
        wait_until(lambda: any("-watch-" in thread.name for thread in threading.enumerate()))
        first.shutdown()
        assert not waiting.done()
        second.start()
        assert waiting.result() == "done"
    assert called.wait(SOON)


@every_path
def test_its_lease_ends_with_it(new_executor: NewExecutor, engine: Engine) -> None:
    """After a shutdown nobody has to wait for the executor's lease to end: the database knows that it is gone."""
    executor = new_executor(lease=60)
    executor.start()
    executor.shutdown()

    with engine.connect() as connection:
        living = connection.execute(text("SELECT name FROM durable_executors WHERE dead_at IS NULL")).all()
    assert living == []


@one_database
def test_a_renewal_during_the_shutdown(
    new_executor: NewExecutor, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewal that comes just after the lease was resigned doesn't take it for lost, nor begin anew."""
    executor = new_executor()
    executor.start()
    background = executor._desk.background
    assert background is not None
    heartbeat, resign = background.heartbeat, background.lifeline.resign

    def resign_then_renew(executor_id: str) -> None:
        resign(executor_id)
        heartbeat._renewed_at = 0.0
        heartbeat.wake()
        heartbeat._thread.join(0.2)

    monkeypatch.setattr(background.lifeline, "resign", resign_then_renew)
    executor.shutdown()

    assert "was lost" not in caplog.text
    with engine.connect() as connection:
        living = connection.execute(text("SELECT name FROM durable_executors WHERE dead_at IS NULL")).all()
    assert living == []


@one_database
def test_its_threads_end(new_executor: NewExecutor) -> None:
    """A shutdown ends every thread that the executor started."""
    before = set(threading.enumerate())
    executor = new_executor()
    executor.start()

    @executor.task
    def work() -> None: ...

    handles = executor.enqueue_many([work.bind() for _ in range(20)])
    handles[-1].add_done_callback(lambda _handle: None)
    executor.drain(timeout=SOON)
    executor.shutdown()

    wait_until(lambda: set(threading.enumerate()) <= before, message=lambda: str(threading.enumerate()))


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_its_connections_are_closed(new_executor: NewExecutor, engine: Engine) -> None:
    """A shutdown closes every connection, and reading a handle afterwards leaves none open either."""
    queries = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = database()",
    }

    def others() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text(queries[engine.dialect.name])).scalar_one()) - 1

    executor = new_executor()
    executor.start()

    @executor.task
    def work() -> str:
        return "done"

    handle = executor.enqueue(work)
    assert handle.result(timeout=SOON) == "done"
    assert others() > 0

    executor.shutdown()
    wait_until(lambda: others() == 0)
    assert handle.result(timeout=SOON) == "done"
    wait_until(lambda: others() == 0)


def test_a_wait_after_the_shutdown_leaves_no_thread(new_executor: NewExecutor) -> None:
    """The threads that a wait after the shutdown needs end with it."""
    registry = TaskRegistry()

    @registry.task
    def work() -> str:
        return "done"

    client, worker = new_executor(tasks=registry, name="client"), new_executor(tasks=registry)
    client.shutdown()
    execution_id = worker.enqueue(work).execution_id
    worker.start()

    assert client.get_handle(work, execution_id).result(timeout=SOON) == "done"
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.endswith("-client")])


@one_database
@pytest.mark.parametrize("timeout", [-1, "1", float("nan"), True])
def test_a_timeout_that_makes_no_sense_is_refused(executor: DurableExecutor, timeout: object) -> None:
    """A bad `timeout` is refused, and the executor goes on."""

    @executor.task
    def work() -> str:
        return "done"

    with pytest.raises(ConfigurationError, match="timeout"):
        executor.shutdown(timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout"):
        executor.drain(timeout=timeout)

    assert executor.enqueue(work).result(timeout=SOON) == "done"


# drain


def test_drain_waits_for_all_of_this_executors_tasks(new_executor: NewExecutor, gate: Gate) -> None:
    """`drain` blocks until none of this executor's tasks is ready or running, in any process."""
    registry = TaskRegistry()

    @registry.task
    def work() -> None:
        gate.pass_through()

    client, worker = new_executor(tasks=registry), new_executor(tasks=registry)
    worker.start()
    handles = client.enqueue_many([work.bind(), work.options(delay=0.1).bind()])
    gate.wait_for_arrivals()
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        client.drain(timeout=0.05)

    gate.open()
    client.drain(timeout=SOON)
    assert all(handle.done() for handle in handles)


@one_database
def test_drain_does_not_wait_for_the_tasks_of_others(new_executor: NewExecutor) -> None:
    """Executions of tasks that this executor doesn't know don't hold up its `drain`."""
    stranger, executor = new_executor(), new_executor()

    @stranger.task
    def work() -> None: ...

    @executor.task
    def other() -> None: ...

    stranger.enqueue(work)
    executor.drain(timeout=0)
    new_executor().drain(timeout=0)
