"""Sleepers: executions that hold nothing and wait to be woken, by a key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from attrs import frozen
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from durable_sync import (
    ConfigurationError,
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    ExecutorShutdownError,
    InvalidInputError,
    Spawn,
    TaskCancelledError,
    TaskError,
    TaskNotRegisteredError,
    TaskRegistry,
    TaskTimedOutError,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import wait_for
from tests.clocks import START, ManualClock
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)


@frozen
class Payment:
    amount: int
    at: datetime


# asleep


@every_path
def test_a_sleeper_sleeps_from_its_enqueue_on(new_executor: NewExecutor) -> None:
    """A sleeper is `sleeping` from the moment it is enqueued, whether anything runs or not, and never starts."""
    executor = new_executor()
    approval = executor.sleeping_task("approval")

    handle = executor.enqueue(approval.options(key="a"))
    execution = handle.get_execution()
    assert execution.status is ExecutionStatus.SLEEPING
    assert (execution.input, execution.output, execution.started_at) == ({}, None, None)
    executor.start()
    executor.drain(timeout=SOON)

    assert handle.get_execution() == execution
    assert not handle.done()
    assert not handle.running()
    with pytest.raises(TimeoutError, match="sleeping"):
        handle.wait(timeout=0.05)


@every_path
def test_a_sleeper_holds_nothing(new_executor: NewExecutor) -> None:
    """However many sleep, every worker is free for other work, and no connection is kept."""
    executor = new_executor(max_workers=2)
    executor.start()
    approval = executor.sleeping_task("approval")
    both = threading.Barrier(2)

    @executor.task
    def work() -> str:
        both.wait(SOON)
        return "done"

    handles = executor.enqueue_many([approval.options(key=str(n)).bind() for n in range(50)])
    assert [handle.result(timeout=SOON) for handle in executor.enqueue_many([work.bind()] * 2)] == ["done"] * 2
    executor.drain(timeout=SOON)

    assert executor.running_execution_ids == frozenset()
    assert {handle.get_execution().status for handle in handles} == {ExecutionStatus.SLEEPING}
    connections = executor._desk.storage.database.connections
    wait_until(lambda: connections.in_use <= 1, message=lambda: f"{connections.in_use} connections are in use")


@every_path
def test_a_sleeper_needs_a_key(new_executor: NewExecutor, count_executions: Callable[[], int]) -> None:
    """Without a key nobody could wake it: it is refused, in every way of enqueueing, and nothing is written."""
    executor = new_executor()
    executor.start()
    approval = executor.sleeping_task("approval")

    @executor.task
    def work() -> None: ...

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [approval.bind()])

    with pytest.raises(ConfigurationError, match=r"approval .*key"):
        executor.enqueue(approval)
    with pytest.raises(ConfigurationError, match=r"approval .*key"):
        executor.enqueue_many([work.bind(), approval.bind()])
    assert count_executions() == 0
    ended = executor.enqueue(parent).wait(timeout=SOON)
    assert ended.status is ExecutionStatus.FAILED
    assert "children[0]: ConfigurationError: approval" in ended.error.message
    assert count_executions() == 1


@every_path
def test_a_key_is_unique_among_the_sleeping(executor: DurableExecutor, count_executions: Callable[[], int]) -> None:
    """While one sleeps under a key, another enqueue returns that one; the key is free once it has ended."""
    approval, other = executor.sleeping_task("approval"), executor.sleeping_task("other")

    first = executor.enqueue(approval.options(key="k"))
    again = executor.enqueue(approval.options(key="k"))
    elsewhere = executor.enqueue(other.options(key="k"))
    assert (again.created, again) == (False, first)
    assert elsewhere.created
    assert count_executions() == 2
    executor.wake(approval, "k", output=1)
    second = executor.enqueue(approval.options(key="k"))
    assert second.created
    executor.wake(approval, "k", output=2)

    assert [handle.result(timeout=SOON) for handle in (first, second)] == [1, 2]
    assert elsewhere.get_execution().status is ExecutionStatus.SLEEPING


@one_database
def test_options_that_mean_nothing_are_refused(executor: DurableExecutor) -> None:
    """A sleeper sleeps at once and is never claimed: what is said of attempts and claims is refused by name."""
    approval = executor.sleeping_task("approval")

    for options in ({"delay": 5}, {"run_at": NOON}, {"retry": 2}, {"queue": "q"}, {"priority": 1}):
        with pytest.raises(ConfigurationError, match=f"approval: {next(iter(options))} would mean nothing"):
            approval.options(key="k", **options)
    assert approval.options(key="k", timeout=5).overrides.key == "k"


@one_database
def test_a_sleeper_that_makes_no_sense_is_refused(executor: DurableExecutor) -> None:
    """The id and the timeout are checked when a sleeper is declared; it can't be called, and takes no arguments."""
    for bad in (0, -1, "5", float("nan"), lambda attempt: 5):
        with pytest.raises(ConfigurationError, match="approval: timeout"):
            executor.sleeping_task("approval", timeout=bad)
    with pytest.raises(ConfigurationError, match="malformed"):
        executor.sleeping_task("a b")
    approval = executor.sleeping_task("approval")
    with pytest.raises(ConfigurationError, match="'approval' is registered already"):
        executor.sleeping_task("approval")
    with pytest.raises(ConfigurationError, match="approval is a sleeping task"):
        approval()
    with pytest.raises(InvalidInputError):
        approval.bind(5)


# woken


@every_path
def test_a_sleeper_is_woken_with_an_output(executor: DurableExecutor) -> None:
    """`wake` with an output ends the sleeper as `completed` with it, and tells who waits."""
    approval = executor.sleeping_task("approval")
    handle = executor.enqueue(approval.options(key="k"))
    called = threading.Event()
    handle.add_done_callback(lambda _handle: called.set())
    results: list[object] = []
    waiter = threading.Thread(target=lambda: results.append(handle.result(timeout=SOON)))
    waiter.start()

    executor.wake(approval, "k", output={"by": ["somebody", None]})

    ended = handle.get_execution()
    assert (ended.status, ended.error) == (ExecutionStatus.COMPLETED, None)
    assert ended.output == ended.run_output == {"by": ["somebody", None]}
    assert ended.finished_at is not None
    waiter.join(SOON)
    assert results == [{"by": ["somebody", None]}]
    assert called.wait(SOON)


@one_database
def test_a_sleeper_is_woken_with_none(executor: DurableExecutor) -> None:
    """None is an output like any other."""
    approval = executor.sleeping_task("approval")
    handle = executor.enqueue(approval.options(key="k"))

    executor.wake(approval, "k", output=None)

    assert handle.result(timeout=SOON) is None


@every_path
@pytest.mark.parametrize("error", ["refused by hand", TaskError("refused by hand"), ValueError("refused by hand")])
def test_a_sleeper_is_woken_with_an_error(executor: DurableExecutor, error: str | Exception) -> None:
    """`wake` with an error, a message or an exception, ends the sleeper as `failed`; `result` raises it."""
    approval = executor.sleeping_task("approval")
    handle = executor.enqueue(approval.options(key="k"))

    executor.wake(approval, "k", error=error)

    with pytest.raises(TaskError, match="refused by hand") as caught:
        handle.result(timeout=SOON)
    ended = handle.get_execution()
    assert caught.value.execution == ended
    assert (ended.status, ended.output) == (ExecutionStatus.FAILED, None)
    assert ended.error.type == ("ValueError" if isinstance(error, ValueError) else "TaskError")
    assert ended.error.message == "refused by hand"
    assert ended.error.retryable is False


@every_path
def test_the_output_is_typed(executor: DurableExecutor) -> None:
    """With `output=` the type is declared, and what it is woken with comes back as that type."""
    payment = executor.sleeping_task("payment", output=Payment)
    handle = executor.enqueue(payment.options(key="k"))

    executor.wake(payment, "k", output=Payment(5, NOON))

    assert handle.result(timeout=SOON) == Payment(5, NOON)
    assert executor.get_execution(handle.execution_id).output == Payment(5, NOON)


@every_path
def test_the_output_is_checked(executor: DurableExecutor) -> None:
    """An output of another type raises `InvalidInputError` and wakes nobody."""
    number, payment = executor.sleeping_task("number", output=int), executor.sleeping_task("payment", output=Payment)
    handles = [executor.enqueue(task.options(key="k")) for task in (number, payment)]
    before = [handle.get_execution() for handle in handles]

    with pytest.raises(InvalidInputError, match="invalid output for number"):
        executor.wake(number, "k", output="five")
    with pytest.raises(InvalidInputError, match="invalid output for number"):
        executor.wake(number, "k", output=None)
    with pytest.raises(InvalidInputError, match=r"invalid output for payment.*amount"):
        executor.wake(payment, "k", output=Payment("five", NOON))
    assert [handle.get_execution() for handle in handles] == before
    executor.wake(number, "k", output=5)

    assert handles[0].result(timeout=SOON) == 5


@one_database
def test_an_output_can_be_too_large(new_executor: NewExecutor) -> None:
    """`max_payload_bytes` bounds what a sleeper is woken with; it sleeps on."""
    executor = new_executor(max_payload_bytes=1000)
    approval = executor.sleeping_task("approval")
    handle = executor.enqueue(approval.options(key="k"))

    with pytest.raises(InvalidInputError, match="max_payload_bytes=1000"):
        executor.wake(approval, "k", output="x" * 1000)
    assert handle.get_execution().status is ExecutionStatus.SLEEPING
    executor.wake(approval, "k", output="x" * 998)
    assert handle.result(timeout=SOON) == "x" * 998


@every_path
def test_of_many_wakes_at_once_one_holds(new_executor: NewExecutor) -> None:
    """Of several `wake` calls at once, also of several executors, one holds; the others raise."""
    registry = TaskRegistry()
    approval = registry.sleeping_task("approval")
    executors = [new_executor(tasks=registry) for _ in range(2)]
    for executor in executors:
        executor.migrate()
    handle = executors[0].enqueue(approval.options(key="k"))
    start = threading.Barrier(4)
    held: list[int] = []
    refused: list[int] = []

    def wake(number: int) -> None:
        start.wait(SOON)
        try:
            executors[number % 2].wake(approval, "k", output=number)
            held.append(number)
        except ExecutionNotFoundError:
            refused.append(number)

    threads = [threading.Thread(target=wake, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)

    assert len(held) == 1
    assert len(refused) == 3
    assert handle.result(timeout=SOON) == held[0]


# nobody sleeps under that key


@every_path
def test_who_is_not_there_is_not_woken(executor: DurableExecutor) -> None:
    """`wake` before the sleeper exists, twice, or after its cancel raises, and the message says which it was."""
    approval, other = executor.sleeping_task("approval"), executor.sleeping_task("other")

    with pytest.raises(ExecutionNotFoundError, match=r"'approval' .*'k': none has been enqueued"):
        executor.wake(approval, "k", output=1)

    woken = executor.enqueue(approval.options(key="k"))
    with pytest.raises(ExecutionNotFoundError, match="none has been enqueued"):
        executor.wake(approval, "K", output=1)
    with pytest.raises(ExecutionNotFoundError, match="none has been enqueued"):
        executor.wake(other, "k", output=1)
    executor.wake(approval, "k", output=1)
    with pytest.raises(ExecutionNotFoundError, match=f"the last one, {woken.execution_id}, completed at 20"):
        executor.wake(approval, "k", output=2)
    with pytest.raises(ExecutionNotFoundError, match="none has been enqueued"):
        executor.wake(other, "k", output=1)

    failed = executor.enqueue(approval.options(key="k"))
    executor.wake(approval, "k", error="no")
    with pytest.raises(ExecutionNotFoundError, match=f"{failed.execution_id}, failed at 20"):
        executor.wake(approval, "k", output=2)

    cancelled = executor.enqueue(approval.options(key="k"))
    assert cancelled.cancel()
    with pytest.raises(ExecutionNotFoundError, match=f"{cancelled.execution_id}, cancelled at 20"):
        executor.wake(approval, "k", error="too late")
    assert woken.result(timeout=SOON) == 1
    with pytest.raises(TaskCancelledError):
        cancelled.result(timeout=SOON)


@every_path
def test_who_has_overslept_is_not_woken(new_executor: NewExecutor, clock: ManualClock) -> None:
    """`wake` after the timeout raises, and the message says that it timed out."""
    executor = new_executor(clock=clock)
    executor.start()
    approval = executor.sleeping_task("approval", timeout=60)
    handle = executor.enqueue(approval.options(key="k"))
    clock.advance(61)
    handle.wait(timeout=SOON)

    with pytest.raises(ExecutionNotFoundError, match=f"{handle.execution_id}, timed out at 2030-01-01T00:01"):
        executor.wake(approval, "k", output=1)
    assert handle.get_execution().status is ExecutionStatus.TIMED_OUT


@one_database
def test_only_sleepers_are_woken(executor: DurableExecutor) -> None:
    """`wake` of a task of another kind is refused, whatever its executions do."""

    @executor.task
    def work() -> None: ...

    handle = executor.enqueue(work.options(key="k", delay=3600))
    for given in ({"output": 1}, {"error": "no"}):
        with pytest.raises(ConfigurationError, match="work is no sleeping task"):
            executor.wake(work, "k", **given)
    assert handle.get_execution().status is ExecutionStatus.READY


@one_database
def test_wake_takes_an_output_or_an_error(executor: DurableExecutor) -> None:
    """Both, neither, an error that is none, and a key that is none are refused; nobody is woken."""
    approval = executor.sleeping_task("approval")
    handle = executor.enqueue(approval.options(key="k"))

    for given in ({}, {"output": 1, "error": "no"}, {"output": None, "error": "no"}, {"output": 1, "error": None}):
        with pytest.raises(ConfigurationError, match="an output or an error"):
            executor.wake(approval, "k", **given)
    for error in (5, None, ValueError, b"no"):
        with pytest.raises(ConfigurationError, match="error must be"):
            executor.wake(approval, "k", error=error)
    for key in ("", 5, None, "k "):
        with pytest.raises(ConfigurationError, match="key"):
            executor.wake(approval, key, output=1)
    assert handle.get_execution().status is ExecutionStatus.SLEEPING


@every_path
def test_who_may_wake(new_executor: NewExecutor) -> None:
    """An executor that is not started may wake; after its shutdown, or of a task it doesn't know, it may not."""
    registry = TaskRegistry()
    approval = registry.sleeping_task("approval")
    worker, client, stranger = new_executor(tasks=registry), new_executor(tasks=registry), new_executor()
    worker.start()
    handles = [client.enqueue(approval.options(key=key)) for key in ("a", "b")]

    client.wake(approval, "a", output="woken")
    assert worker.get_handle(approval, handles[0].execution_id).result(timeout=SOON) == "woken"
    with pytest.raises(TaskNotRegisteredError, match="'approval'"):
        stranger.wake(approval, "b", output=1)
    client.shutdown()
    with pytest.raises(ExecutorShutdownError):
        client.wake(approval, "b", output=1)
    assert handles[1].get_execution().status is ExecutionStatus.SLEEPING


# overslept


@every_path
def test_a_sleeper_times_out(new_executor: NewExecutor, clock: ManualClock) -> None:
    """The declared timeout counts from the enqueue; the sleeper ends as `timed_out`, and not a moment before."""
    executor = new_executor(clock=clock)
    executor.start()
    approval = executor.sleeping_task("approval", timeout=timedelta(hours=1))
    seen: list[str] = []

    @executor.task
    def work(name: str) -> None:
        seen.append(name)

    handle = executor.enqueue(approval.options(key="k"))
    later = executor.enqueue(approval.options(key="later", timeout=3600.5))
    clock.advance(3599)
    executor.enqueue(work, "a round of the claimer").result(timeout=SOON)
    assert handle.get_execution().status is ExecutionStatus.SLEEPING
    clock.advance(1)

    with pytest.raises(TaskTimedOutError):
        handle.result(timeout=SOON)
    ended = handle.get_execution()
    assert (ended.status, ended.output) == (ExecutionStatus.TIMED_OUT, None)
    assert ended.finished_at - START == timedelta(hours=1)
    assert later.get_execution().status is ExecutionStatus.SLEEPING
    assert executor.enqueue(approval.options(key="k")).created


@every_path
def test_options_overrule_the_timeout(new_executor: NewExecutor, clock: ManualClock) -> None:
    """`options(timeout=)` holds instead of the declared one, shorter or longer; without either it sleeps on."""
    executor = new_executor(clock=clock)
    executor.start()
    approval = executor.sleeping_task("approval", timeout=100)
    endless = executor.sleeping_task("endless")
    shorter = executor.enqueue(approval.options(key="shorter", timeout=10))
    longer = executor.enqueue(approval.options(key="longer", timeout=1000))
    never = executor.enqueue(endless.options(key="never"))
    some = executor.enqueue(endless.options(key="some", timeout=10))

    clock.advance(11)
    for handle in (shorter, some):
        assert handle.wait(timeout=SOON).status is ExecutionStatus.TIMED_OUT
    clock.advance(500)
    declared = executor.enqueue(approval.options(key="declared"))
    clock.advance(101)
    assert declared.wait(timeout=SOON).status is ExecutionStatus.TIMED_OUT
    assert longer.get_execution().status is ExecutionStatus.SLEEPING
    clock.advance(10**6)
    assert longer.wait(timeout=SOON).status is ExecutionStatus.TIMED_OUT
    assert never.get_execution().status is ExecutionStatus.SLEEPING


@every_path
def test_a_sleeper_times_out_while_all_workers_are_busy(
    new_executor: NewExecutor, clock: ManualClock, gate: Gate
) -> None:
    """Timeouts of sleepers need no free worker."""
    executor = new_executor(clock=clock, max_workers=1)
    executor.start()
    approval = executor.sleeping_task("approval", timeout=60)

    @executor.task
    def work() -> None:
        gate.pass_through()

    executor.enqueue_many([work.bind()] * 20)
    gate.wait_for_arrivals()
    handle = executor.enqueue(approval.options(key="k"))
    clock.advance(61)

    assert handle.wait(timeout=SOON).status is ExecutionStatus.TIMED_OUT
    assert gate.nobody_came()


@one_database
def test_any_executor_times_sleepers_out(new_executor: NewExecutor, clock: ManualClock) -> None:
    """Whichever executor looks first ends a late sleeper, also one that doesn't know its task."""
    client, stranger = new_executor(clock=clock), new_executor(clock=clock)
    approval = client.sleeping_task("approval", timeout=60)
    handle = client.enqueue(approval.options(key="k"))
    clock.advance(61)

    @stranger.task
    def work() -> None: ...

    stranger.start()

    assert handle.wait(timeout=SOON).status is ExecutionStatus.TIMED_OUT


def test_many_sleepers_time_out_together(new_executor: NewExecutor, clock: ManualClock) -> None:
    """More sleepers than one sweep takes, due at one moment, all time out."""
    executor = new_executor(clock=clock)
    executor.start()
    approval = executor.sleeping_task("approval", timeout=60)
    for hundred in range(11):
        executor.enqueue_many([approval.options(key=f"{hundred} {n}").bind() for n in range(100)])
    clock.advance(61)

    def sleeping() -> int:
        with executor._desk.storage.database.engine.connect() as connection:
            query = text("SELECT count(*) FROM durable_executions WHERE status = 'sleeping'")
            return int(connection.execute(query).scalar_one())

    wait_until(lambda: sleeping() == 0, timeout=30)


# cancelled, and drained


@every_path
def test_a_sleeper_is_cancelled(executor: DurableExecutor) -> None:
    """A sleeper can be cancelled like any active execution, and frees its key."""
    approval = executor.sleeping_task("approval")
    handle = executor.enqueue(approval.options(key="k"))

    assert handle.cancel() is True
    assert handle.cancel() is False
    assert handle.get_execution().status is ExecutionStatus.CANCELLED
    assert executor.enqueue(approval.options(key="k")).created


@one_database
def test_drain_does_not_wait_for_sleepers(executor: DurableExecutor) -> None:
    """`drain` waits for what is ready, running or waiting; a sleeper is none of these, a parent of one is."""
    approval = executor.sleeping_task("approval")

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [approval.options(key="child").bind()])

    executor.enqueue(approval.options(key="root"))
    executor.drain(timeout=SOON)
    handle = executor.enqueue(parent)
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    with pytest.raises(TimeoutError):
        executor.drain(timeout=0.1)
    executor.wake(approval, "child", output=1)
    executor.drain(timeout=SOON)


# in the user's own transaction


def test_a_sleeper_in_the_users_transaction(
    executor: DurableExecutor, engine: Engine, count_executions: Callable[[], int]
) -> None:
    """`using` enqueues sleepers: they sleep once the transaction has committed, and never were if it rolls back."""
    executor.migrate()
    approval = executor.sleeping_task("approval")

    with Session(engine) as session:
        executor.using(session).enqueue(approval.options(key="gone"))
        session.rollback()
    assert count_executions() == 0
    with pytest.raises(ExecutionNotFoundError, match="none has been enqueued"):
        executor.wake(approval, "gone", output=1)

    with Session(engine) as session:
        handle = executor.using(session).enqueue(approval.options(key="k"))
        with pytest.raises(ConfigurationError, match="key"):
            executor.using(session).enqueue(approval)
        session.commit()
    assert handle.get_execution().status is ExecutionStatus.SLEEPING
    executor.wake(approval, "k", output=1)

    assert handle.result(timeout=SOON) == 1
