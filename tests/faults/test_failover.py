"""The primary of a replicated PostgreSQL dies under load, and its replica takes over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

from tests.conftest import do_without, require
from tests.faults.callers import Caller, accounted
from tests.faults.checker import check
from tests.faults.figures import IS_FULL, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.replication import Pair
from tests.faults.working import working_since
from tests.faults.workload import mixture
from tests.servers import PostgresServer
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(size(full=900, short=180))

LEASE = 2.0
LOST = "lost: it was enqueued, and there is no row of it"


@pytest.fixture(autouse=True)
def _replicas() -> None:
    require(PostgresServer)
    if not Pair.is_available():
        do_without("replica: this PostgreSQL has no pg_basebackup; apt-get install postgresql")


def test_synchronous(tmp_path: Path) -> None:
    """What was acknowledged before the primary died is there on the replica, and is finished, once."""
    run = fail_over(tmp_path, synchronous=True, failovers=size(full=5, short=1))
    run.note("failover_synchronous")
    assert run.problems == []


def test_synchronous_and_held_back(tmp_path: Path) -> None:
    """While the replica gets nothing, nothing is acknowledged: so nothing is lost."""
    run = fail_over(tmp_path, synchronous=True, before=_wait_in_vain)
    run.note("failover_synchronous_held_back")
    assert run.problems == []


def test_asynchronous(tmp_path: Path) -> None:
    """The control: what the primary acknowledges before the replica has it is lost, and the checker says so."""
    run = fail_over(tmp_path, synchronous=False, before=_go_on_alone)
    run.note("failover_asynchronous")
    assert any(LOST in problem for problem in run.problems), run.problems


def _wait_in_vain(pair: Pair, caller: Caller) -> None:
    pair.hold_back()
    before = len(caller.acknowledged)
    time.sleep(1.0)  # the length of the fault
    # One answer may have been on its way.
    assert len(caller.acknowledged) <= before + 1


def _go_on_alone(pair: Pair, caller: Caller) -> None:
    pair.hold_back()
    caller.go_on(20)


@frozen
class Run:
    """What came of it."""

    problems: list[str]
    failovers: int
    acknowledged: int
    refused: int
    executions: int
    works_again: float
    """Seconds from the replica's promotion until every process had started something new, at worst."""
    slowest_enqueue: float

    def note(self, fault: str) -> None:
        note(
            fault,
            "PostgreSQL",
            failovers=self.failovers,
            acknowledged=self.acknowledged,
            refused=self.refused,
            executions=self.executions,
            works_again=round(self.works_again, 2),
            slowest_enqueue=round(self.slowest_enqueue, 2),
            lost=sum(LOST in problem for problem in self.problems),
            problems=len(self.problems),
        )


def fail_over(
    folder: Path,
    *,
    synchronous: bool,
    failovers: int = 1,
    before: Callable[[Pair, Caller], None] = lambda _pair, _caller: None,
) -> Run:
    """Works and enqueues through failovers; `before` is done just before the primary dies."""
    works_again = []
    with (
        Pair(synchronous=synchronous, fsync=IS_FULL) as pair,
        Laboratory(pair.create_database(), folder, lease=LEASE) as laboratory,
        Caller(laboratory.url) as caller,
    ):
        workers = [laboratory.start() for _ in range(3)]
        for number in range(failovers):
            if number:
                pair.rejoin()
            laboratory.enqueue(mixture(size(full=320, short=80), 0.05))
            caller.go_on(size(full=200, short=20))
            # So that there is work under way when it happens.
            laboratory.enqueue(mixture(160, 0.05))
            before(pair, caller)
            pair.fail_over()
            promoted = time.monotonic()
            wait_until(lambda: len(working_since(laboratory, promoted)) == len(workers), 30, "every process works")  # noqa: B023
            works_again.append(max(working_since(laboratory, promoted).values()))
        caller.go_on(5)
        caller.stop()
        laboratory.settle(size(full=400.0, short=120.0))
        account = accounted(laboratory.account(), [caller])
        assert all(worker.is_alive() for worker in workers)
    return Run(
        check(account),
        failovers,
        len(account.enqueued),
        len(caller.errors),
        len(account.rows),
        max(works_again),
        caller.slowest,
    )
