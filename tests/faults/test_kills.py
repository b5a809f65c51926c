"""Processes that are killed, and suspended, while they work."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from tests.crashes.checker import Crash
from tests.crashes.processes import Worker
from tests.faults import audit
from tests.faults.callers import unacknowledged
from tests.faults.checker import check
from tests.faults.figures import IS_FULL, LENIENCE, database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.working import working_since
from tests.faults.workload import mixture
from tests.waiting import wait_until

LEASE = 2.0
REFUSALS = ("was fenced off", "taken over; nothing written")
"""What a process says of an outcome that came too late."""


def test_kills(database_url: str, tmp_path: Path) -> None:
    """Four processes, one of which is killed every second: nothing is lost, nothing ends twice, recovery is prompt."""
    crashes: list[Crash] = []
    enqueues = size(full=60, short=3)
    with Laboratory(database_url, tmp_path, lease=LEASE) as laboratory:

        def kill(*workers: Worker) -> None:
            crashes.extend(worker.kill() for worker in workers)
            laboratory.replace_dead()

        def kill_one() -> None:
            kill(random.choice(laboratory.workers.all))

        # While there is no backlog, what they enqueue themselves is claimed as it is enqueued.
        laboratory.arguments = ["--enqueues", "1000"]
        for _ in range(4):
            laboratory.start()
        for _ in range(enqueues):
            time.sleep(1.0)  # the rhythm of the fault
            kill_one()
        # None that enqueues is left, or what it enqueues while the account is drawn up would be held against it.
        laboratory.arguments = []
        kill(*laboratory.workers.all)
        ids = laboratory.enqueue(mixture(size(full=10_000, short=800), 0.02))

        seconds = laboratory.run(every=1.0, disturb=kill_one, deadline=size(full=600.0, short=30.0))
        account = unacknowledged(laboratory.account())
        problems = check(account)
        recoveries = laboratory.recoveries(crashes)
        directly = sum(move.old_status == "absent" for move in account.moves)
    slowest = max(recoveries, default=0.0)
    name = database_of(database_url)
    note(
        "kills",
        name,
        roots=len(ids),
        executions=len(account.rows),
        claimed_as_enqueued=directly,
        kills=len(crashes),
        seconds=round(seconds, 1),
        problems=len(problems),
        recovered=len(recoveries),
        slowest_recovery=round(slowest, 2),
    )
    assert problems == []
    assert directly > 0
    assert recoveries, "nothing was ever taken over"
    assert slowest <= LEASE + (4.0 if name == "SQLite" else 1.0) + LENIENCE


def test_suspensions(database_url: str, tmp_path: Path) -> None:
    """A process that is suspended beyond its lease, and goes on, gets none of its stale outcomes in."""
    times = size(full=100, short=4)
    suspended: list[Worker] = []
    with Laboratory(database_url, tmp_path, lease=1.0) as laboratory:
        for _ in range(3):
            laboratory.start()

        def suspend_one() -> None:
            since = time.monotonic()
            laboratory.enqueue(mixture(80, 0.3)[:40])
            chosen = random.choice(laboratory.workers.all)
            wait_until(lambda: chosen.name in working_since(laboratory, since), 30, "it works")
            before = taken(laboratory)
            chosen.send(signal.SIGSTOP)
            suspended.append(chosen)
            # Longer than the lease, so that others take its work; the length itself is the fault.
            time.sleep(random.uniform(1.3, 2.0))
            # In the short form each time counts; but who is stopped with SQLite's lock keeps all others from his work.
            deadline = time.monotonic() + (0.0 if IS_FULL else 5.0)
            while taken(laboratory) <= before and time.monotonic() < deadline:
                time.sleep(0.1)
            chosen.send(signal.SIGCONT)

        for _ in range(times):
            suspend_one()
        laboratory.settle(120.0)
        problems = laboratory.problems()
        lost = sum(worker.log.count("was lost") for worker in laboratory.workers.all)
        recovered = taken(laboratory)
        stale = stale_ends(laboratory)
        refused = sum(worker.log.count(words) for worker in laboratory.workers.all for words in REFUSALS)
    note(
        "suspensions",
        database_of(database_url),
        suspensions=times,
        leases_lost=lost,
        recovered=recovered,
        stale_ends=stale,
        refused=refused,
        problems=len(problems),
    )
    assert problems == []
    assert recovered > 0
    # The checker has seen that none of them got in; here is that there were some, and that they were told of.
    assert stale > 0
    assert refused > 0


def stale_ends(laboratory: Laboratory) -> int:
    """How many attempts came to their end after their execution had been taken from them."""
    account = laboratory.account()
    taken_at = account.taken_at()
    ends = [((end.execution_id, end.token), account.database_time(end.at)) for end in account.history.ends]
    return sum(at > taken_at.get(claim, float("inf")) for claim, at in ends)


def taken(laboratory: Laboratory) -> int:
    """How often work was taken from an owner."""
    return sum(move.recovers for move in audit.moves(laboratory.engine))
