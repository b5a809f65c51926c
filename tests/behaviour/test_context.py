"""What a running function sees: `ctx`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from durable_sync import DurableExecutor, Progress, Signal, TaskCancelledError, TaskContext, TaskTimedOutError
from tests.behaviour.conftest import NewExecutor
from tests.gates import Gate
from tests.paths import one_database
from tests.waiting import wait_until

SOON = 10.0

# in a task


def test_the_context_knows_its_execution(executor: DurableExecutor) -> None:
    """`ctx` carries the ids of task and execution, by which the task can find itself again."""
    seen: list[tuple[str, str, int, object]] = []

    @executor.task(id="mail.send")
    def send(ctx: TaskContext, to: str) -> str:
        seen.append((ctx.task_id, ctx.execution_id, ctx.attempt, ctx.prev_error))
        assert executor.get_execution(ctx.execution_id).input == {"to": "Ann"}
        return to

    handle = executor.enqueue(send, "Ann")

    assert handle.result(timeout=SOON) == "Ann"
    assert seen == [("mail.send", handle.execution_id, 0, None)]


@one_database
def test_only_a_first_parameter_named_ctx_is_passed(executor: DurableExecutor) -> None:
    """`ctx` is passed by its name and place; a later parameter of that name is the caller's."""

    @executor.task
    def plain(value: str, ctx: str) -> str:
        return value + ctx

    @executor.task
    def unannotated(ctx, value: str) -> str:  # type: ignore[no-untyped-def]
        return f"{type(ctx).__name__} {value}"

    @executor.task
    def with_defaults(ctx: TaskContext, first: int = 1, /, *rest: int, last: int = 9, **others: int) -> list[int]:
        return [first, *rest, last, *others.values()]

    assert executor.enqueue(plain, "a", ctx="b").result(timeout=SOON) == "ab"
    assert executor.enqueue(unannotated, "v").result(timeout=SOON) == "TaskContext v"
    assert executor.enqueue(with_defaults).result(timeout=SOON) == [1, 9]
    assert executor.enqueue(with_defaults, 2, 3, 4, last=5, more=6).result(timeout=SOON) == [2, 3, 4, 5, 6]


@one_database
def test_each_attempt_has_its_own_signals(executor: DurableExecutor, gate: Gate) -> None:
    """A cancel sets the signal of the execution that is cancelled, and of no other."""
    contexts: dict[str, TaskContext] = {}

    @executor.task
    def work(ctx: TaskContext, name: str) -> None:
        contexts[name] = ctx
        gate.pass_through()

    handles = {name: executor.enqueue(work, name) for name in ("one", "other")}
    gate.wait_for_arrivals(2)
    handles["one"].cancel()

    assert contexts["one"].cancel_signal.wait(SOON)
    assert not contexts["other"].cancel_signal.is_set()
    assert not contexts["one"].shutdown_signal.is_set()


@one_database
def test_a_function_called_by_the_task_may_use_the_context(executor: DurableExecutor) -> None:
    """Progress may be reported, and signals read, from threads that the task itself starts."""

    @executor.task
    def work(ctx: TaskContext) -> bool:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(ctx.progress, 1, 2).result()
            return thread.submit(ctx.cancel_signal.wait, 0.01).result()

    handle = executor.enqueue(work)

    assert handle.result(timeout=SOON) is False
    assert handle.progress() == Progress(1, 2)


@one_database
def test_progress_of_each_attempt(new_executor: NewExecutor) -> None:
    """A failed attempt's last progress stays to be read, until the next attempt reports its own."""
    executor = new_executor()
    executor.start()

    @executor.task
    def work(ctx: TaskContext) -> None:
        ctx.progress(1, 4, "first")
        ctx.progress(2, 4, "second")
        raise LookupError

    handle = executor.enqueue(work)
    handle.wait(timeout=SOON)

    assert handle.progress() == Progress(2, 4, "second")


@one_database
def test_much_progress_costs_little(executor: DurableExecutor) -> None:
    """Reporting progress a hundred thousand times is cheap: it is written now and then."""

    @executor.task(timeout=5)
    def work(ctx: TaskContext) -> None:
        for _ in ctx.track(range(100_000)):
            pass

    handle = executor.enqueue(work)
    handle.result(timeout=SOON)

    assert handle.progress() == Progress(100_000, 100_000)


# in a unit test


def test_a_context_is_made_for_a_unit_test() -> None:
    """A plain `TaskContext()` works in a unit test: signals that aren't set, progress that goes nowhere."""
    ctx = TaskContext(attempt=2)

    assert list(ctx.track(["a", "b"])) == ["a", "b"]
    ctx.progress(1)
    ctx.on_cancel(lambda: None)
    ctx.cancel_signal.raise_if_set()
    assert not ctx.shutdown_signal.wait(0)
    assert (ctx.attempt, ctx.prev_error, ctx.task_id) == (2, None, "")


def test_a_signal_wakes_all_who_wait() -> None:
    """A signal, once set, stays set; it frees everybody who waits for it, and raises its own error."""
    signal = Signal(TaskTimedOutError)
    assert not signal.wait(0.01)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(signal.wait, SOON) for _ in range(3)]
        wait_until(lambda: len(signal._waiters) == 3)
        signal.set()
        assert [wait.result() for wait in waiting] == [True] * 3

    assert signal.is_set()
    assert signal.wait()
    with pytest.raises(TaskTimedOutError):
        signal.raise_if_set()


def test_a_unit_test_gives_the_signals() -> None:
    """A unit test may hand a function signals that are set, and hears what the function reports."""
    reports: list[Progress] = []
    hooks: list[object] = []
    signal = Signal(TaskCancelledError)
    signal.set()
    ctx = TaskContext(cancel_signal=signal, report=reports.append, on_cancel=hooks.append)

    ctx.progress(1, 2, "half")
    ctx.on_cancel(threading.Event().set)
    with pytest.raises(TaskCancelledError):
        ctx.cancel_signal.raise_if_set()

    assert reports == [Progress(1, 2, "half")]
    assert len(hooks) == 1
