"""Several threads enqueue at the same time, and share one COMMIT."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from durable_sync import DurableExecutor
from durable_sync.storage import enqueueing
from durable_sync.storage.grouping import _Entry
from durable_sync.storage.newrows import MAX_ROWS
from durable_sync.storage.storage import Storage
from tests.gates import PATIENCE
from tests.races.holding import LostAnswers, held_before, in_thread, sends, wait_for
from tests.races.looking import rows
from tests.waiting import wait_until

THREADS = 8


def make_executor(url: str) -> tuple[DurableExecutor, Any]:
    executor = DurableExecutor(url)

    @executor.task
    def work(text: str) -> str:
        return text

    executor.migrate()
    return executor, work


def gathered(executor: DurableExecutor, number: int) -> None:
    """Waits until so many calls wait for whoever writes."""
    waiting = executor._desk._group._waiting
    wait_until(lambda: len(waiting) == number, PATIENCE, lambda: f"{len(waiting)} are waiting")


def test_those_who_wait_are_written_together(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is enqueued while another enqueue is under way goes into one transaction, and everyone gets his own."""
    executor, work = make_executor(database_url)
    sizes: list[int] = []
    write = Storage.enqueue

    def count(self: Storage, new: Any, **options: Any) -> Any:
        sizes.append(len(new))
        return write(self, new, **options)

    monkeypatch.setattr(Storage, "enqueue", count)
    gate = held_before(monkeypatch, enqueueing, "enqueue")
    first = in_thread(executor.enqueue, work, "first")
    gate.wait_for_arrivals()
    others = [in_thread(executor.enqueue_many, [work.bind(f"{n}"), work.bind(f"{n} too")]) for n in range(THREADS)]
    gathered(executor, THREADS)
    gate.open()
    handles = [first.result(PATIENCE), *(handle for other in others for handle in other.result(PATIENCE))]
    assert sizes == [1, 2 * THREADS]
    texts = ["first", *(text for n in range(THREADS) for text in (f"{n}", f"{n} too"))]
    assert [handle.get_execution().input["text"] for handle in handles] == texts
    assert len(rows(database_url, "id")) == 1 + 2 * THREADS


def test_one_that_the_database_refuses_harms_no_other(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the transaction fails for the sake of one call, the others are written all the same, and he is told."""
    executor, work = make_executor(database_url)
    write = enqueueing.enqueue

    def refuse(sql: Any, connection: Any, new: Any, **options: Any) -> Any:
        if any("bad" in row.input for row in new):
            connection.exec_driver_sql("SELECT this_is_no_column")
        return write(sql, connection, new, **options)

    monkeypatch.setattr(enqueueing, "enqueue", refuse)
    gate = held_before(monkeypatch, enqueueing, "enqueue")
    first = in_thread(executor.enqueue, work, "first")
    gate.wait_for_arrivals()
    texts = ["good", "bad", "fine"]
    others = [in_thread(executor.enqueue, work, text) for text in texts]
    gathered(executor, len(texts))
    gate.open()
    first.result(PATIENCE)
    others[0].result(PATIENCE)
    others[2].result(PATIENCE)
    with pytest.raises(DBAPIError, match="this_is_no_column"):
        others[1].result(PATIENCE)
    assert len(rows(database_url, "id")) == 3


def test_an_outage_is_everybodys(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage that outlasts the caller's patience is told to all who were in the transaction."""
    monkeypatch.setattr("durable_sync.desk.CALLER_PATIENCE", 0.2)
    executor, work = make_executor(database_url)
    gate = held_before(monkeypatch, enqueueing, "enqueue")
    first = in_thread(executor.enqueue, work, "first")
    gate.wait_for_arrivals()
    others = [in_thread(executor.enqueue, work, "other") for _ in range(THREADS)]
    gathered(executor, THREADS)
    LostAnswers(monkeypatch, "enqueue", times=1_000, takes_effect=False)
    gate.open()
    for future in [first, *others]:
        assert isinstance(future.exception(PATIENCE), DBAPIError) or future is first
    assert len(rows(database_url, "id")) <= 1


def test_a_lost_answer_makes_no_duplicates(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared COMMIT whose answer was lost is tried again, and every call is there once."""
    executor, work = make_executor(database_url)
    gate = held_before(monkeypatch, enqueueing, "enqueue")
    first = in_thread(executor.enqueue, work, "first")
    gate.wait_for_arrivals()
    others = [in_thread(executor.enqueue, work, "other") for _ in range(THREADS)]
    gathered(executor, THREADS)
    answers = LostAnswers(monkeypatch, "enqueue", times=2)
    gate.open()
    ids = [future.result(PATIENCE).execution_id for future in [first, *others]]
    assert sorted(ids) == sorted(name for (name,) in rows(database_url, "id"))
    assert answers.left == 0


def test_more_than_one_transaction_takes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not fit into the batch of those before him is written in the next, once."""
    executor, work = make_executor(database_url)
    gate = held_before(monkeypatch, enqueueing, "enqueue")
    first = in_thread(executor.enqueue, work, "first")
    gate.wait_for_arrivals()
    size = MAX_ROWS * 2 // 5
    others = [in_thread(executor.enqueue_many, [work.bind(f"{n}")] * size) for n in range(THREADS)]
    gathered(executor, THREADS)
    gate.open()
    ids = {first.result(PATIENCE).execution_id}
    ids |= {handle.execution_id for other in others for handle in other.result(PATIENCE)}
    assert ids == {name for (name,) in rows(database_url, "id")}
    assert len(ids) == 1 + THREADS * size


def test_who_is_interrupted_while_he_writes_for_others(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others find out what has become of their own, and nothing is written twice."""
    executor, work = make_executor(database_url)
    write = Storage.enqueue
    leaders: list[int] = []

    def write_and_be_interrupted(self: Storage, new: Any, **options: Any) -> Any:
        stored = write(self, new, **options)
        if len(new) == THREADS:
            leaders.append(len(new))
            raise KeyboardInterrupt
        return stored

    monkeypatch.setattr(Storage, "enqueue", write_and_be_interrupted)
    gate = held_before(monkeypatch, enqueueing, "enqueue")
    first = in_thread(executor.enqueue, work, "first")
    gate.wait_for_arrivals()
    others = [in_thread(executor.enqueue, work, "other") for _ in range(THREADS)]
    gathered(executor, THREADS)
    gate.open()
    first.result(PATIENCE)
    ended = [other.exception(PATIENCE) for other in others]
    assert leaders == [THREADS]
    assert sorted(type(error) is KeyboardInterrupt for error in ended) == [False] * (THREADS - 1) + [True]
    assert [error for error in ended if error is not None and type(error) is not KeyboardInterrupt] == []
    assert len(rows(database_url, "id")) == 1 + THREADS


def test_who_is_interrupted_while_he_waits(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of his is written later, behind his back, and the others go on without him."""
    executor, work = make_executor(database_url)
    gate = held_before(monkeypatch, enqueueing, "enqueue")
    first = in_thread(executor.enqueue, work, "first")
    gate.wait_for_arrivals()

    def interrupted(_self: _Entry) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Entry, "wait", interrupted)
        stopped = in_thread(executor.enqueue, work, "stopped")
        assert type(stopped.exception(PATIENCE)) is KeyboardInterrupt
    others = [in_thread(executor.enqueue, work, "other") for _ in range(THREADS)]
    gathered(executor, THREADS)
    gate.open()
    for future in [first, *others]:
        future.result(PATIENCE)
    assert len(rows(database_url, "id")) == 1 + THREADS


def test_a_key_that_is_waited_for_holds_up_nobody_else(database_url: str) -> None:
    """An enqueue whose key is in somebody's open transaction waits for that; others don't wait with it."""
    if database_url.startswith("sqlite"):
        pytest.skip("there every enqueue waits for every open transaction that writes")
    executor, work = make_executor(database_url)

    # InnoDB locks the gap in front of a key that is waited for.
    @executor.task(id="zzz")
    def other() -> None: ...

    engine = create_engine(database_url)
    with Session(engine) as session:
        executor.using(session).enqueue(work.options(key="taken"), "mine")
        waits = sends(executor._desk.storage.database.engine, "INSERT")
        keyed = in_thread(executor.enqueue, work.options(key="taken"), "the same")
        wait_for(waits)
        assert in_thread(executor.enqueue, other).result(PATIENCE).created
        assert not keyed.done()
        session.commit()
    assert not keyed.result(PATIENCE).created
    engine.dispose()
