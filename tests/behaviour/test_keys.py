"""Keys: an enqueue that is safe to repeat."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from durable_sync import ConfigurationError, DurableExecutor, ExecutionStatus, TaskRegistry
from tests.behaviour.conftest import NewExecutor
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.processes import Script

SOON = 10.0


@every_path
def test_a_key_that_is_active_is_not_enqueued_again(
    new_executor: NewExecutor, count_executions: Callable[[], int]
) -> None:
    """While an execution of a task and key is active, another enqueue writes nothing and returns that one."""
    executor = new_executor()

    @executor.task
    def report(month: str) -> str: ...

    first = executor.enqueue(report.options(key="june"), "June")
    second = executor.enqueue(report.options(key="june"), "June again")

    assert (first.created, second.created) == (True, False)
    assert second.execution_id == first.execution_id
    assert second.get_execution().input == {"month": "June"}
    assert count_executions() == 1


def test_a_key_is_held_while_its_execution_runs(executor: DurableExecutor, gate: Gate) -> None:
    """A running execution holds its key; the handle that a repeated enqueue returns has its result."""

    @executor.task
    def report() -> str:
        gate.pass_through()
        return "written"

    first = executor.enqueue(report.options(key="june"))
    gate.wait_for_arrivals()
    second = executor.enqueue(report.options(key="june"))
    gate.open()

    assert not second.created
    assert second.result(timeout=SOON) == "written"
    assert first.get_execution() == second.get_execution()


@every_path
def test_a_key_is_free_once_its_execution_has_finished(executor: DurableExecutor) -> None:
    """Whatever an execution ends with, its key is free afterwards."""

    @executor.task
    def report(fails: bool) -> None:
        if fails:
            raise ValueError

    completed = executor.enqueue(report.options(key="june"), False)
    assert completed.wait(timeout=SOON).status is ExecutionStatus.COMPLETED
    failed = executor.enqueue(report.options(key="june"), True)
    assert failed.wait(timeout=SOON).status is ExecutionStatus.FAILED
    cancelled = executor.enqueue(report.options(key="june", delay=3600), False)
    assert cancelled.cancel()
    last = executor.enqueue(report.options(key="june"), False)

    handles = [completed, failed, cancelled, last]
    assert all(handle.created for handle in handles)
    assert len({handle.execution_id for handle in handles}) == 4


@one_database
def test_a_key_belongs_to_its_task(new_executor: NewExecutor) -> None:
    """The same key of another task is another key; so is no key at all."""
    executor = new_executor()

    @executor.task
    def report() -> None: ...

    @executor.task
    def invoice() -> None: ...

    handles = [
        executor.enqueue(report.options(key="june")),
        executor.enqueue(invoice.options(key="june")),
        executor.enqueue(report),
        executor.enqueue(report),
    ]

    assert all(handle.created for handle in handles)
    assert len({handle.execution_id for handle in handles}) == 4


def test_keys_are_compared_byte_by_byte(new_executor: NewExecutor) -> None:
    """Keys that differ in case, accents or form are different, whatever the server's collation says."""
    executor = new_executor()

    @executor.task
    def report() -> None: ...

    keys = ["june", "June", "jüne", "ju\u0308ne", " june", "ß", "ss", "💶", "x" * 255, "x" * 254]
    handles = [executor.enqueue(report.options(key=key)) for key in keys]

    assert all(handle.created for handle in handles)
    assert not any(executor.enqueue(report.options(key=key)).created for key in keys)


@one_database
@pytest.mark.parametrize("key", ["", "x" * 256, "a\0", "\ud800", "june ", 5, b"june"])
def test_a_key_that_databases_do_not_compare_is_refused(new_executor: NewExecutor, key: object) -> None:
    """A key that some database can't store, or takes for another one, is refused when it is given."""

    @new_executor().task
    def report() -> None: ...

    with pytest.raises(ConfigurationError, match="report: key"):
        report.options(key=key)


@every_path
def test_keys_within_enqueue_many(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """In `enqueue_many` a key may be taken already, or come twice; the other calls are written all the same."""
    executor = new_executor()

    @executor.task
    def report(month: str) -> None: ...

    held = executor.enqueue(report.options(key="june"), "june")
    handles = executor.enqueue_many(
        [
            report.options(key="may").bind("may"),
            report.bind("no key"),
            report.options(key="june").bind("june again"),
            report.options(key="may").bind("may again"),
        ]
    )

    assert [handle.created for handle in handles] == [True, True, False, False]
    assert handles[2].execution_id == held.execution_id
    assert handles[3].execution_id == handles[0].execution_id
    assert count_executions() == 3


@every_path
def test_of_many_enqueues_at_once_one_is_written(
    new_executor: NewExecutor, count_executions: Callable[[], int]
) -> None:
    """Threads of several executors that enqueue one key at once get one execution, created by one of them."""
    registry = TaskRegistry()

    @registry.task
    def report() -> None: ...

    executors = [new_executor(tasks=registry) for _ in range(2)]
    for executor in executors:
        executor.migrate()
    start = threading.Barrier(6)

    def enqueue(number: int) -> list[tuple[bool, str]]:
        handles = []
        for key in ("a", "b", "c"):
            start.wait(SOON)
            handles.append(executors[number % 2].enqueue(report.options(key=key)))
        return [(handle.created, handle.execution_id) for handle in handles]

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(enqueue, range(6)))

    for answers_for_a_key in zip(*answers, strict=True):
        assert [created for created, _ in answers_for_a_key].count(True) == 1
        assert len({execution_id for _, execution_id in answers_for_a_key}) == 1
    assert count_executions() == 3


ENQUEUE_WHEN_TOLD = """
    import sys
    from durable_sync import DurableExecutor

    executor = DurableExecutor(sys.argv[1])

    @executor.task
    def report() -> None: ...

    executor.migrate()
    print("ready", flush=True)
    for line in sys.stdin:
        handle = executor.enqueue(report.options(key=line.strip()))
        print(handle.created, handle.execution_id, flush=True)
"""


def test_of_two_processes_at_once_one_enqueues(url: str, count_executions: Callable[[], int]) -> None:
    """Two processes that enqueue one key at once get one execution, created by one of them."""
    with Script(ENQUEUE_WHEN_TOLD, url) as first, Script(ENQUEUE_WHEN_TOLD, url) as second:
        assert (first.hear(), second.hear()) == ("ready", "ready")
        for number in range(10):
            first.say(f"key {number}")
            second.say(f"key {number}")
            answers = [process.hear().split() for process in (first, second)]
            assert sorted(created for created, _ in answers) == ["False", "True"]
            assert len({execution_id for _, execution_id in answers}) == 1

    assert count_executions() == 10
