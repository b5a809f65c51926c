"""The storm itself: worker processes, one of which is killed every second, while tasks run."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from attrs import frozen
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor
from tests.crashes import audit, worker
from tests.crashes.checker import Account, Crash, Verdict, check, read_history
from tests.crashes.processes import Worker, Workers, history_in

LEASE = 2.0


@frozen(kw_only=True)
class Storm:
    """How hard it blows."""

    tasks: int = 2000
    seconds_a_task: float = 0.05
    processes: int = 3
    workers: int = 4
    kill_every: float = 1.0
    suspensions: float = 0.0
    """How likely, at each kill, another process is suspended for longer than its lease."""
    deadline: float = 90.0

    def blow(self, url: str, folder: Path) -> tuple[Verdict, list[Crash], float]:
        """Runs it; returns what the checker says, the crashes, and the seconds it took."""
        engine = create_engine(url, poolclass=NullPool)
        executor = DurableExecutor(url, tasks=worker.registry)
        executor.migrate()
        audit.install(engine)
        handles = executor.enqueue_many([worker.work.bind(self.seconds_a_task) for _ in range(self.tasks)])
        started = time.monotonic()
        crashes = self._kill_until_done(url, folder, engine)
        took = time.monotonic() - started
        starts, ends = read_history(history_in(folder))
        account = Account(
            enqueued=[handle.execution_id for handle in handles],
            starts=starts,
            ends=ends,
            moves=audit.moves(engine),
            finals=audit.finals(engine),
            crashes=crashes,
            recovery_limit=self._recovery_limit(engine),
        )
        engine.dispose()
        executor.shutdown()
        return check(account), crashes, took

    def _recovery_limit(self, engine: Engine) -> float:
        if self.suspensions:
            # Who is suspended inside a transaction keeps its locks; on SQLite nobody else can work then.
            return float("inf")
        return LEASE + (4.0 if engine.dialect.name == "sqlite" else 2.0)

    def _kill_until_done(self, url: str, folder: Path, engine: Engine) -> list[Crash]:
        options = ("--lease", str(LEASE), "--workers", str(self.workers))
        crashes: list[Crash] = []
        suspended: dict[Worker, float] = {}
        deadline = time.monotonic() + self.deadline
        with Workers(url, folder) as workers:
            for _ in range(self.processes):
                workers.start(*options)
            while left := audit.unfinished(engine):
                if time.monotonic() > deadline:
                    raise AssertionError(f"{left} executions have not finished after {self.deadline:g} s")
                # The rhythm of the storm, not a wait for something.
                time.sleep(self.kill_every)
                victim = random.choice(workers.all)
                crashes.append(victim.kill())
                workers.restart_dead(*options)
                self._suspend(workers, suspended)
        return crashes

    def _suspend(self, workers: Workers, suspended: dict[Worker, float]) -> None:
        now = time.monotonic()
        for stopped, until in list(suspended.items()):
            if now >= until:
                stopped.send(signal.SIGCONT)
                del suspended[stopped]
        if not suspended and random.random() < self.suspensions:
            chosen = random.choice(workers.all)
            chosen.send(signal.SIGSTOP)
            suspended[chosen] = now + LEASE * random.uniform(1.0, 2.0)
