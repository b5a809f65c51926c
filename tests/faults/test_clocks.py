"""Wall clocks that are wrong, or are stepped: leases and due times must not care."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

import durable_sync
from durable_sync import TaskHandle
from tests.crashes.checker import Crash
from tests.crashes.processes import Worker
from tests.faults import audit, clocks, history
from tests.faults.checker import check
from tests.faults.delays import Agenda
from tests.faults.figures import database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.workload import approval, mixture, plain, stubborn
from tests.waiting import wait_until

LEASE = 2.0
TEN_MINUTES = 600.0
HOUR = 3600.0
DELAYS = (1.0, 2.5)
STOLEN = "before its lease ended"

RIGHT: Sequence[str] = ()
AHEAD = ("--clock-skew", str(TEN_MINUTES))
BEHIND = ("--clock-skew", str(-TEN_MINUTES))
BELIEVING = ("--clock-believed",)


def stepping(first: float, *, every: float, times: int) -> list[str]:
    """Arguments of a process whose clock is stepped so far, and back again by as much, and so on."""
    return [f"--clock-step={first * (-1) ** number:g}:{every * (number + 1):g}" for number in range(times)]


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.mark.timeout(600)
def test_one_ahead_one_behind(server_url: str, tmp_path: Path) -> None:
    """On a server, the clock of a process steals no lease, and starts nothing early."""
    with Laboratory(server_url, tmp_path, lease=LEASE) as laboratory:
        disturbed(laboratory, "clocks_wrong", [RIGHT, AHEAD, BEHIND])


@pytest.mark.timeout(600)
def test_steps_under_running_processes(sqlite_url: str, tmp_path: Path) -> None:
    """On SQLite, a step of an hour steals no lease, and starts nothing early, wherever and whenever it is made."""
    times = size(full=40, short=3)
    forward, back = (stepping(step, every=size(full=1.5, short=1.0), times=times) for step in (HOUR, -HOUR))
    with Laboratory(sqlite_url, tmp_path, lease=LEASE) as laboratory:
        # The second pair starts after a step. The right one is the first to come, and sets the common count of time.
        disturbed(laboratory, "clocks_stepped", [RIGHT, forward, back, ("--clock-skew", str(-HOUR))])


def disturbed(laboratory: Laboratory, fault: str, kinds: Sequence[Sequence[str]]) -> None:
    """Works in processes with these clocks, one of which is killed now and then, and judges the run."""
    agenda = Agenda(laboratory)
    crashes: list[Crash] = []
    workers = start(laboratory, kinds)
    for _ in range(size(full=20, short=2)):
        for delay in DELAYS:
            agenda.enqueue(delay)
        laboratory.enqueue(mixture(size(full=240, short=80), 0.05))
        time.sleep(size(full=2.5, short=0.5))  # the rhythm of the fault
        laboratory.enqueue([stubborn.bind(1.5)] * 16)
        doomed = wait_until(lambda: at_work(laboratory, workers), 20, "somebody is at work")
        crashes.append(doomed.kill())
        place = workers.index(doomed)
        workers[place] = laboratory.start_with(*kinds[place])
    laboratory.settle(60.0)
    account = laboratory.account()
    problems, early = check(account), agenda.too_early(account)
    recoveries = laboratory.recoveries(crashes)
    note(
        fault,
        database_of(laboratory.url),
        executions=len(account.rows),
        kills=len(crashes),
        recovered=len(recoveries),
        slowest_recovery=round(max(recoveries, default=0.0), 2),
        delayed=len(agenda),
        early=len(early),
        latest_start=round(agenda.latest(account), 2),
        stolen=sum(STOLEN in problem for problem in problems),
        problems=len(problems),
    )
    assert problems == []
    assert early == []
    assert recoveries, "nothing was ever taken over"


def at_work(laboratory: Laboratory, workers: Sequence[Worker]) -> Worker | None:
    """One of these that is in the middle of a long run."""
    told = history.read(laboratory.history)
    ended = {end.uid for end in told.ends}
    busy = {start.process for start in told.starts if start.task_id == stubborn.id and start.uid not in ended}
    found = [worker for worker in workers if worker.name in busy]
    return random.choice(found) if found else None


def start(laboratory: Laboratory, kinds: Sequence[Sequence[str]]) -> list[Worker]:
    """A process of each kind, the first of which lives before the others start."""
    workers: list[Worker] = []
    for number, kind in enumerate(kinds):
        workers.append(laboratory.start_with(*kind))
        if number in {0, len(kinds) - 1}:
            wait_until(
                lambda: lives(laboratory) >= len(workers),
                30,
                lambda: "all live:" + "".join(worker.log for worker in workers),
            )
    return workers


def lives(laboratory: Laboratory) -> int:
    """How many incarnations have been registered so far."""
    with laboratory.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM durable_executors").scalar_one())


def test_belief_in_clocks_is_caught(database_url: str, tmp_path: Path) -> None:
    """The control: a library that goes by its process's clock steals, and starts early, and the judges say so."""
    with Laboratory(database_url, tmp_path, lease=LEASE) as laboratory:
        agenda = Agenda(laboratory)
        start(laboratory, [BELIEVING, [*BELIEVING, *stepping(HOUR, every=1.0, times=1)]])
        laboratory.enqueue([plain.bind(0.5)] * 40)
        agenda.enqueue(30.0)
        wait_until(lambda: agenda.too_early(laboratory.account()), 30, "something is started early")
        wait_until(lambda: any(STOLEN in problem for problem in laboratory.problems()), 30, "a lease is stolen")


def test_a_step_back_after_the_last_process_died(sqlite_url: str, tmp_path: Path) -> None:
    """What a dead process held is recovered as soon as another lives, though the wall clock was set back meanwhile."""
    with Laboratory(sqlite_url, tmp_path, lease=LEASE) as laboratory:
        laboratory.enqueue([plain.bind(30.0)])
        doomed = laboratory.start()
        wait_until(lambda: laboratory.account().history.starts, 20, "the work is under way")
        doomed.kill()
        wait_until(lambda: not anybody_alive(laboratory), 10, "its lease has ended")
        before = time.monotonic()
        laboratory.start_with("--clock-skew", str(-HOUR))
        wait_until(lambda: len(laboratory.account().history.starts) == 2, 20, "the work is started again")
        assert time.monotonic() - before < LEASE + 4.0


def enqueued(laboratory: Laboratory) -> TaskHandle[str]:
    return laboratory.executor.enqueue(plain.options(delay=DELAYS[0]), 0.0)


def enqueued_within(laboratory: Laboratory) -> TaskHandle[str]:
    with laboratory.engine.begin() as connection:
        return laboratory.executor.using(connection).enqueue(plain.options(delay=DELAYS[0]), 0.0)


def put_to_sleep(laboratory: Laboratory) -> TaskHandle[str]:
    return laboratory.executor.enqueue(approval.options(key="slept", timeout=DELAYS[0]))


@pytest.mark.parametrize("way", [enqueued, enqueued_within, put_to_sleep])
@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_step_under_a_caller(
    sqlite_url: str, tmp_path: Path, step: float, way: Callable[[Laboratory], TaskHandle[str]]
) -> None:
    """A caller that has lived through a step is understood by the processes that were started after it."""
    with Laboratory(sqlite_url, tmp_path, lease=LEASE) as laboratory:
        # The caller knows the time before anybody has agreed on it.
        laboratory.enqueue([plain.bind(0.0)])
        laboratory.start_with("--clock-skew", str(step))
        laboratory.settle(20.0)
        asked_at = audit.now(laboratory.engine)
        handle = way(laboratory)
        handle.wait(20)
        moved_at = min(move.at for move in laboratory.account().moves if move.execution_id == handle.execution_id)
    assert moved_at - asked_at >= (DELAYS[0] - 0.02) * 1e6


def woken(handle: TaskHandle[str], laboratory: Laboratory) -> None:
    laboratory.executor.wake(approval, "slept", output="yes")


def cancelled(handle: TaskHandle[str], laboratory: Laboratory) -> None:
    assert handle.cancel()


@pytest.mark.parametrize("ended", [woken, cancelled])
def test_what_a_caller_ends_after_a_step(
    sqlite_url: str, tmp_path: Path, ended: Callable[[TaskHandle[str], Laboratory], None]
) -> None:
    """What a wake or a cancel writes, and sets off, is timed as the processes count that have agreed since."""
    with Laboratory(sqlite_url, tmp_path, lease=LEASE) as laboratory:
        handle = laboratory.executor.enqueue(approval.options(key="slept"))
        laboratory.start_with("--clock-skew", str(HOUR))
        wait_until(lambda: lives(laboratory), 20, "somebody has agreed on the time")
        ended(handle, laboratory)
        finished_at = handle.wait(20).finished_at
    assert finished_at is not None
    assert abs((finished_at - datetime.now(UTC)).total_seconds() - HOUR) < 60.0


def anybody_alive(laboratory: Laboratory) -> bool:
    with laboratory.engine.connect() as connection:
        latest = connection.exec_driver_sql("SELECT max(lease_expires_at) FROM durable_executors").scalar_one()
    return bool(latest >= audit.now(laboratory.engine))


def test_the_rig_covers_every_clock() -> None:
    """The library reads no clock but those that the rig sets wrong, or knows to be deaf to the wall clock."""
    package = Path(durable_sync.__file__).parent
    reads = re.compile(r"\b(?:time\.[a-z_]+(?=\()|(?:datetime|date)\.(?:now|utcnow|today)\b|from time import\b)")
    found = {
        read for path in package.rglob("*.py") if path.parent.name != "demo" for read in reads.findall(path.read_text())
    }
    assert found <= clocks.READS
