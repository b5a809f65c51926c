"""The main of a process that lives long: through one drop of its connections after another, or through a day.

It writes what it holds to a file, a JSON line at a time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import asdict
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor, TaskHandle
from durable_sync.engine import background, heartbeat, lease
from tests.clocks import ManualClock
from tests.faults import history
from tests.faults.holdings import Holdings
from tests.faults.workload import approval, family, flaky, plain, registry, unhurried
from tests.waiting import wait_until

__all__ = ["HOURS", "STEPS_A_LEASE", "main"]

HOURS = 24
STEPS_A_LEASE = 5

_DEAD = "durable_executors WHERE dead_at IS NOT NULL"
_DUE = "durable_executions WHERE finished_at IS NULL AND (lane IS NOT NULL OR status = 'running' OR timer_at <= :now)"


def main(arguments: Sequence[str]) -> None:
    """Lives, and ends by itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--drops", type=int, help="live through so many")
    parser.add_argument("--lease", type=float, help="live through a day, with this lease in seconds")
    options = parser.parse_args(arguments)
    logging.basicConfig(filename=options.log, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    history.instrument(Path(os.environ["HISTORY"]), os.environ["WORKER"])
    if options.drops:
        Drops(options.url, options.figures).live(options.drops)
    else:
        Day(options.url, options.lease, options.figures).live()


def tell(path: Path, **more: Any) -> None:
    """Writes down what this process holds now: the least of a few looks, for one may meet a query in the making."""
    looks = [asdict(Holdings.take()) for _ in range(3)]
    with path.open("a") as file:
        file.write(json.dumps({**{name: min(look[name] for look in looks) for name in looks[0]}, **more}) + "\n")


class Drops:
    """An executor whose connections are all dropped in each cycle, while it works."""

    def __init__(self, url: str, figures: Path) -> None:
        self._figures = figures
        self._history = Path(os.environ["HISTORY"])
        self._executor = DurableExecutor(url, tasks=registry, name="soak", max_workers=4, lease=5.0, poll_interval=0.1)
        self._engine = create_engine(url, poolclass=NullPool)

    def live(self, cycles: int) -> None:
        """Goes through so many cycles."""
        ways = [self._cut] if self._engine.dialect.name == "sqlite" else [self._cut, lambda: kill_all(self._engine)]
        with self._executor:
            for number in range(cycles):
                work = self._enqueue()
                ways[number % len(ways)]()
                work += self._enqueue()
                for handle in work:
                    handle.wait(60)
                wait_until(lambda: self._executor.running_execution_ids == frozenset(), 10)
                tell(self._figures, connections=len(self._connections()))

    def _enqueue(self) -> list[TaskHandle[Any]]:
        calls: list[Any] = [*[plain.bind(0.005)] * 20, flaky.bind(0.0), family.bind(3, 0.005)]
        handles = self._executor.enqueue_many(calls)
        for handle in handles:
            history.append(self._history, event="enqueued", execution_id=handle.execution_id)
        return handles

    def _connections(self) -> list[tuple[Any, Any]]:
        databases = [storage.database for storage in self._executor._desk._storages()]
        return [(database, raw) for database in databases for raw in database.connections.raw_connections()]

    def _cut(self) -> None:
        """As the watchdog does; again and again, because on SQLite that ends only what is under way."""
        for _ in range(10):
            for database, raw in self._connections():
                with suppress(Exception):
                    database.dialect.cut(raw)
            time.sleep(0.002)


def kill_all(engine: Engine) -> None:
    """The server ends all connections to this database but the one that asks for it."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            mine = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.execute(text(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {mine}"))
            return
        mine = "db = DATABASE() AND id <> CONNECTION_ID()"
        query = text(f"SELECT id FROM information_schema.processlist WHERE {mine}")
        for number in connection.execute(query).scalars().all():
            # It may have gone by itself.
            with suppress(Exception):
                # As it is: of what is compiled, SQLAlchemy keeps hundreds.
                connection.exec_driver_sql(f"KILL {int(number)}")


class Day:
    """Two executors that share a clock, which is moved through a day as fast as they can follow.

    Their own count of time follows it too: a lease is counted by the one clock here and by the other in the database.
    """

    def __init__(self, url: str, seconds: float, figures: Path) -> None:
        self._figures = figures
        self._clock = ManualClock()
        self._lease = seconds
        self._engine = create_engine(url)
        for module in (background, heartbeat, lease):
            module.steady_seconds = lambda: self._clock.now() / 1e6  # type: ignore[attr-defined]
        self._executors = [
            DurableExecutor(url, tasks=registry, name=name, max_workers=4, lease=seconds, clock=self._clock)
            for name in ("one", "other")
        ]

    def live(self) -> None:
        """Works through the day; then one of the two falls silent, and the other is to notice."""
        one, other = self._executors
        with one, other:
            self._enqueue(one)
            steps = round(HOURS * 3600 / self._lease * STEPS_A_LEASE)
            for number in range(steps):
                self._step(self._executors)
                if number % (steps // HOURS) == 0:
                    tell(self._figures, dead=self._count(_DEAD))
            silent = one._desk.background
            assert silent is not None
            silent.supervisor.stop()
            silent.heartbeat.stop()
            for _ in range(2 * STEPS_A_LEASE):
                self._step([other])
            tell(self._figures, dead=self._count(_DEAD))

    def _enqueue(self, executor: DurableExecutor) -> None:
        calls: list[Any] = [plain.options(delay=hour * 3600 + 17.0).bind(0.0) for hour in range(HOURS)]
        calls += [approval.options(key=f"{hour}", timeout=hour * 3600 + 29.0).bind() for hour in range(1, HOURS, 6)]
        calls += [unhurried.bind(0.0)]
        executor.enqueue_many(calls)

    def _step(self, executors: Sequence[DurableExecutor]) -> None:
        """Moves the clock, and waits until everybody has done what that calls for."""
        self._clock.advance(self._lease / STEPS_A_LEASE)
        started = [executor._desk.background for executor in executors]
        for each in started:
            assert each is not None
            for loop in (each.heartbeat, each.reaper, each.claimer):
                loop.wake()
        wait_until(
            lambda: all(_is_renewed(each.lease) for each in started if each), 30, "all leases are renewed", 0.002
        )
        wait_until(lambda: self._count(_DUE, now=self._clock.now()) == 0, 30, "all that is due is done", 0.002)

    def _count(self, what: str, **values: int) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {what}"), values).scalar_one())


def _is_renewed(held: lease.Lease) -> bool:
    return held.remaining > held.duration - held.renewal_interval
