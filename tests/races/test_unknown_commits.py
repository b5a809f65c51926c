"""The connection is lost at a COMMIT, and nobody knows whether that took effect."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from durable_sync import DurableExecutor, ExecutionStatus, TaskError, TaskHandle
from durable_sync.storage.statements import Fenced
from durable_sync.storage.storage import Storage
from tests.crashes import audit
from tests.crashes.checker import FINISHED
from tests.gates import PATIENCE
from tests.races.holding import LostAnswers
from tests.waiting import wait_until

took_effect = pytest.mark.parametrize("takes_effect", [True, False], ids=["took effect", "did not"])


def count(url: str) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        number = int(connection.execute(text("SELECT count(*) FROM durable_executions")).scalar_one())
    engine.dispose()
    return number


@took_effect
@pytest.mark.parametrize("key", [None, "k"])
def test_an_enqueue_of_unknown_outcome_is_one_execution(
    database_url: str, monkeypatch: pytest.MonkeyPatch, takes_effect: bool, key: str | None
) -> None:
    """An enqueue that is tried again finds what it had written, and the task runs once."""
    executor = DurableExecutor(database_url)
    runs: list[int] = []

    @executor.task
    def run(number: int) -> int:
        runs.append(number)
        return number

    wanted = run if key is None else run.options(key=key)
    with executor:
        answers = LostAnswers(monkeypatch, "enqueue", 2, takes_effect=takes_effect)
        handle = executor.enqueue(wanted, 7)
        assert answers.seen_uncertain == [False, True, True]
        assert handle.created
        assert handle.result(timeout=PATIENCE) == 7
    assert runs == [7]
    assert count(database_url) == 1


@took_effect
def test_a_batch_of_unknown_outcome_is_there_once_and_whole(
    database_url: str, monkeypatch: pytest.MonkeyPatch, takes_effect: bool
) -> None:
    """All of enqueue_many is stored exactly once, with keys and without."""
    executor = DurableExecutor(database_url)

    @executor.task
    def run(number: int) -> int:
        return number

    executor.migrate()
    calls = [run.bind(number) for number in range(5)]
    calls += [run.options(key=f"k{number}").bind(number) for number in range(5, 8)]
    LostAnswers(monkeypatch, "enqueue", takes_effect=takes_effect)
    handles = executor.enqueue_many(calls)
    assert count(database_url) == 8
    assert all(handle.created for handle in handles)
    with executor:
        assert [handle.result(timeout=PATIENCE) for handle in handles] == list(range(8))


def test_an_enqueue_whose_execution_ends_before_the_second_try(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is free again by then, and still the second try makes no second execution."""
    executor = DurableExecutor(database_url, poll_interval=0.05)
    runs: list[int] = []

    @executor.task
    def run() -> None:
        runs.append(1)

    def wait_for_its_end() -> None:
        wait_until(lambda: runs, PATIENCE)
        executor.drain(timeout=PATIENCE)

    with executor:
        LostAnswers(monkeypatch, "enqueue", meanwhile=wait_for_its_end)
        handle = executor.enqueue(run.options(key="k"))
        assert handle.created
        handle.result(timeout=PATIENCE)
    assert runs == [1]
    assert count(database_url) == 1


@took_effect
def test_an_outcome_of_unknown_fate_is_recorded_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, takes_effect: bool
) -> None:
    """An outcome that is tried again is written once; the task ran once, and nothing is said to be fenced off."""
    executor = DurableExecutor(database_url, max_workers=4)
    runs: list[int] = []

    @executor.task
    def run(number: int) -> int:
        runs.append(number)
        return number

    executor.migrate()
    engine = create_engine(database_url)
    audit.install(engine)
    answers = LostAnswers(monkeypatch, "record", 3, takes_effect=takes_effect)
    handles: list[TaskHandle[int]] = executor.enqueue_many([run.bind(number) for number in range(6)])
    with caplog.at_level(logging.WARNING, "durable_sync"), executor:
        assert [handle.result(timeout=PATIENCE) for handle in handles] == list(range(6))
        wait_until(lambda: executor._desk.background.recorder.idle, PATIENCE)
    assert answers.left == 0
    assert sorted(runs) == list(range(6))
    ends = [move.execution_id for move in audit.moves(engine) if move.new_status in FINISHED]
    assert sorted(ends) == sorted(handle.execution_id for handle in handles)
    assert "fenced off" not in caplog.text
    engine.dispose()


@took_effect
def test_a_refused_outcome_of_unknown_fate_is_recorded_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, takes_effect: bool
) -> None:
    """That an outcome was refused is written once, though its answer is lost, and nothing is said to be fenced off."""
    executor = DurableExecutor(database_url)
    record = Storage.record

    def refusing(storage: Storage, outcomes: Sequence[Fenced], *, uncertain: bool) -> Any:
        if any(outcome.transition.target is ExecutionStatus.COMPLETED for outcome in outcomes):
            raise UnicodeError("no such text")
        return record(storage, outcomes, uncertain=uncertain)

    @executor.task
    def run() -> int:
        return 1

    with caplog.at_level(logging.WARNING, "durable_sync"), executor:
        monkeypatch.setattr(Storage, "record", refusing)
        answers = LostAnswers(monkeypatch, "record", takes_effect=takes_effect)
        error = executor.enqueue(run).exception(timeout=PATIENCE)
        wait_until(lambda: executor._desk.background.recorder.idle, PATIENCE)
    assert "no such text" in str(error)
    assert answers.left == 0
    assert "fenced off" not in caplog.text


@took_effect
def test_a_retry_of_unknown_fate_is_counted_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, takes_effect: bool
) -> None:
    """One failure is one failure, also if the execution was claimed again before its record was tried again."""
    executor = DurableExecutor(database_url, poll_interval=0.05)
    runs: list[int] = []

    @executor.task(retry=1)
    def fails() -> None:
        runs.append(1)
        raise TaskError("no")

    with executor:
        LostAnswers(monkeypatch, "record", takes_effect=takes_effect)
        error = executor.enqueue(fails).exception(timeout=20)
    assert error is not None
    assert len(runs) == 2
    engine = create_engine(database_url)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT failures, starts FROM durable_executions")).one()
    assert tuple(row) == (2, 2)
    engine.dispose()
