"""The database server is killed under load, again and again, and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.conftest import require
from tests.faults.callers import Caller, accounted
from tests.faults.checker import check
from tests.faults.figures import IS_FULL, LENIENCE, database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.working import working_since
from tests.faults.workload import mixture
from tests.servers import MariaDBServer, PostgresServer, Server
from tests.waiting import wait_until

LEASE = 2.0
WORKS_AGAIN = 5.0
OUTAGES = (0.2, LEASE + 1.0)
"""Seconds that the server stays away: executors keep their leases, or lose them."""


@pytest.fixture(params=[PostgresServer, MariaDBServer], ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this test's own, which flushes to the disk in the full form."""
    require(request.param)
    with request.param(fsync=IS_FULL) as started:
        yield started


@pytest.mark.timeout(size(full=1200, short=180))
def test_servers_killed(server: Server, tmp_path: Path) -> None:
    """Whenever the server comes back, every executor works again soon, in the same process; nothing is lost."""
    url = server.create_database()
    back: list[float] = []
    in_flight: list[int] = []
    with Laboratory(url, tmp_path, lease=LEASE) as laboratory, Caller(url) as caller:
        workers = [laboratory.start() for _ in range(3)]
        wait_until(lambda: len(working_since(laboratory, 0)) == len(workers), 20, "every process works")
        for number in range(size(full=8, short=2)):
            laboratory.enqueue(mixture(size(full=320, short=80), 0.05))
            time.sleep(size(full=14.0, short=0.2))  # the rhythm of the fault
            ids = laboratory.enqueue(mixture(160, 0.05))
            wait_until(lambda: under_way(laboratory, ids), 20, "they are under way")  # noqa: B023
            in_flight.append(wait_until(lambda: running(laboratory), 20, "some are claimed", interval=0.001))
            end(server, politely=number % 2 == 1)
            time.sleep(OUTAGES[number % 2])  # the length of the fault
            server.start()
            back.append(time.monotonic())
            wait_until(lambda: len(working_since(laboratory, back[-1])) == len(workers), 30, "every process works")
        caller.stop()
        laboratory.settle(size(full=400.0, short=120.0))
        account = accounted(laboratory.account(), [caller])
        problems = check(account)
        slowest = max(max(working_since(laboratory, since).values()) for since in back)
        restarted = sum(not worker.is_alive() for worker in workers)
        errors = [line for worker in workers for line in worker.log.splitlines() if line.startswith("ERROR")]
    note(
        "servers_killed",
        database_of(url),
        kills=len(back),
        executions=len(account.rows),
        acknowledged=len(account.enqueued),
        refused=len(caller.errors),
        slowest_enqueue=round(caller.slowest, 2),
        running_at_the_kill=sum(in_flight),
        recovered=sum(move.recovers for move in account.moves),
        works_again=round(slowest, 2),
        restarted=restarted,
        problems=len(problems),
    )
    assert problems == []
    assert errors == []
    assert restarted == 0
    assert slowest <= WORKS_AGAIN + LENIENCE


def under_way(laboratory: Laboratory, ids: list[str]) -> bool:
    return not {start.execution_id for start in laboratory.account().history.starts}.isdisjoint(ids)


def running(laboratory: Laboratory) -> int:
    """How many executions are claimed now."""
    with laboratory.engine.connect() as connection:
        query = text("SELECT count(*) FROM durable_executions WHERE status = 'running'")
        return int(connection.execute(query).scalar_one())


def end(server: Server, *, politely: bool) -> None:
    """Ends the server at once: by SIGKILL, or by the signal of its own for an immediate stop, if it has one."""
    if politely:
        server.processes()[0].send_signal(server.orphan_signal)
        wait_until(lambda: not server.is_running, 20, "the immediate stop")
    server.kill()
