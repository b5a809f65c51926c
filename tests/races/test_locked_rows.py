"""What others hold locked, for short or for long, keeps nobody from the rest."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, make_url, select

from durable_sync import DurableExecutor
from tests.gates import PATIENCE
from tests.processes import Script
from tests.races.holding import claim, enqueue, held_before_commit, in_thread, incarnation, open_storage


@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
def test_what_others_have_locked_is_passed_over(database_url: str) -> None:
    """What comes after rows that a user's transaction holds, though far more than there are workers, is claimed."""
    executor = DurableExecutor(database_url, max_workers=1)

    @executor.task
    def work(number: int) -> int:
        return number

    *held, free = executor.enqueue_many([work.bind(number) for number in range(41)])
    c = executor._desk.storage.sql.executions.c
    ids = [handle.execution_id for handle in held]
    engine = create_engine(database_url, isolation_level="READ COMMITTED")
    with engine.connect() as user:
        for one in ids:
            user.execute(select(c.id).where(c.id == one).with_for_update()).one()
        executor.start()
        assert free.result(timeout=PATIENCE) == 40
        assert not any(handle.done() for handle in held)
    assert [handle.result(timeout=PATIENCE) for handle in held] == list(range(40))
    engine.dispose()
    executor.shutdown()


@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
def test_a_claim_locks_no_more_than_it_takes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has looked far, and may take one, leaves the others to others."""
    storage, other = open_storage(database_url), open_storage(database_url)
    storage.register(incarnation("a"))
    other.register(incarnation("b"))
    ids = enqueue(storage, 40)
    gate = held_before_commit(monkeypatch, storage)
    claiming = in_thread(storage.claim, ids, limit=1, executor_id="a")
    gate.wait_for_arrivals()
    assert len(claim(other, ids, "b")) == 39
    gate.open()
    assert len(claiming.result(PATIENCE)) == 1


def test_a_claim_takes_what_is_left_of_what_was_seen(database_url: str) -> None:
    """What others have taken since is passed over."""
    storage = open_storage(database_url)
    storage.register(incarnation("a"))
    ids = enqueue(storage, 4)
    taken = claim(storage, ids[:2], "a")
    (next_one,) = storage.claim(ids, limit=1, executor_id="a")
    assert next_one.execution_id in ids[2:]
    assert len(taken) == 2


WRITE_WITHOUT_PAUSE = """
    import sqlite3, sys

    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE theirs (number INTEGER)")
    print("writing", flush=True)
    while True:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO theirs VALUES (1)")
        connection.execute("COMMIT")
"""


def test_who_writes_without_pause_leaves_room_for_others(sqlite_url: str) -> None:
    """SQLite's lock is free for microseconds, between two transactions of another process, and that is enough."""
    database = open_storage(sqlite_url).database
    with Script(WRITE_WITHOUT_PAUSE, str(make_url(sqlite_url).database)) as other:
        assert other.hear() == "writing"
        for _ in range(20):
            database.transact("write", lambda _transaction: None)
