"""Enqueueing: one durable commit, or an error and nothing written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from durable_sync import (
    ConfigurationError,
    DurableExecutor,
    ExecutionStatus,
    ExecutorShutdownError,
    InvalidInputError,
    TaskContext,
    TaskNotRegisteredError,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.gates import Gate
from tests.paths import every_path, one_database

SOON = 10.0


# results


@every_path
def test_the_output_comes_back(executor: DurableExecutor) -> None:
    """`result` gives what the function returned for the arguments that were enqueued."""

    @executor.task
    def join(first: str, *rest: str, by: str = "-") -> str:
        return by.join([first, *rest])

    handle = executor.enqueue(join, "a", "b", "c", by="+")

    assert handle.created
    assert handle.result(timeout=SOON) == "a+b+c"
    assert handle.get_execution().status is ExecutionStatus.COMPLETED


@one_database
def test_defaults_are_the_functions_own(executor: DurableExecutor) -> None:
    """A parameter that is not given is not stored; the function fills it in when it runs."""

    @executor.task
    def summarize(path: str, *, words: int = 50) -> str:
        return f"{path}:{words}"

    handle = executor.enqueue(summarize, "a.txt")

    assert handle.result(timeout=SOON) == "a.txt:50"
    assert handle.get_execution().input == {"path": "a.txt"}


def test_another_executor_runs_what_an_unstarted_one_enqueues(new_executor: NewExecutor) -> None:
    """An executor that is not started may enqueue and wait: another runs the work."""
    registry = TaskRegistry()

    @registry.task
    def double(number: int) -> int:
        return 2 * number

    client, worker = new_executor(tasks=registry), new_executor(tasks=registry)
    handle = client.enqueue(double, 21)
    assert handle.get_execution().status is ExecutionStatus.READY

    worker.start()

    assert handle.result(timeout=SOON) == 42
    assert client.running_execution_ids == frozenset()


def test_any_text_is_stored_whole(executor: DurableExecutor) -> None:
    """Input and output come back as they were, whatever characters are in them."""
    texts = ["", "\0", "é𝄞\U0010ffff", "\ud800", "' OR 1=1 --", "\\", "%s :name", "x" * 100_000]

    @executor.task
    def echo(values: list[str]) -> list[str]:
        assert values == texts
        return values

    assert executor.enqueue(echo, texts).result(timeout=SOON) == texts


# many at once


@every_path
def test_enqueue_many_keeps_the_order(executor: DurableExecutor) -> None:
    """The handles of `enqueue_many` are in the order of the calls, and each call is run once."""

    @executor.task
    def negate(number: int) -> int:
        return -number

    handles = executor.enqueue_many(negate.bind(number) for number in range(50))

    assert [handle.result(timeout=SOON) for handle in handles] == [-number for number in range(50)]
    assert len({handle.execution_id for handle in handles}) == 50


def test_enqueue_many_takes_thousands(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """More calls than go into one statement are still one transaction, all stored."""
    executor = new_executor()

    @executor.task
    def wait_for_its_turn(number: int) -> None: ...

    handles = executor.enqueue_many([wait_for_its_turn.bind(number) for number in range(2_500)])

    assert count_executions() == 2_500
    assert handles[2_345].get_execution().input == {"number": 2_345}


@one_database
def test_enqueue_many_of_different_tasks(executor: DurableExecutor) -> None:
    """One `enqueue_many` may hold calls of several tasks."""

    @executor.task
    def upper(text: str) -> str:
        return text.upper()

    @executor.task
    def lower(text: str) -> str:
        return text.lower()

    loud, quiet = executor.enqueue_many([upper.bind("aB"), lower.bind("aB")])

    assert (loud.result(timeout=SOON), quiet.result(timeout=SOON)) == ("AB", "ab")


@one_database
def test_enqueue_many_of_nothing(executor: DurableExecutor) -> None:
    """No calls make no handles, and no error."""
    assert executor.enqueue_many([]) == []


@one_database
def test_enqueue_many_refuses_what_is_no_call(new_executor: NewExecutor) -> None:
    """What `enqueue_many` takes is `task.bind(...)`; anything else is named in the error."""
    executor = new_executor()

    @executor.task
    def nothing() -> None: ...

    with pytest.raises(ConfigurationError, match="bind"):
        executor.enqueue_many([nothing])


def test_one_bad_call_and_none_is_written(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """`enqueue_many` is all or none: a call that doesn't fit is named, and nothing was written."""
    executor = new_executor()
    executor.migrate()

    @executor.task
    def double(number: int) -> int:
        return 2 * number

    with pytest.raises(InvalidInputError, match=r"calls\[1\].*number"):
        executor.enqueue_many([double.bind(1), double.bind("two"), double.bind(3)])

    assert count_executions() == 0


# map


def test_map_yields_in_order(executor: DurableExecutor, gate: Gate) -> None:
    """`map` yields outputs in the order of the items, also when later ones finish first."""

    @executor.task
    def slow_first(number: int) -> int:
        if number == 0:
            gate.pass_through()
        if number == 3:
            gate.open()
        return number * number

    assert list(executor.map(slow_first, range(4))) == [0, 1, 4, 9]


@one_database
def test_map_enqueues_before_it_is_iterated(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """`map` enqueues all at once, as `concurrent.futures` does, whether its outputs are asked for or not."""
    executor = new_executor()

    @executor.task
    def double(number: int) -> int:
        return 2 * number

    executor.map(double, iter([1, 2, 3]))

    assert count_executions() == 3


@one_database
def test_map_refuses_a_plain_function(new_executor: NewExecutor) -> None:
    """`map` of something that is no task is refused before anything is written."""

    def double(number: int) -> int:
        return 2 * number

    with pytest.raises(ConfigurationError, match="task"):
        new_executor().map(double, [1])


# refusals


@one_database
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "a", "size": 1.9}, ["size"]),
        ({"name": None, "size": 1}, ["name"]),
        ({"name": None, "size": "1"}, ["name", "size"]),
        ({"name": "a"}, ["size"]),
        ({"name": "a", "size": 1, "colour": "red"}, ["colour"]),
        ({"name": "a", "size": 1, "ctx": None}, ["ctx"]),
    ],
)
def test_input_that_does_not_fit_is_refused(
    new_executor: NewExecutor,
    count_executions: Callable[[], int],
    arguments: dict[str, object],
    named: list[str],
) -> None:
    """A misfit raises `InvalidInputError` that names every bad path, and nothing is written."""
    executor = new_executor()
    executor.migrate()

    @executor.task
    def store(ctx: TaskContext, name: str, size: int) -> None: ...

    with pytest.raises(InvalidInputError) as caught:
        executor.enqueue(store, **arguments)

    assert isinstance(caught.value, ValueError)
    assert all(name in str(caught.value) for name in named)
    assert count_executions() == 0


@one_database
def test_validate_is_called_before_anything_is_written(
    new_executor: NewExecutor, count_executions: Callable[[], int]
) -> None:
    """`validate` gets the same arguments, without `ctx`; what it raises causes `InvalidInputError`."""
    executor = new_executor()
    executor.migrate()
    seen: list[tuple[str, int]] = []

    def must_be_short(path: str, *, words: int = 50) -> None:
        seen.append((path, words))
        if words > 100:
            raise LookupError("too many words")

    @executor.task(validate=must_be_short)
    def summarize(ctx: TaskContext, path: str, *, words: int = 50) -> str: ...

    with pytest.raises(InvalidInputError, match="too many words") as caught:
        executor.enqueue(summarize, "a.txt", words=101)
    assert isinstance(caught.value.__cause__, LookupError)
    assert count_executions() == 0

    executor.enqueue(summarize, "b.txt")
    assert seen == [("a.txt", 101), ("b.txt", 50)]
    assert count_executions() == 1


@one_database
def test_validate_sees_only_input_that_fits(new_executor: NewExecutor) -> None:
    """Types are checked before `validate` is called, so that it can rely on them."""
    executor = new_executor()
    seen: list[int] = []

    @executor.task(validate=seen.append)
    def double(number: int) -> int:
        return 2 * number

    with pytest.raises(InvalidInputError, match="number"):
        executor.enqueue(double, "two")

    assert seen == []


@one_database
def test_input_over_the_limit_is_refused(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """Input of `max_payload_bytes` is stored; one byte more raises `InvalidInputError` naming the limit."""
    executor = new_executor(max_payload_bytes=100)
    executor.migrate()

    @executor.task
    def keep(text: str) -> None: ...

    fits = "x" * (100 - len('{"text":""}'))
    executor.enqueue(keep, fits)
    with pytest.raises(InvalidInputError, match=r"101 bytes.*max_payload_bytes=100"):
        executor.enqueue(keep, fits + "x")

    assert count_executions() == 1


@one_database
def test_output_over_the_limit_fails_the_task(new_executor: NewExecutor) -> None:
    """Output larger than `max_payload_bytes` fails the task, without a retry, with an error that says so."""
    executor = new_executor(max_payload_bytes=100)
    executor.start()

    @executor.task(retry=3)
    def produce() -> str:
        return "x" * 100

    ended = executor.enqueue(produce).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.error is not None
    assert "max_payload_bytes=100" in ended.error.message
    assert not ended.error.retryable


@one_database
def test_a_task_of_others_is_refused(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """A task that this executor doesn't know raises `TaskNotRegisteredError`, and nothing is written."""
    executor = new_executor()
    executor.migrate()

    @executor.task
    def known() -> None: ...

    @TaskRegistry().task
    def unknown() -> None: ...

    @TaskRegistry().task(id="known")
    def namesake() -> None: ...

    with pytest.raises(TaskNotRegisteredError, match="unknown"):
        executor.enqueue(unknown)
    with pytest.raises(TaskNotRegisteredError, match="another task"):
        executor.enqueue(namesake)
    with pytest.raises(TaskNotRegisteredError):
        executor.enqueue_many([known.bind(), unknown.bind()])
    with pytest.raises(TaskNotRegisteredError):
        executor.get_handle(unknown, "0")
    assert count_executions() == 0


@one_database
def test_nothing_is_enqueued_after_a_shutdown(new_executor: NewExecutor) -> None:
    """After `shutdown` every way to enqueue raises `ExecutorShutdownError`."""
    executor = new_executor()

    @executor.task
    def double(number: int) -> int:
        return 2 * number

    executor.shutdown()

    with pytest.raises(ExecutorShutdownError):
        executor.enqueue(double, 1)
    with pytest.raises(ExecutorShutdownError):
        executor.enqueue_many([double.bind(1)])
    with pytest.raises(ExecutorShutdownError):
        executor.map(double, [1])


@one_database
def test_calling_a_task_calls_the_function(new_executor: NewExecutor) -> None:
    """A task is called like the plain function, on this thread, without a database: for unit tests."""
    executor = new_executor()

    @executor.task(retry=3, timeout=1)
    def greet(ctx: TaskContext, name: str) -> str:
        """Says hello."""
        return f"{name} {ctx.attempt}"

    assert greet(TaskContext(attempt=2), "Ann") == "Ann 2"
    assert (greet.id, greet.__doc__) == ("greet", "Says hello.")
