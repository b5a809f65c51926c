"""A process that is stopped for longer than its lease, and goes on."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor, ExecutionStatus, TaskHandle
from tests.crashes import audit, worker
from tests.crashes.checker import Account, check, read_history
from tests.crashes.processes import Worker, Workers, history_in, wait_for_text
from tests.waiting import wait_until

LEASE = "1"


class Suspended:
    """Worker `first` is stopped in its first attempt until `second` has completed the execution."""

    def __init__(self, url: str, folder: Path, *options: str) -> None:
        self.folder = folder
        self.go = folder / "go"
        self.engine = create_engine(url, poolclass=NullPool)
        self.executor = DurableExecutor(url, tasks=worker.registry)
        self.executor.migrate()
        audit.install(self.engine)
        self.workers = Workers(url, folder)
        self.first = self.workers.start("--lease", LEASE, "--queues", "default,first", *options)
        self.handle = self.executor.enqueue(worker.first_waits_for, str(self.go))
        wait_until(lambda: history_in(folder).exists() and history_in(folder).read_text(), 15, lambda: self.first.log)
        wait_until(self._stop_the_first, 15)
        self.second = self.workers.start("--lease", LEASE)
        self.execution = self.handle.wait(timeout=15)

    def _stop_the_first(self) -> bool:
        """False if it was inside a write transaction: on SQLite nobody else could work then, whoever was to blame."""
        self.first.send(signal.SIGSTOP)
        if self.engine.dialect.name != "sqlite":
            return True
        with self.engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            raw.isolation_level = None
            raw.execute("PRAGMA busy_timeout = 100")
            try:
                raw.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                self.first.send(signal.SIGCONT)
                return False
            raw.execute("ROLLBACK")
            return True

    def incarnations(self, of: Worker) -> list[bool]:
        """For each life of a worker, whether it is dead; the oldest first."""
        query = text("SELECT dead_at IS NOT NULL FROM durable_executors WHERE pid = :pid ORDER BY started_at")
        with self.engine.connect() as connection:
            return [bool(dead) for dead in connection.execute(query, {"pid": of.pid}).scalars()]

    def goes_on(self) -> None:
        """The stopped process works again, under a new incarnation."""
        wait_until(lambda: self.incarnations(self.first) == [True, False], 15, lambda: self.first.log)
        only_there: TaskHandle[str] = self.executor.enqueue(worker.work.options(queue="first"), 0.0)
        assert only_there.wait(timeout=15).status is ExecutionStatus.COMPLETED

    def check(self) -> None:
        """The execution completed once, elsewhere, and what was written first was left alone."""
        assert self.execution.status is ExecutionStatus.COMPLETED
        assert self.handle.get_execution() == self.execution
        starts, ends = read_history(history_in(self.folder))
        ours = self.handle.execution_id
        account = Account(
            enqueued=[ours],
            starts=[start for start in starts if start.execution_id == ours],
            ends=[end for end in ends if end.execution_id == ours],
            moves=[move for move in audit.moves(self.engine) if move.execution_id == ours],
            finals=[final for final in audit.finals(self.engine) if final.execution_id == ours],
        )
        assert check(account).problems == []
        assert [start.process for start in account.starts] == [self.first.name, self.second.name]

    def __enter__(self) -> Suspended:
        return self

    def __exit__(self, *details: object) -> None:
        self.workers.__exit__(None, None, None)
        self.executor.shutdown()
        self.engine.dispose()


@pytest.mark.timeout(120)
def test_what_a_suspended_process_finishes_late_is_fenced_off(database_url: str, tmp_path: Path) -> None:
    """An outcome that comes after others have recovered the execution changes nothing, and the log says so.

    The heartbeat is held back until the outcome has been refused, so that it is the fence that holds.
    """
    gate = tmp_path / "heartbeat-gate"
    with Suspended(database_url, tmp_path, "--heartbeat-gate", str(gate)) as suspended:
        gate.touch()
        suspended.go.touch()
        suspended.first.send(signal.SIGCONT)
        wait_for_text(suspended.first, "was fenced off")
        assert "WARNING durable_sync.engine.recorder" in suspended.first.log
        _starts, ends = read_history(history_in(tmp_path))
        assert len(ends) == 2, "the late attempt did not come to its end"
        gate.unlink()
        suspended.goes_on()
        suspended.check()


@pytest.mark.timeout(120)
def test_a_suspended_process_notices_and_stops_what_it_lost(database_url: str, tmp_path: Path) -> None:
    """A process that comes back after its lease stops its attempts by itself, and works on as another incarnation."""
    with Suspended(database_url, tmp_path) as suspended:
        suspended.first.send(signal.SIGCONT)
        wait_for_text(suspended.first, "was lost")
        suspended.goes_on()
        wait_until(
            lambda: "fenced off" in suspended.first.log or "nothing written" in suspended.first.log,
            15,
            lambda: suspended.first.log,
        )
        _starts, ends = read_history(history_in(tmp_path))
        assert len([end for end in ends if end.execution_id == suspended.handle.execution_id]) == 1
        suspended.check()
