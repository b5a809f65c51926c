"""A user's engine with an isolation level and a small pool of its own, which tasks and callers compete for."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from durable_sync import DurableExecutor, TaskCall, TaskHandle
from tests.faults import borrowers
from tests.faults.borrowers import borrow
from tests.faults.figures import database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.workload import EXPECTED, mixture, registry

THREADS = 16
LEASE = 3.0
POOL = {"pool_size": 2, "max_overflow": 0}


@pytest.fixture(params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, empty database on a server."""
    url: str = request.getfixturevalue({"postgresql": "postgres_url", "mariadb": "mariadb_url"}[request.param])
    return url


@define
class Callers:
    """Threads that enqueue, by themselves and within transactions of their own, and wait, cancel and look."""

    executor: DurableExecutor
    engine: Engine
    enqueued: list[str] = field(factory=list)
    may_be_cancelled: list[str] = field(factory=list)
    cancelled: list[str] = field(factory=list)
    errors: list[BaseException] = field(factory=list)
    conflicts: int = 0
    """How often a transaction of the user's own failed to be serialized, which is his to try again."""

    def work(self, calls: Sequence[TaskCall[Any]]) -> None:
        """Deals the calls out to the threads, and returns when all have been enqueued."""
        threads = [threading.Thread(target=self._run, args=(calls[i::THREADS],), daemon=True) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a caller is stuck"

    def _run(self, calls: Sequence[TaskCall[Any]]) -> None:
        ways: list[Callable[[TaskCall[Any]], None]] = [self._plainly, self._within, self._in_vain, self._to_cancel]
        try:
            for way, call in zip(itertools.cycle(ways), calls, strict=False):
                way(call)
        except BaseException as error:
            self.errors.append(error)

    def _plainly(self, call: TaskCall[Any]) -> None:
        (handle,) = self.executor.enqueue_many([call])
        self.enqueued.append(handle.execution_id)
        handle.get_execution()

    def _within(self, call: TaskCall[Any]) -> None:
        while True:
            try:
                with Session(self.engine) as session, session.begin():
                    (handle,) = self.executor.using(session).enqueue_many([call])
                break
            except DBAPIError as error:
                if not _is_conflict(error):
                    raise
                self.conflicts += 1
        self.enqueued.append(handle.execution_id)

    def _in_vain(self, call: TaskCall[Any]) -> None:
        with Session(self.engine) as session:
            self.executor.using(session).enqueue_many([call])
            session.rollback()
        self._plainly(call)

    def _to_cancel(self, call: TaskCall[Any]) -> None:
        (handle,) = self.executor.enqueue_many([call])
        self.enqueued.append(handle.execution_id)
        self._cancel(handle)

    def _cancel(self, handle: TaskHandle[Any]) -> None:
        self.may_be_cancelled.append(handle.execution_id)
        if handle.cancel():
            self.cancelled.append(handle.execution_id)


def _is_conflict(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in {"40001", "40P01"} or error.orig.args[0] in {1213, 1205, 1020}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_users_engine(server_url: str, level: str, tmp_path: Path) -> None:
    """Whatever a user's engine is set to, and however its pool is fought for, nobody loses a lease or sees an error."""
    options = json.dumps({"isolation_level": level, **POOL})
    # First those that keep the few connections busy, so long that whoever else needs one waits beyond a lease.
    calls = [*[borrow.bind(0.75)] * size(full=320, short=40), *mixture(size(full=5_400, short=240), 0.01)]
    with Laboratory(server_url, tmp_path, lease=LEASE, max_workers=THREADS) as laboratory:
        for _ in range(size(full=4, short=2)):
            laboratory.start_with("--engine", options)
        engine = borrowers.make_engine(server_url, options)
        client = DurableExecutor(engine, tasks=[registry, borrowers.registry], name="client")
        callers = Callers(client, engine)
        callers.work(calls)
        laboratory.enqueued += callers.enqueued
        seconds = laboratory.settle(size(full=600.0, short=60.0))
        client.shutdown(timeout=0)
        engine.dispose()
        problems = laboratory.problems(
            cancelled=callers.cancelled,
            may_be_cancelled=callers.may_be_cancelled,
            expected={**EXPECTED, "borrow": {"completed"}},
        )
        account = laboratory.account()
        logs = [worker.log for worker in laboratory.workers.all]
    stolen = sum(move.recovers for move in account.moves)
    escaped = sum(log.count("Traceback") for log in logs)
    note(
        f"a user's engine at {level}",
        database_of(server_url),
        roots=len(callers.enqueued),
        executions=len(account.rows),
        seconds=round(seconds, 1),
        users_conflicts=callers.conflicts,
        errors=len(callers.errors) + escaped,
        stolen=stolen,
        problems=len(problems),
    )
    assert callers.errors == []
    assert problems == []
    assert stolen == 0
    assert sum(log.count("was lost") for log in logs) == 0
    assert escaped == 0, logs
