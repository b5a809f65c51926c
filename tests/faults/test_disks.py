"""The disk under the database is full for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from attrs import frozen
from sqlalchemy.exc import DBAPIError

from tests.conftest import do_without, require
from tests.faults.callers import Caller, accounted
from tests.faults.checker import check
from tests.faults.disks import Disk, MariaDBOnDisk, PostgresOnDisk
from tests.faults.figures import database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.working import working_since
from tests.faults.workload import mixture
from tests.servers import MariaDBServer, PostgresServer, Server
from tests.waiting import wait_until

LEASE = 2.0
WORKS_AGAIN = size(full=5.0, short=10.0)
FULL_FOR = (0.2, LEASE + 1.0)
"""Seconds: executors keep their leases, or lose them."""
MEGABYTES = 192
CLEAR = re.compile(r"full|No space left|connection|Connection|connect to")


@frozen
class Place:
    """A database on a small disk."""

    disk: Disk
    url: str
    repair: Callable[[], None]
    """What an operator does once there is room again: the server may have given up."""


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each kind of database, with all of its files on a disk of its own."""
    kinds: dict[str, tuple[type[Server], Callable[[Disk], Server]]] = {
        "postgresql": (PostgresServer, PostgresOnDisk),
        "mariadb": (MariaDBServer, MariaDBOnDisk),
    }
    with ExitStack() as stack:
        if request.param in kinds:
            require(kinds[request.param][0])
        disk = stack.enter_context(Disk(MEGABYTES))
        if disk.problem is not None:
            do_without(f"small disk: {disk.problem}; run as root")
        if request.param == "sqlite":
            yield Place(disk, f"sqlite:///{disk.path / 'durable.db'}", lambda: None)
            return
        server = stack.enter_context(kinds[request.param][1](disk))
        yield Place(disk, server.create_database(), lambda: None if server.is_running else server.restart())


@pytest.mark.timeout(size(full=900, short=180))
def test_disk_full(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are told; once there is room, every executor works on by itself, and nothing is lost."""
    # In the short form, callers are told sooner.
    monkeypatch.setattr("durable_sync.desk.CALLER_PATIENCE", size(full=10.0, short=1.0))
    freed: list[float] = []
    with Laboratory(place.url, tmp_path, lease=LEASE) as laboratory, Caller(place.url, pause=0.02) as caller:
        workers = [laboratory.start() for _ in range(3)]
        wait_until(lambda: len(working_since(laboratory, 0)) == len(workers), 20, "every process works")
        # MariaDB keeps so much room for itself that it does not feel a full disk each time.
        for number in range(size(full=2 if "mysql" in place.url else 10, short=2)):
            laboratory.enqueue(mixture(size(full=800, short=160), 0.02))
            fill(place.disk, caller)
            time.sleep(FULL_FOR[number % 2])  # the length of the fault
            place.disk.clear()
            place.repair()
            freed.append(time.monotonic())
            wait_until(lambda: len(working(place, laboratory, freed[-1])) == len(workers), 30, "every process works")
            caller.go_on(acknowledged=5)
        caller.stop()
        laboratory.settle(120.0)
        account = accounted(laboratory.account(), [caller])
        problems = check(account)
        slowest = max(max(working_since(laboratory, since).values()) for since in freed)
        restarted = sum(not worker.is_alive() for worker in workers)
        errors = [line for worker in workers for line in worker.log.splitlines() if line.startswith("ERROR")]
    unclear = [
        error for error in caller.errors if not (isinstance(error, DBAPIError) and CLEAR.search(str(error.orig)))
    ]
    note(
        "disk_full",
        database_of(place.url),
        times=len(freed),
        executions=len(account.rows),
        acknowledged=len(account.enqueued),
        refused=len(caller.errors),
        works_again=round(slowest, 2),
        restarted=restarted,
        problems=len(problems),
    )
    assert problems == []
    assert errors == []
    assert unclear == []
    assert restarted == 0
    assert slowest <= WORKS_AGAIN


def working(place: Place, laboratory: Laboratory, since: float) -> dict[str, float]:
    """As `working_since`; none while the server can't be asked, which is looked after."""
    try:
        return working_since(laboratory, since)
    except DBAPIError:
        place.repair()
        return {}


def fill(disk: Disk, caller: Caller) -> None:
    """Fills the disk, and keeps it full, until the caller has been told so."""
    before = len(caller.errors)

    def told() -> bool:
        disk.fill()
        return len(caller.errors) > before

    # MariaDB waits for room, until the connection is cut.
    wait_until(told, 120, "an error for the caller")
