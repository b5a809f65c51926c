"""Handles: futures that live in the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from durable_sync import (
    ConfigurationError,
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    Progress,
    TaskContext,
    TaskError,
    TaskHandle,
    TaskRegistry,
    as_completed,
    wait,
)
from tests.behaviour.conftest import NewExecutor
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0
UNKNOWN = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
def gates() -> Iterator[dict[str, Gate]]:
    """A gate for each of several tasks."""
    made = {name: Gate() for name in "abc"}
    yield made
    for gate in made.values():
        gate.open()


def enqueue_at_gates(executor: DurableExecutor, gates: dict[str, Gate]) -> dict[str, TaskHandle[str]]:
    """One running execution for each gate; each returns its name when its gate opens, and "b" fails."""

    @executor.task
    def stand(name: str) -> str:
        gates[name].pass_through()
        if name == "b":
            raise ValueError(name)
        return name

    handles = {name: executor.enqueue(stand, name) for name in gates}
    for gate in gates.values():
        gate.wait_for_arrivals()
    return handles


# waiting for one


@every_path
def test_wait_returns_the_finished_execution(executor: DurableExecutor, gate: Gate) -> None:
    """`wait` returns the execution once it has finished; before, it raises `TimeoutError` in time."""

    @executor.task
    def work(number: int) -> int:
        gate.pass_through()
        return number + 1

    handle = executor.enqueue(work, 1)
    gate.wait_for_arrivals()
    before = time.monotonic()
    with pytest.raises(TimeoutError, match=r"'work' execution .* is running after 0\.05 s"):
        handle.wait(timeout=0.05)
    assert time.monotonic() - before < 5
    assert not handle.done()
    assert handle.running()

    gate.open()
    ended = handle.wait(timeout=SOON)
    assert (ended.status, ended.output, ended.run_output) == (ExecutionStatus.COMPLETED, 2, 2)
    assert ended.is_finished
    assert (handle.done(), handle.running(), handle.cancelled()) == (True, False, False)


@one_database
def test_timeouts_may_be_timedeltas(executor: DurableExecutor, gate: Gate) -> None:
    """Every `timeout` is seconds or a timedelta."""

    @executor.task
    def work() -> str:
        gate.pass_through()
        return "done"

    handle = executor.enqueue(work)
    short, long = timedelta(milliseconds=10), timedelta(seconds=SOON)
    for ask in (handle.wait, handle.result, handle.exception, executor.drain):
        with pytest.raises(TimeoutError):
            ask(timeout=short)
    assert wait([handle], timeout=short).not_done == {handle}
    with pytest.raises(TimeoutError):
        list(as_completed([handle], timeout=short))

    gate.open()
    assert list(as_completed([handle], timeout=long)) == [handle]
    assert wait([handle], timeout=long).done == {handle}
    assert handle.result(timeout=long) == "done"


@one_database
def test_a_timeout_of_zero_only_looks(executor: DurableExecutor, gate: Gate) -> None:
    """`result(timeout=0)` doesn't block: it gives what is there, or raises `TimeoutError`."""

    @executor.task
    def work() -> str:
        gate.pass_through()
        return "done"

    handle = executor.enqueue(work)
    with pytest.raises(TimeoutError):
        handle.result(timeout=0)
    gate.open()
    handle.wait(timeout=SOON)

    assert handle.result(timeout=0) == "done"


def test_result_raises_what_the_execution_ended_with(executor: DurableExecutor) -> None:
    """`result` raises a `TaskError` with `.execution`, and with the remote traceback shown as a note."""

    @executor.task
    def divide(number: int) -> float:
        return number / 0

    handle = executor.enqueue(divide, 3)
    with pytest.raises(TaskError, match="ZeroDivisionError: division by zero") as caught:
        handle.result(timeout=SOON)

    assert type(caught.value) is TaskError
    assert caught.value.execution == handle.get_execution()
    assert "return number / 0" in "\n".join(caught.value.__notes__)


@one_database
def test_exception_returns_what_result_raises(executor: DurableExecutor) -> None:
    """`exception` returns the `TaskError`, or None for an execution that completed."""

    @executor.task
    def work(fails: bool) -> str:
        if fails:
            raise TaskError("no")
        return "yes"

    good, bad = executor.enqueue_many([work.bind(False), work.bind(True)])

    assert good.exception(timeout=SOON) is None
    error = bad.exception(timeout=SOON)
    assert isinstance(error, TaskError)
    assert error.message == "no"
    assert error.execution is not None
    assert error.execution.execution_id == bad.execution_id


class CustomError(Exception):
    pass


@one_database
def test_an_error_is_kept_as_data(executor: DurableExecutor) -> None:
    """Of an exception its type's name, message and traceback are stored, with its causes; nothing is pickled."""

    @executor.task
    def work() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise CustomError(lambda: None, "é\0\ud800") from error

    error = executor.enqueue(work).wait(timeout=SOON).error

    assert error is not None
    assert error.type == f"{__name__}.CustomError"
    assert "é" in error.message
    assert "KeyError: 'inner'" in error.traceback
    assert "direct cause" in error.traceback
    assert error.retryable


@one_database
def test_an_error_that_cannot_be_shown(executor: DurableExecutor) -> None:
    """An exception whose own `__str__` raises ends the execution like any other."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    @executor.task
    def work() -> None:
        raise Unspeakable

    error = executor.enqueue(work).wait(timeout=SOON).error

    assert error is not None
    assert "Unspeakable" in error.type


@one_database
def test_what_does_not_exist(executor: DurableExecutor) -> None:
    """Every question to a handle of an unknown execution raises `ExecutionNotFoundError`, without waiting."""

    @executor.task
    def work() -> None: ...

    handle = executor.get_handle(work, UNKNOWN)

    for ask in (
        handle.get_execution,
        handle.wait,
        handle.result,
        handle.exception,
        handle.done,
        handle.running,
        handle.cancelled,
        handle.cancel,
        handle.progress,
        partial(handle.add_done_callback, print),
    ):
        with pytest.raises(ExecutionNotFoundError, match=UNKNOWN):
            ask()
    with pytest.raises(ExecutionNotFoundError):
        executor.get_execution(UNKNOWN)


@one_database
def test_many_threads_wait_for_one(executor: DurableExecutor, gate: Gate) -> None:
    """Any number of threads may wait for one execution; all of them get its result."""

    @executor.task
    def work() -> str:
        gate.pass_through()
        return "done"

    handle = executor.enqueue(work)
    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(handle.result, timeout=SOON) for _ in range(8)]
        gate.open()
        assert [result.result() for result in results] == ["done"] * 8


# from elsewhere


@every_path
def test_a_handle_from_an_id(new_executor: NewExecutor) -> None:
    """`get_handle` in another executor waits for, and reads, what this one runs."""
    registry = TaskRegistry()

    @registry.task
    def double(number: int) -> int:
        return 2 * number

    worker, reader = new_executor(tasks=registry), new_executor(tasks=registry)
    worker.start()
    handle = worker.enqueue(double, 4)

    again = reader.get_handle(double, handle.execution_id)
    assert again.result(timeout=SOON) == 8
    assert (again.task_id, again.execution_id) == ("double", handle.execution_id)
    assert not again.created
    assert again.get_execution() == handle.get_execution() == reader.get_execution(handle.execution_id)


@every_path
def test_an_execution_tells_its_story(executor: DurableExecutor, gate: Gate) -> None:
    """Status, times, owner and lease are filled in as the execution goes on."""

    @executor.task
    def work() -> str:
        gate.pass_through()
        return "done"

    before = datetime.now(UTC) - timedelta(seconds=5)
    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    running = handle.get_execution()
    gate.open()
    ended = handle.wait(timeout=SOON)

    assert running.status is ExecutionStatus.RUNNING
    assert running.started_at is not None
    assert running.lease_expires_at is not None
    assert running.lease_expires_at > running.started_at
    assert (running.finished_at, running.output, running.error) == (None, None, None)
    assert ended.executor_id == running.executor_id
    assert ended.lease_expires_at is None
    assert ended.finished_at is not None
    assert before < ended.created_at <= ended.ready_at <= running.started_at <= ended.finished_at
    assert ended.finished_at <= ended.updated_at < ended.finished_at + timedelta(seconds=0.1)
    assert ended.created_at.tzinfo is UTC
    assert (ended.root, ended.parent, ended.children) == (None, None, ())


@one_database
def test_running_execution_ids(executor: DurableExecutor, gate: Gate) -> None:
    """`running_execution_ids` is what this executor runs now."""

    @executor.task
    def work() -> None:
        gate.pass_through()

    ids = {executor.enqueue(work).execution_id for _ in range(2)}
    gate.wait_for_arrivals(2)
    assert executor.running_execution_ids == ids
    assert isinstance(executor.running_execution_ids, frozenset)

    gate.open()
    wait_until(lambda: executor.running_execution_ids == frozenset())


# callbacks


def test_a_callback_is_called_once(executor: DurableExecutor, gate: Gate) -> None:
    """A done callback is called with the handle, once, whether it was added before or after the end."""
    calls: list[TaskHandle[str]] = []

    @executor.task
    def work() -> str:
        gate.pass_through()
        return "done"

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    handle.add_done_callback(calls.append)
    assert calls == []
    gate.open()
    wait_until(lambda: calls == [handle])
    assert handle.done()

    handle.add_done_callback(calls.append)
    wait_until(lambda: calls == [handle, handle])


@one_database
def test_a_callback_that_raises_is_logged(executor: DurableExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """What a callback raises is logged, with the execution's id; the callbacks after it are called."""
    called = threading.Event()

    @executor.task
    def work() -> None: ...

    def broken(_handle: TaskHandle[Any]) -> None:
        raise LookupError("no such page")

    handle = executor.enqueue(work.options(delay=0.05))
    handle.add_done_callback(broken)
    handle.add_done_callback(lambda _handle: called.set())

    assert called.wait(SOON)
    assert "no such page" in caplog.text
    assert handle.execution_id in caplog.text


@one_database
def test_a_callback_may_ask_the_handle(executor: DurableExecutor) -> None:
    """A callback may read the result, and wait for other executions, without blocking the library."""
    results: list[str] = []

    @executor.task
    def work(name: str) -> str:
        return name

    def follow_up(handle: TaskHandle[str]) -> None:
        results.append(handle.result(timeout=SOON))
        results.append(executor.enqueue(work, "second").result(timeout=SOON))

    executor.enqueue(work, "first").add_done_callback(follow_up)

    wait_until(lambda: results == ["first", "second"])


# waiting for many


def test_as_completed_yields_in_the_order_of_ends(executor: DurableExecutor, gates: dict[str, Gate]) -> None:
    """`as_completed` yields each handle as its execution finishes, whatever it ends with."""
    handles = enqueue_at_gates(executor, gates)
    arriving = as_completed(handles.values(), timeout=SOON)

    for name in ("b", "c", "a"):
        gates[name].open()
        assert next(arriving) is handles[name]
    with pytest.raises(StopIteration):
        next(arriving)


@one_database
def test_as_completed_times_out(executor: DurableExecutor, gates: dict[str, Gate]) -> None:
    """After `timeout` seconds `as_completed` raises `TimeoutError` that says how many are missing."""
    handles = enqueue_at_gates(executor, gates)
    gates["a"].open()
    handles["a"].wait(timeout=SOON)
    arriving = as_completed(handles.values(), timeout=0.1)

    assert next(arriving) is handles["a"]
    with pytest.raises(TimeoutError, match="2 of 3"):
        next(arriving)


@one_database
def test_as_completed_of_nothing_and_of_twins(executor: DurableExecutor) -> None:
    """No handles end at once; two handles of one execution are yielded both."""

    @executor.task
    def work() -> None: ...

    handle = executor.enqueue(work)
    twin = executor.get_handle(work, handle.execution_id)

    assert list(as_completed([], timeout=SOON)) == []
    assert set(as_completed([handle, twin, handle], timeout=SOON)) == {handle, twin}


def test_wait_for_all(executor: DurableExecutor, gates: dict[str, Gate]) -> None:
    """`wait` returns when all have finished, or, without an error, when `timeout` has passed."""
    handles = enqueue_at_gates(executor, gates)
    gates["a"].open()
    handles["a"].wait(timeout=SOON)

    early = wait(handles.values(), timeout=0)
    assert early.done == {handles["a"]}
    assert early.not_done == {handles["b"], handles["c"]}

    for gate in gates.values():
        gate.open()
    done, not_done = wait(handles.values(), timeout=SOON)
    assert (done, not_done) == (set(handles.values()), set())


@one_database
@pytest.mark.parametrize(
    ("return_when", "opened", "done"),
    [
        ("FIRST_COMPLETED", ["c"], {"c"}),
        ("FIRST_EXCEPTION", ["a", "b"], {"a", "b"}),
        ("ALL_COMPLETED", ["a", "b", "c"], {"a", "b", "c"}),
    ],
)
def test_wait_until(
    executor: DurableExecutor, gates: dict[str, Gate], return_when: str, opened: list[str], done: set[str]
) -> None:
    """`return_when` means what it means in `concurrent.futures`; an exception is any end but completion."""
    handles = enqueue_at_gates(executor, gates)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(wait, handles.values(), timeout=SOON, return_when=return_when)
        for name in opened:
            assert not waiting.done()
            gates[name].open()
            handles[name].wait(timeout=SOON)
        result = waiting.result(timeout=SOON)

    assert result.done == {handles[name] for name in done}
    assert result.done | result.not_done == set(handles.values())


@one_database
def test_wait_refuses_an_unknown_condition(executor: DurableExecutor) -> None:
    """A `return_when` that doesn't exist is refused, also with nothing to wait for."""
    with pytest.raises(ConfigurationError, match="return_when"):
        wait([], return_when="SOMETIMES")


def test_handles_of_several_executors_are_waited_for_together(new_executor: NewExecutor) -> None:
    """`wait` and `as_completed` take handles of different executors."""
    registry = TaskRegistry()

    @registry.task
    def double(number: int) -> int:
        return 2 * number

    executors = [new_executor(tasks=registry) for _ in range(2)]
    executors[0].start()
    handles = [executor.enqueue(double, number) for number, executor in enumerate(executors)]

    assert wait(handles, timeout=SOON).not_done == set()
    assert {handle.result() for handle in as_completed(handles, timeout=SOON)} == {0, 2}


# progress


@every_path
def test_progress_is_seen_while_the_task_runs(new_executor: NewExecutor, gate: Gate) -> None:
    """What a running task reports is read from its handle in another executor, and stays after the end."""
    registry = TaskRegistry()

    @registry.task
    def copy(ctx: TaskContext) -> None:
        ctx.progress(3, 10, "half way to é")
        gate.pass_through()
        ctx.progress(10.5, 10.5)

    worker, reader = new_executor(tasks=registry, lease=1), new_executor(tasks=registry)
    handle = reader.enqueue(copy)
    assert handle.progress() is None
    worker.start()
    gate.wait_for_arrivals()
    wait_until(lambda: handle.progress() == Progress(3, 10, "half way to é"))
    assert handle.get_execution().progress == Progress(3, 10, "half way to é")

    gate.open()
    handle.wait(timeout=SOON)
    assert handle.progress() == Progress(10.5, 10.5)


@one_database
def test_track_reports_each_item(executor: DurableExecutor) -> None:
    """`ctx.track` passes the items on, and reports how many of how many are done."""

    @executor.task
    def copy(ctx: TaskContext, names: list[str]) -> list[str]:
        return [name.upper() for name in ctx.track(names, message="copying")]

    handle = executor.enqueue(copy, ["a", "b", "c"])

    assert handle.result(timeout=SOON) == ["A", "B", "C"]
    assert handle.progress() == Progress(3, 3, "copying")


@one_database
def test_track_of_what_has_no_length(executor: DurableExecutor) -> None:
    """Without a length, `track` reports no total unless it is told one."""

    @executor.task
    def copy(ctx: TaskContext, total: int | None) -> int:
        return sum(ctx.track((number for number in range(4)), total))

    unknown, known = executor.enqueue(copy, None), executor.enqueue(copy, 9)

    assert (unknown.result(timeout=SOON), known.result(timeout=SOON)) == (6, 6)
    assert (unknown.progress(), known.progress()) == (Progress(4), Progress(4, 9))
