"""What others hold locked, for short or for long, keeps nobody from the rest."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, make_url, select

from durable_sync import DurableExecutor
from tests.gates import PATIENCE
from tests.processes import Script


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
    executor = DurableExecutor(sqlite_url)
    executor.migrate()
    database = executor._desk.storage.database
    with Script(WRITE_WITHOUT_PAUSE, str(make_url(sqlite_url).database)) as other:
        assert other.hear() == "writing"
        for _ in range(20):
            database.transact("write", lambda _transaction: None)
    executor.shutdown()
