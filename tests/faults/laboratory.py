"""A run of the laboratory: a database with logs, worker processes that do the work, and the checker at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from attrs import evolve
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor, TaskCall
from tests.crashes.checker import Crash
from tests.crashes.processes import Worker, Workers, history_in
from tests.faults import audit, history
from tests.faults.checker import Account, check
from tests.faults.workload import registry

__all__ = ["Laboratory"]


def offset_of(engine: Engine) -> float:
    """What to add to the monotonic clock, in microseconds, for the database's time, by the quickest of some looks."""
    looks: list[tuple[float, float]] = []
    for _ in range(5):
        before = time.monotonic()
        told = audit.now(engine)
        after = time.monotonic()
        looks.append((after - before, told - (before + after) / 2 * 1e6))
    return min(looks)[1]


class Laboratory:
    """One database and its processes. `options` are those of the processes' executors."""

    def __init__(self, url: str, folder: Path, *, mutant: str | None = None, **options: Any) -> None:
        self.url = url
        self.folder = folder
        self.options = {"lease": 2.0, "max_workers": 4, **options}
        self.mutant = mutant
        self.engine: Engine = create_engine(url, poolclass=NullPool)
        self.executor = DurableExecutor(url, tasks=registry, name="laboratory")
        self.executor.migrate()
        audit.install(self.engine)
        self.clock_offset = offset_of(self.engine)
        """What to add to the monotonic clock, in microseconds, for the database's time."""
        self.workers = Workers(url, folder, "tests.faults.worker")
        self.enqueued: list[str] = []
        self.resigned: list[str] = []
        """Leases that the test itself gave back."""
        self.cancelled: list[str] = []
        self.may_be_cancelled: list[str] = []
        self.arguments: list[str] = []
        """Further arguments of each process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: Any) -> None:
        self.workers.__exit__(*details)
        self.executor.shutdown(timeout=0)
        self.engine.dispose()

    def enqueue(self, calls: Iterable[TaskCall[Any]]) -> list[str]:
        """Enqueues, and remembers what; returns the ids."""
        ids = [handle.execution_id for handle in self.executor.enqueue_many(calls)]
        self.enqueued += ids
        return ids

    def start(self, **options: Any) -> Worker:
        """Starts a worker process, with further options of its executor."""
        return self.start_with(**options)

    def start_with(self, *arguments: str, **options: Any) -> Worker:
        """The same, with further arguments of the process."""
        more = [*self.arguments, *([] if self.mutant is None else ["--mutant", self.mutant])]
        return self.workers.start("--options", json.dumps({**self.options, **options}), *more, *arguments)

    def replace_dead(self) -> None:
        """Starts a new process for each that has died."""
        for worker in [worker for worker in self.workers.all if not worker.is_alive()]:
            self.workers.all.remove(worker)
            self.start()

    def run(self, *, every: float, disturb: Callable[[], object], deadline: float, patience: float = 60.0) -> float:
        """Disturbs every so many seconds until `deadline` seconds have passed or all has finished; returns the seconds.

        After the deadline what is left has `patience` seconds to finish undisturbed.
        """
        started = time.monotonic()
        while self._unfinished() and time.monotonic() - started < deadline:
            # The rhythm of the disturbance, not a wait for something.
            time.sleep(every)
            disturb()
        return time.monotonic() - started + self.settle(patience)

    @property
    def history(self) -> Path:
        """The file that the processes write to."""
        return history_in(self.folder)

    def settle(self, patience: float) -> float:
        """Waits until all has finished, or for `patience` seconds: the checker tells what is left."""
        started = time.monotonic()
        while self._unfinished() and time.monotonic() - started < patience:
            time.sleep(0.1)
        return time.monotonic() - started

    def _unfinished(self) -> int:
        try:
            return audit.unfinished(self.engine)
        except Exception:
            # The database is away.
            return 1

    def account(self, **changes: Any) -> Account:
        """All that is known now."""
        told = history.read(self.history)
        account = Account(
            enqueued=[*self.enqueued, *told.told.get("enqueued", [])],
            history=told,
            moves=audit.moves(self.engine),
            lease_changes=[change for change in audit.lease_changes(self.engine) if change.owner not in self.resigned],
            rows=audit.rows(self.engine),
            cancelled=list(self.cancelled),
            may_be_cancelled=list(self.may_be_cancelled),
            clock_offset=self.clock_offset,
        )
        return evolve(account, **changes)

    def recoveries(self, crashes: Sequence[Crash]) -> list[float]:
        """Seconds from each crash until each execution that the process had claimed was taken from it."""
        account = self.account()
        processes = {change.owner: change.process for change in account.lease_changes}
        died = {crash.process: crash.at for crash in crashes}
        return [
            (move.at - self.clock_offset) / 1e6 - died[processes[move.old_owner]]
            for move in account.moves
            if move.recovers and move.old_owner in processes and processes[move.old_owner] in died
        ]

    def problems(self, **changes: Any) -> list[str]:
        """What the checker says."""
        return check(self.account(**changes))
