"""A sweep: one COMMIT after another of a scenario is spoiled."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import audit
from tests.faults.figures import database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.sweep import MODES
from tests.faults.workload import approval, endless
from tests.waiting import wait_until

LEASE = 3.0


@pytest.mark.timeout(3600)
def test_each_commit(database_url: str, tmp_path: Path) -> None:
    """Wherever the process dies, or an answer is lost, everything ends as it should, once."""
    points = 0
    forgotten: list[str] = []
    with Laboratory(database_url, tmp_path, lease=LEASE) as laboratory:
        for mode in MODES:
            places = iter(size(full=range(1, 10_000), short=sorted(random.sample(range(1, 40), 3))))
            while live_through(laboratory, next(places, 0), mode, forgotten):
                points += 1
        account = laboratory.account()
        told = account.history.told
        roots = {row.id for row in account.rows if row.parent_id is None}
        problems = laboratory.problems(
            enqueued=roots | set(told.get("enqueued", [])),
            cancelled=told.get("cancelled", []),
            may_be_cancelled=told.get("cancels", []),
        )
    note(
        "commits",
        database_of(database_url),
        points=points,
        executions=len(account.rows),
        acknowledged={what: len(told.get(what, [])) for what in ("enqueued", "woken", "cancelled")},
        forgotten=len(forgotten),
        problems=len(problems),
    )
    assert problems == []
    assert forgotten == []
    assert all(told[what] for what in ("enqueued", "woken", "cancelled"))


def live_through(laboratory: Laboratory, place: int, mode: str, forgotten: list[str]) -> bool:
    """One life with that COMMIT spoiled, and what others make of it; False if there was no such COMMIT.

    Adds to `forgotten` what was acknowledged in it and was not so when it was over.
    """
    if not place:
        return False
    point = f"{mode}-{place}"
    reached = laboratory.folder / point
    doomed = laboratory.start_with("--spoil", f"{place}:{mode}:{reached}", "--scenario", point)
    code = doomed.wait(60)
    laboratory.workers.all.remove(doomed)
    was_reached = reached.exists()
    assert code == (-9 if was_reached and mode != "lost" else 0), (point, code, doomed.log)
    # Before others do the same once more, which would hide it.
    forgotten += [f"{point}: {what}" for what in broken_words(laboratory)]
    finish(laboratory, point)
    return was_reached


def broken_words(laboratory: Laboratory) -> list[str]:
    """What was acknowledged to somebody so far, and is not so."""
    told = laboratory.account().history.told
    statuses = {row.id: row.status for row in audit.rows(laboratory.engine)}
    wanted = {"woken": "completed", "cancelled": "cancelled"}
    return [
        f"{name} was acknowledged as {what}, and is {statuses.get(name, 'not there')}"
        for what in ("enqueued", "woken", "cancelled")
        for name in told.get(what, [])
        if name not in statuses or statuses[name] != wanted.get(what, statuses[name])
    ]


def finish(laboratory: Laboratory, point: str) -> None:
    """Another process goes on; the test cancels what was to be cancelled, and wakes what sleeps."""
    bury_the_dead(laboratory)
    heir = laboratory.start()
    wait_until(lambda: nudge(laboratory, point) == 0, 60, f"the end of all after {point}", interval=0.05)
    heir.kill()
    laboratory.workers.all.remove(heir)


def bury_the_dead(laboratory: Laboratory) -> None:
    """Marks the leases dead that nobody renews any more: to wait for their end would take most of the sweep's time."""
    with laboratory.engine.connect() as connection:
        names = connection.exec_driver_sql("SELECT id FROM durable_executors WHERE dead_at IS NULL").scalars().all()
    for name in names:
        laboratory.executor._desk.storage.resign(name)
        laboratory.resigned.append(name)


def nudge(laboratory: Laboratory, point: str) -> int:
    """Does what the dead process can't do any more; returns how many are unfinished."""
    unfinished = [row for row in audit.rows(laboratory.engine) if row.finished_at is None]
    for row in unfinished:
        if row.parent_id is None and row.task_id in {"endless", "endless_family"}:
            laboratory.executor.get_handle(endless, row.id).cancel()
        if row.status == "sleeping":
            laboratory.executor.wake(approval, point, output=point)
    return len(unfinished)
