"""The database server is killed under load, and comes back."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor, ExecutionStatus, TaskHandle
from tests.crashes import audit, worker
from tests.crashes.checker import Account, check, read_history
from tests.servers import Server
from tests.waiting import wait_until

TASKS = 300
SECONDS = 0.05


@pytest.fixture(params=["postgres", "mariadb"])
def server_and_url(request: pytest.FixtureRequest) -> tuple[Server, str]:
    """A server that the test may kill, and a fresh database on it."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return request.getfixturevalue(f"{request.param}_server"), url


class Load:
    """Two executors in this process that work, and a thread that goes on enqueueing all the time."""

    def __init__(self, url: str, folder: Path, lease: float) -> None:
        self.history = folder / "history.jsonl"
        self.engine = create_engine(url, poolclass=NullPool)
        self.executors = [
            DurableExecutor(url, tasks=worker.registry, name=name, lease=lease, max_workers=4) for name in ("a", "b")
        ]
        self.client = DurableExecutor(url, tasks=worker.registry)
        self.client.migrate()
        audit.install(self.engine)
        self.handles: list[TaskHandle[str]] = self.client.enqueue_many(
            [worker.work.bind(SECONDS) for _ in range(TASKS)]
        )
        self._ending = threading.Event()
        self._errors: list[BaseException] = []
        self._caller = threading.Thread(target=self._enqueue, daemon=True)

    def _enqueue(self) -> None:
        try:
            while not self._ending.wait(0.02):
                self.handles.append(self.client.enqueue(worker.work, SECONDS))
        except BaseException as error:
            self._errors.append(error)

    @property
    def backgrounds(self) -> list:
        return [executor._desk.background for executor in self.executors]

    def held(self) -> dict[str, str]:
        """Results that are in memory and not recorded: execution id to outcome."""
        entries = [
            entry
            for background in self.backgrounds
            for entry in [*background.recorder._batch, *background.recorder._waiting]
        ]
        return {
            entry.attempt.claimed.execution_id: entry.outcome.transition.values["run_output"].strip('"')
            for entry in entries
            if entry.outcome.transition.name == "complete"
        }

    def wait_until_half_done(self) -> None:
        wait_until(lambda: audit.unfinished(self.engine) < TASKS * 2 / 3, 30)

    def finish(self) -> None:
        """Everything that was ever enqueued completes, by itself."""
        self._ending.set()
        self._caller.join(30)
        assert not self._caller.is_alive()
        assert self._errors == []
        self.client.drain(timeout=60)
        starts, ends = read_history(self.history)
        account = Account(
            enqueued=[handle.execution_id for handle in self.handles],
            starts=starts,
            ends=ends,
            moves=audit.moves(self.engine),
            finals=audit.finals(self.engine),
        )
        problems = check(account).problems
        assert not problems, "\n".join(problems[:20])

    def __enter__(self) -> Load:
        for executor in self.executors:
            executor.start()
        self._caller.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._ending.set()
        for executor in [*self.executors, self.client]:
            executor.shutdown(timeout=1)
        self.engine.dispose()


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HISTORY", str(tmp_path / "history.jsonl"))
    return tmp_path


@pytest.mark.timeout(150)
def test_results_held_in_memory_outlive_a_short_outage(server_and_url: tuple[Server, str], history: Path) -> None:
    """A server that is killed and comes back within the lease costs nothing: what had been computed is recorded."""
    server, url = server_and_url
    with Load(url, history, lease=20) as load:
        load.wait_until_half_done()
        server.kill()
        wait_until(lambda: not any(background.attempts.running() for background in load.backgrounds), 10)
        held = load.held()
        assert held, "nothing was held in memory: the outage came at a bad moment"
        server.start()
        load.finish()
        finals = {final.execution_id: final.output for final in audit.finals(load.engine)}
        assert {execution_id: finals[execution_id] for execution_id in held} == held


@pytest.mark.timeout(150)
def test_an_outage_longer_than_the_lease_is_waited_out(server_and_url: tuple[Server, str], history: Path) -> None:
    """However long the server is away, executors carry on by themselves, and nothing is lost or recorded twice."""
    server, url = server_and_url
    with Load(url, history, lease=1) as load:
        load.wait_until_half_done()
        server.kill()
        wait_until(lambda: all(background.lease.remaining < -0.5 for background in load.backgrounds), 15)
        server.start()
        load.finish()


def test_a_result_outlives_an_interrupt_of_its_recording(sqlite_url: str, history: Path) -> None:
    """An interrupt that ends SQLite's whole transaction, savepoints and all, has the result recorded again."""
    interrupted: list[str] = []

    def interrupt_first(_c: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        is_first = not interrupted and re.search(r"UPDATE durable_executions SET .*run_output", statement) is not None
        if is_first:
            interrupted.append(statement)
        cursor.connection.set_progress_handler((lambda: 1) if is_first else None, 1)

    event.listen(Engine, "before_cursor_execute", interrupt_first)
    try:
        with DurableExecutor(sqlite_url, tasks=worker.registry, poll_interval=0.1) as executor:
            ended = executor.enqueue(worker.work, 0.0).wait(timeout=20)
    finally:
        event.remove(Engine, "before_cursor_execute", interrupt_first)
    assert interrupted
    assert (ended.status, ended.error) == (ExecutionStatus.COMPLETED, None)


@pytest.mark.parametrize("reads", [True, False])
def test_a_connection_lost_while_it_is_made_ready_is_let_go(database_url: str, reads: bool) -> None:
    """A connection that ends before its first use is not kept, however often that happens."""
    executor = DurableExecutor(database_url)
    executor.migrate()
    connections = executor._desk.prepared_storage().database.connections
    connections.close_idle()

    def lose(*_: Any) -> None:
        raise ConnectionError

    event.listen(connections.engine, "connect", lose, insert=True)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            connections.take("peek", reads=reads)
    assert connections.raw_connections() == []
    event.remove(connections.engine, "connect", lose)
    connections.give_back(connections.take("peek", reads=reads), broken=False)
    assert len(connections.raw_connections()) == 1
    executor.shutdown(timeout=0)


@pytest.mark.parametrize("reads", [True, False])
def test_a_kept_connection_that_has_died_frees_its_place(database_url: str, reads: bool) -> None:
    """What was kept for the next use and died meanwhile takes up no place in the pool once it is closed."""
    executor = DurableExecutor(database_url)
    executor.migrate()
    database = executor._desk.prepared_storage().database
    connections = database.connections
    lent = connections.take("peek", reads=reads)
    connections.give_back(lent, broken=False)
    database.dialect.cut(lent.raw)
    connections.close_ready()
    assert connections.in_use == 0
    executor.shutdown(timeout=0)
