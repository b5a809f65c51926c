"""Retries: any tenacity policy, judged by what the database remembers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import tenacity
from tenacity import Retrying

from durable_sync import (
    DurableExecutor,
    ErrorInfo,
    Execution,
    ExecutionStatus,
    TaskContext,
    TaskError,
    TaskHandle,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.clocks import ManualClock
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0
AT_ONCE = tenacity.wait_fixed(0)


class Flaky:
    """Fails as often as it is told, each time with its own error; knows how often it was called."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= len(self._errors):
            raise self._errors[self.calls - 1]
        return "done"


def after_attempts(handle: TaskHandle[Any], number: int) -> Execution:
    """The execution once it waits for its next attempt, after so many."""

    def waiting() -> Execution | None:
        execution = handle.get_execution()
        is_waiting = execution.status is ExecutionStatus.READY and execution.attempt == number
        return execution if is_waiting else None

    execution = wait_until(waiting, message=lambda: str(handle.get_execution()))
    assert execution is not None
    return execution


# how many


@every_path
def test_without_retry_the_first_error_is_the_end(executor: DurableExecutor) -> None:
    """The default is no retry: an error ends the execution as failed, and is stored with its traceback."""

    @executor.task
    def divide(number: int) -> float:
        return number / 0

    ended = executor.enqueue(divide, 1).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.attempt == 0
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == ("ZeroDivisionError", "division by zero")
    assert "return number / 0" in ended.error.traceback
    assert "durable_sync/engine" not in ended.error.traceback.replace("\\", "/")


def test_a_later_success_clears_the_error(executor: DurableExecutor) -> None:
    """An execution that fails and then succeeds is completed, without an error."""
    flaky = Flaky(OSError("away"), OSError("still away"))

    @executor.task(retry=Retrying(stop=tenacity.stop_after_attempt(3), wait=AT_ONCE))
    def call() -> str:
        return flaky()

    handle = executor.enqueue(call)

    assert handle.result(timeout=SOON) == "done"
    ended = handle.get_execution()
    assert (ended.error, ended.attempt, flaky.calls) == (None, 2, 3)


@one_database
def test_a_number_is_so_many_retries_with_growing_delays(new_executor: NewExecutor, clock: ManualClock) -> None:
    """`retry=3` is four attempts, with jittered delays that double from half a second."""
    executor = new_executor(clock=clock, poll_interval=0.01)
    executor.start()
    flaky = Flaky(*[OSError(str(number)) for number in range(9)])

    @executor.task(retry=3)
    def call() -> str:
        return flaky()

    handle = executor.enqueue(call)
    for number, longest in enumerate([0.5, 1.0, 2.0], start=1):
        delay = (after_attempts(handle, number).ready_at - clock.time).total_seconds()
        assert longest / 2 <= delay <= longest
        clock.advance(longest)

    ended = handle.wait(timeout=SOON)
    assert (ended.status, ended.attempt) == (ExecutionStatus.FAILED, 3)
    assert ended.error is not None
    assert ended.error.message == "3"
    assert flaky.calls == 4


@one_database
@pytest.mark.parametrize(("declared", "given", "calls"), [(None, 2, 3), (5, 0, 1), (1, 2, 3)])
def test_options_overrule_the_declaration(
    new_executor: NewExecutor, clock: ManualClock, declared: int | None, given: int, calls: int
) -> None:
    """`options(retry=)` is stored with the execution and overrules what the task declares."""
    executor = new_executor(clock=clock, poll_interval=0.01)
    executor.start()
    flaky = Flaky(*[OSError("away")] * 9)

    @executor.task(retry=declared)
    def call() -> str:
        return flaky()

    handle = executor.enqueue(call.options(retry=given))
    for number in range(1, calls):
        after_attempts(handle, number)
        clock.advance(60)

    assert handle.wait(timeout=SOON).status is ExecutionStatus.FAILED
    assert flaky.calls == calls


# which


@one_database
def test_only_what_the_policy_names_is_retried(executor: DurableExecutor) -> None:
    """The policy's `retry` strategy decides which errors are tried again."""
    flaky = Flaky(ConnectionError("away"), ValueError("wrong"))

    @executor.task(retry=Retrying(retry=tenacity.retry_if_exception_type(OSError), wait=AT_ONCE))
    def call() -> str:
        return flaky()

    ended = executor.enqueue(call).wait(timeout=SOON)

    assert ended.error is not None
    assert (ended.error.type, flaky.calls) == ("ValueError", 2)


@one_database
def test_a_result_that_the_policy_refuses_is_retried(executor: DurableExecutor) -> None:
    """`retry_if_result` is judged too: a result it refuses costs an attempt; the next may be accepted."""
    results = iter([None, None, "there"])

    @executor.task(retry=Retrying(retry=tenacity.retry_if_result(lambda found: found is None), wait=AT_ONCE))
    def look() -> str | None:
        return next(results)

    handle = executor.enqueue(look)

    assert handle.result(timeout=SOON) == "there"
    assert handle.get_execution().attempt == 2


@one_database
def test_a_result_refused_to_the_last_fails_the_task(executor: DurableExecutor) -> None:
    """A result that the policy still refuses when it stops fails the execution, with an error that says so."""
    policy = Retrying(
        retry=tenacity.retry_if_result(lambda found: found is None),
        stop=tenacity.stop_after_attempt(2),
        wait=AT_ONCE,
    )

    @executor.task(retry=policy)
    def look() -> str | None:
        return None

    ended = executor.enqueue(look).wait(timeout=SOON)

    assert (ended.status, ended.attempt) == (ExecutionStatus.FAILED, 1)
    assert ended.error is not None
    assert "did not accept the result" in ended.error.message


@one_database
def test_not_retryable_is_the_end(executor: DurableExecutor) -> None:
    """`TaskError(message, retryable=False)` fails at once, whatever the policy says."""
    flaky = Flaky(TaskError("no such customer", retryable=False))

    @executor.task(retry=5)
    def call() -> str:
        return flaky()

    with pytest.raises(TaskError, match=r"^no such customer") as caught:
        executor.enqueue(call).result(timeout=SOON)

    assert caught.value.retryable is False
    assert flaky.calls == 1


@one_database
def test_try_again_is_always_retried(executor: DurableExecutor) -> None:
    """`tenacity.TryAgain` asks for another attempt, whatever else the policy retries."""
    flaky = Flaky(tenacity.TryAgain())

    @executor.task(retry=Retrying(retry=tenacity.retry_if_exception_type(KeyError), wait=AT_ONCE))
    def call() -> str:
        return flaky()

    assert executor.enqueue(call).result(timeout=SOON) == "done"


@one_database
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_is_no_exception_fails_the_task_and_not_the_thread(
    new_executor: NewExecutor, error: BaseException
) -> None:
    """A task that raises `SystemExit` or the like fails, without a retry; its thread goes on to the next."""
    executor = new_executor(max_workers=1)
    executor.start()
    flaky = Flaky(error)

    @executor.task(retry=3)
    def call() -> str:
        return flaky()

    ended = executor.enqueue(call).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.error is not None
    assert ended.error.type == type(error).__name__
    assert executor.enqueue(call).result(timeout=SOON) == "done"


@one_database
def test_a_policy_that_raises_fails_the_execution(executor: DurableExecutor) -> None:
    """A broken policy ends the execution with the policy's error; the task's own is in the traceback."""

    def broken(_state: tenacity.RetryCallState) -> bool:
        raise LookupError("no such rule")

    @executor.task(retry=Retrying(retry=broken))
    def call() -> str:
        raise OSError("away")

    ended = executor.enqueue(call).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.error is not None
    assert ended.error.type == "LookupError"
    assert "OSError: away" in ended.error.traceback


# when


@every_path
def test_a_retry_waits_as_long_as_the_policy_says(new_executor: NewExecutor, clock: ManualClock) -> None:
    """The next attempt starts when the policy's delay has passed by the database's time, and not before."""
    executor = new_executor(clock=clock, poll_interval=0.01)
    executor.start()
    flaky = Flaky(OSError("away"))

    @executor.task(retry=Retrying(wait=tenacity.wait_fixed(30)))
    def call() -> str:
        return flaky()

    handle = executor.enqueue(call)
    waiting = after_attempts(handle, 1)
    assert waiting.ready_at == clock.time + timedelta(seconds=30)
    assert waiting.error is not None
    assert waiting.error.message == "away"

    clock.advance(29)
    canary = executor.enqueue(executor.task(id="canary")(lambda: None))
    canary.wait(timeout=SOON)
    assert flaky.calls == 1

    clock.advance(1)
    assert handle.result(timeout=SOON) == "done"


@one_database
def test_delays_follow_the_strategy(new_executor: NewExecutor, clock: ManualClock) -> None:
    """A strategy that looks at the attempt number sees the number that the database remembers."""
    executor = new_executor(clock=clock, poll_interval=0.01)
    executor.start()
    chain = tenacity.wait_chain(*[tenacity.wait_fixed(seconds) for seconds in (3, 5, 7)])

    @executor.task(retry=Retrying(wait=chain, stop=tenacity.stop_after_attempt(5)))
    def call() -> None:
        raise OSError("away")

    handle = executor.enqueue(call)
    delays: list[float] = []
    for number in range(1, 5):
        delay = (after_attempts(handle, number).ready_at - clock.time).total_seconds()
        delays.append(delay)
        clock.advance(delay)

    assert delays == [3, 5, 7, 7]
    assert handle.wait(timeout=SOON).attempt == 4


@one_database
def test_time_spent_is_remembered(new_executor: NewExecutor, clock: ManualClock) -> None:
    """`stop_after_delay` counts from the first start, by the database's time, waiting included."""
    executor = new_executor(clock=clock, poll_interval=0.01)
    executor.start()
    policy = Retrying(wait=tenacity.wait_fixed(40), stop=tenacity.stop_after_delay(100))

    @executor.task(retry=policy)
    def call() -> None:
        raise OSError("away")

    handle = executor.enqueue(call)
    for number in (1, 2, 3):  # after 0, 40 and 80 seconds
        after_attempts(handle, number)
        clock.advance(40)

    assert handle.wait(timeout=SOON).attempt == 3


@one_database
def test_time_waited_is_remembered(new_executor: NewExecutor, clock: ManualClock) -> None:
    """A strategy that looks at the time waited so far sees the sum of the delays."""
    executor = new_executor(clock=clock, poll_interval=0.01)
    executor.start()
    waited: list[float] = []

    def note(state: tenacity.RetryCallState) -> bool:
        waited.append(state.idle_for)
        return len(waited) == 3

    @executor.task(retry=Retrying(wait=tenacity.wait_chain(*map(tenacity.wait_fixed, (3, 5))), stop=note))
    def call() -> None:
        raise OSError("away")

    handle = executor.enqueue(call)
    for number, delay in ((1, 3), (2, 5)):
        after_attempts(handle, number)
        clock.advance(delay)

    handle.wait(timeout=SOON)
    assert waited == [0, 3, 8]


# what the task sees


def test_the_context_tells_of_the_attempts_before(executor: DurableExecutor) -> None:
    """`attempt` is how often it was started before; `prev_error` is what the last attempt ended with."""
    seen: list[tuple[int, ErrorInfo | None]] = []

    @executor.task(retry=Retrying(wait=AT_ONCE))
    def call(ctx: TaskContext) -> int:
        seen.append((ctx.attempt, ctx.prev_error))
        if ctx.attempt < 2:
            raise OSError(f"error {ctx.attempt}")
        return ctx.attempt

    assert executor.enqueue(call).result(timeout=SOON) == 2
    assert [attempt for attempt, _ in seen] == [0, 1, 2]
    assert [error and (error.type, error.message) for _, error in seen] == [
        None,
        ("OSError", "error 0"),
        ("OSError", "error 1"),
    ]


# across processes


def registry_as_in_a_new_process(seen: list[int], errors: list[str | None]) -> TaskRegistry:
    """What importing the user's module anew would make: another function, another policy object."""
    registry = TaskRegistry()

    @registry.task(retry=Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_exponential(10)))
    def call(ctx: TaskContext) -> None:
        seen.append(ctx.attempt)
        errors.append(ctx.prev_error.message if ctx.prev_error else None)
        raise OSError(f"away {ctx.attempt}")

    return registry


@every_path
def test_the_policy_goes_on_after_a_restart(new_executor: NewExecutor, clock: ManualClock) -> None:
    """Attempts and delays are counted in the database, so that a restart in between changes nothing."""
    seen: list[int] = []
    errors: list[str | None] = []
    execution_id = ""
    for number, delay in ((1, 10), (2, 20)):
        registry = registry_as_in_a_new_process(seen, errors)
        task = registry.get("call")
        assert task is not None
        with new_executor(tasks=registry, clock=clock, poll_interval=0.01) as executor:
            handle = executor.get_handle(task, execution_id) if execution_id else executor.enqueue(task)
            execution_id = handle.execution_id
            assert after_attempts(handle, number).ready_at == clock.time + timedelta(seconds=delay)
        clock.advance(delay)

    with new_executor(tasks=registry_as_in_a_new_process(seen, errors), clock=clock, poll_interval=0.01) as last:
        ended = wait_until(lambda: (e := last.get_execution(execution_id)).is_finished and e)

    assert (ended.status, ended.attempt) == (ExecutionStatus.FAILED, 2)
    assert seen == [0, 1, 2]
    assert errors == [None, "away 0", "away 1"]
