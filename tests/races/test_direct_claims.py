"""Executions that are claimed by the enqueue itself: when they are, and what becomes of them when things go wrong."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from durable_sync import DurableExecutor, ErrorInfo, Task, TaskCancelledError, TaskContext
from durable_sync.engine.claimer import Claimer
from durable_sync.storage.statements import Fenced
from durable_sync.storage.storage import Storage
from durable_sync.transitions import release
from tests.gates import PATIENCE, Gate
from tests.races.holding import LostAnswers, held_after, in_thread, open_storage
from tests.races.looking import row, rows
from tests.races.stepping import counted, wait_for_steps
from tests.waiting import wait_until


def direct_claims(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each direct claim, whether it was won."""
    claims: list[bool] = []
    insert = Storage.enqueue_claimed

    def count(*args: Any, **kwargs: Any) -> Any:
        there, claimed = insert(*args, **kwargs)
        claims.append(claimed)
        return there, claimed

    monkeypatch.setattr(Storage, "enqueue_claimed", count)
    return claims


def is_idle(executor: DurableExecutor) -> bool:
    """The claimer has looked, and found nothing."""
    return not executor._desk.background.claimer.backlog


def make_executor(url: str, **options: Any) -> tuple[DurableExecutor, Task[[], str]]:
    executor = DurableExecutor(url, max_workers=2, **options)

    @executor.task
    def run() -> str:
        return "ran"

    return executor, run


def test_what_an_idle_executor_enqueues_is_claimed_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One claim, one start, and the same row as by the ordinary way."""
    claims = direct_claims(monkeypatch)
    executor, run = make_executor(database_url)
    with executor:
        wait_until(lambda: is_idle(executor), PATIENCE)
        direct = executor.enqueue(run)
        assert direct.result(timeout=PATIENCE) == "ran"
        ordinary = executor.enqueue(run.options(key="ordinary"))
        assert ordinary.result(timeout=PATIENCE) == "ran"
    assert claims == [True]
    columns = (
        "task_id, status, queue, priority, lane, timer_at, claim_token, starts, failures, recoveries, max_recoveries, "
        "idle_for, delay, timeout, max_retries, input, run_output, error, executor_id IS NULL, finished_at IS NULL"
    )
    assert row(database_url, direct.execution_id, columns) == row(database_url, ordinary.execution_id, columns)


@pytest.mark.parametrize("why", ["backlog", "no free worker", "its queue", "the lease"])
def test_what_has_to_wait_is_not_claimed_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Nobody's turn is taken, and nothing is claimed that could not be started here."""
    claims = direct_claims(monkeypatch)
    executor, run = make_executor(database_url, queues=["default"])
    gate = Gate()

    @executor.task
    def occupy() -> None:
        gate.pass_through()

    with executor:
        wait_until(lambda: is_idle(executor), PATIENCE)
        background = executor._desk.background
        if why == "no free worker":
            executor.enqueue_many([occupy.bind()] * 2)
            wait_until(lambda: background.pool.room == 0, PATIENCE)
        # Nobody looks for work while we do.
        monkeypatch.setattr(Claimer, "step", lambda _self: 0.05)
        background.claimer.backlog = why == "backlog"
        if why == "the lease":
            monkeypatch.setattr(background.lease, "may_start_work", lambda: False)
        handle = executor.enqueue(run.options(queue="elsewhere") if why == "its queue" else run)
        assert row(database_url, handle.execution_id, "status, starts") == ("ready", 0)
        gate.open()
    assert True not in claims


def test_a_direct_claim_whose_answer_was_lost_is_found(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An execution that was enqueued claimed, and whose COMMIT was never answered, is found to be so and run, once."""
    executor = DurableExecutor(database_url, lease=2, max_workers=4)
    runs: list[int] = []

    @executor.task
    def run(ctx: TaskContext) -> int:
        runs.append(ctx.attempt)
        return ctx.attempt

    with executor:
        wait_until(lambda: not executor._desk.background.claimer.backlog, PATIENCE)
        answers = LostAnswers(monkeypatch, "enqueue", times=2)
        handle = executor.enqueue(run)
        assert handle.result(timeout=PATIENCE) == 0
    assert answers.seen_uncertain == [False, True, True]
    assert runs == [0]
    assert row(database_url, handle.execution_id, "claim_token, starts, recoveries") == (1, 1, 0)


def test_a_direct_claim_that_never_arrived_is_released(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An enqueue that gave up, and had enqueued it claimed, leaves nothing behind that nobody runs."""
    executor = DurableExecutor(database_url, lease=2, max_workers=4, poll_interval=0.2)
    monkeypatch.setattr("durable_sync.desk.CALLER_PATIENCE", 0.0)

    @executor.task
    def run() -> str:
        return "ran"

    with executor:
        wait_until(lambda: not executor._desk.background.claimer.backlog, PATIENCE)
        LostAnswers(monkeypatch, "enqueue")
        with pytest.raises(DBAPIError):
            executor.enqueue(run)
        ((execution_id, status),) = rows(database_url, "id, status")
        assert status == "running"
        assert executor.get_handle(run, execution_id).result(timeout=PATIENCE) == "ran"
    assert row(database_url, execution_id, "claim_token, starts, recoveries") == (2, 1, 0)


def test_a_direct_claim_that_arrives_late_is_not_released(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that is inserted claimed, and whose enqueue is slow to return, is left alone."""
    executor = DurableExecutor(database_url, lease=2, max_workers=4)
    inserted = held_after(monkeypatch, Storage, "enqueue_claimed")

    @executor.task
    def run() -> str:
        return "ran"

    with executor:
        wait_until(lambda: not executor._desk.background.claimer.backlog, PATIENCE)
        enqueued = in_thread(executor.enqueue, run)
        inserted.wait_for_arrivals()
        wait_until(lambda: executor._desk.background.heartbeat._strangers, PATIENCE)
        wait_for_steps(counted(monkeypatch, executor._desk.background.heartbeat), 3)
        inserted.open()
        assert enqueued.result(PATIENCE).result(timeout=PATIENCE) == "ran"
    assert rows(database_url, "claim_token, starts") == [(1, 1)]
    assert "never arrived" not in caplog.text


def test_nothing_is_claimed_directly_for_the_dead(database_url: str) -> None:
    """An incarnation that was declared dead, and doesn't know it yet, gets nothing: the execution waits for a claim."""
    executor = DurableExecutor(database_url, lease=30, max_workers=4)

    @executor.task
    def run() -> str:
        return "ran"

    with executor:
        wait_until(lambda: not executor._desk.background.claimer.backlog, PATIENCE)
        open_storage(database_url).resign(executor._desk.background.lease.executor_id)
        handle = executor.enqueue(run)
        assert row(database_url, handle.execution_id, "status, executor_id, starts") == ("ready", None, 0)
        assert executor._desk.background.pool.load == 0


def test_a_shutdown_gives_back_what_is_being_inserted_claimed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enqueue that is under way at a shutdown, and slow, has its execution given back: nothing runs after it."""
    executor = DurableExecutor(database_url, max_workers=4)
    inserted = held_after(monkeypatch, Storage, "enqueue_claimed")
    runs: list[int] = []

    @executor.task
    def run() -> None:
        runs.append(1)

    executor.start()
    wait_until(lambda: not executor._desk.background.claimer.backlog, PATIENCE)
    enqueued = in_thread(executor.enqueue, run)
    inserted.wait_for_arrivals()
    background = executor._desk.background
    stopped = in_thread(executor.shutdown, timeout=0)
    wait_until(lambda: background.direct._closed and background.claimer.stopping, PATIENCE)
    inserted.open()
    handle = enqueued.result(PATIENCE)
    stopped.result(PATIENCE)
    assert runs == []
    assert row(database_url, handle.execution_id, "status, starts, recoveries") == ("ready", 0, 0)


def test_a_direct_claim_that_was_released_meanwhile_is_not_run_twice(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the claim is gone when its lost answer is asked for again, the execution waits for another one."""
    executor, run = make_executor(database_url)
    other = open_storage(database_url)

    def give_back() -> None:
        ((execution_id,),) = rows(database_url, "id")
        other.record([Fenced(execution_id, 1, release(started=False))], uncertain=False)

    with executor:
        wait_until(lambda: is_idle(executor), PATIENCE)
        monkeypatch.setattr(Claimer, "step", lambda _self: 0.05)
        LostAnswers(monkeypatch, "enqueue", meanwhile=give_back)
        handle = executor.enqueue(run)
        assert executor.running_execution_ids == frozenset()
        assert executor._desk.background.pool.load == 0
    assert row(database_url, handle.execution_id, "status, claim_token, starts") == ("ready", 1, 0)


def test_an_outcome_that_was_refused_is_nobodys_result(database_url: str) -> None:
    """Who waits in the same process is told the truth: what a cancelled attempt returned is not its output."""
    executor = DurableExecutor(database_url, max_workers=2)
    gate = Gate()

    @executor.task
    def run() -> str:
        gate.pass_through()
        return "too late"

    with executor:
        wait_until(lambda: is_idle(executor), PATIENCE)
        handle = executor.enqueue(run)
        gate.wait_for_arrivals()
        # Elsewhere, and nobody tells this process of it.
        error = ErrorInfo("TaskCancelledError", "cancelled elsewhere", "", False).to_json()
        assert open_storage(database_url).cancel(handle.execution_id, error, patience=10).finished
        gate.open()
        with pytest.raises(TaskCancelledError, match="cancelled elsewhere"):
            handle.result(timeout=PATIENCE)
        wait_until(lambda: executor._desk.background.recorder.idle, PATIENCE)
        with pytest.raises(TaskCancelledError, match="cancelled elsewhere"):
            handle.result(timeout=PATIENCE)
