"""Processes killed while trees grow and end: at a moment held open beside a COMMIT, and in a storm."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from durable_sync import ChildrenFailedError, DurableExecutor, LoopResult, TaskHandle
from tests import families
from tests.crashes import audit, tree_tasks
from tests.crashes.checker import Move, _token_reused, _written_after_the_end
from tests.crashes.processes import Worker, Workers, history_in
from tests.waiting import wait_until

MOMENTS = ["before", "after"]


@frozen
class Scene:
    """One database, and the processes on it."""

    executor: DurableExecutor
    engine: Engine
    workers: Workers
    folder: Path

    def held_worker(self, moment: str, transition: str, task: str, number: int = 1) -> Worker:
        """A worker that will stop there."""
        spec = f"{moment}:{transition}:{task}:{number}:{self.folder / 'reached'}"
        return self.workers.start("--hold", spec)

    def kill_there(self, worker: Worker) -> None:
        """Kills it once it has come to where it stops."""
        reached = self.folder / "reached"
        wait_until(lambda: reached.exists() or not worker.is_alive(), 30, lambda: worker.log)
        assert worker.is_alive(), worker.log
        worker.kill()
        assert self.problems() == []

    def another(self) -> Worker:
        """A worker that goes on."""
        return self.workers.start()

    def members(self) -> list[families.Member]:
        return families.members(self.engine)

    def problems(self) -> list[str]:
        return families.problems(self.members())

    def statuses(self, *tasks: str) -> Counter[str]:
        """How many executions, of these tasks or of all, have which status."""
        return Counter(row.status for row in self.members() if not tasks or row.task_id in tasks)

    def completed(self, task: str) -> set[str]:
        """Which executions of this task have completed."""
        return {row.id for row in self.members() if (row.task_id, row.status) == (task, "completed")}

    def runs_of(self, execution_ids: set[str]) -> int:
        """How often any of these was begun."""
        entries = tree_tasks.runs(history_in(self.folder))
        return sum(entry["execution_id"] in execution_ids for entry in entries)

    def runs(self) -> Counter[str]:
        """How often what was begun."""
        return Counter(str(entry["what"]) for entry in tree_tasks.runs(history_in(self.folder)))


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[Scene]:
    """No worker runs yet."""
    engine = create_engine(database_url, poolclass=NullPool)
    executor = DurableExecutor(database_url, tasks=tree_tasks.registry)
    executor.migrate()
    with Workers(database_url, tmp_path, "tests.crashes.tree_worker") as workers:
        yield Scene(executor, engine, workers, tmp_path)
    executor.shutdown()
    engine.dispose()


# At a COMMIT


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_family_is_born_once(scene: Scene, moment: str) -> None:
    """A parent's end and the birth of its children are one: killed before COMMIT neither is, and after it both are."""
    handle = scene.executor.enqueue(tree_tasks.household, "h")
    worker = scene.held_worker(moment, "spawn", "household")
    scene.kill_there(worker)
    assert scene.statuses("household") == {"running" if moment == "before" else "waiting_for_children": 1}
    born = [row.id for row in scene.members() if row.parent_id is not None]
    assert len(born) == (0 if moment == "before" else tree_tasks.PIECES + 1)
    scene.another()
    assert handle.result(timeout=30) == "h012"
    assert set(born) <= {row.id for row in scene.members()}
    assert len(scene.members()) == 2 + tree_tasks.PIECES
    assert scene.runs()["household"] == (2 if moment == "before" else 1)
    assert scene.runs()["joined"] == 1
    assert scene.problems() == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_failed_parent_takes_all_of_its_tree_along(scene: Scene, moment: str) -> None:
    """Killed in the middle of a cascade over 200 descendants: all of them are as before, or all have ended."""
    go = scene.folder / "go"
    handle = scene.executor.enqueue(tree_tasks.doomed, str(go))
    worker = scene.held_worker(moment, "fail", "bad")
    everybody = 2 + tree_tasks.DESCENDANTS
    wait_until(lambda: len(scene.members()) == everybody, 30, lambda: worker.log)
    wait_until(lambda: scene.runs()["lingers"] and scene.runs()["bad"], 30)
    go.touch()
    scene.kill_there(worker)
    if moment == "before":
        assert set(scene.statuses()) == {"waiting_for_children", "ready", "running"}
    ended = {"children_failed": 1, "failed": 1, "cancelled": tree_tasks.DESCENDANTS}
    if moment == "after":
        assert scene.statuses() == ended
    other = scene.another()
    with pytest.raises(ChildrenFailedError, match="on purpose"):
        handle.result(timeout=30)
    assert scene.statuses() == ended
    assert scene.problems() == []
    if moment == "after":
        # Who comes later finds nothing to run.
        done = scene.executor.enqueue(tree_tasks.piece, "later")
        assert done.result(timeout=30) == "later"
    assert scene.runs()["bad"] == (2 if moment == "before" else 1)
    assert other.is_alive()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [1, 2, tree_tasks.STEPS], ids=["first", "second", "last"])
def test_a_sequence_keeps_its_place(scene: Scene, moment: str, number: int) -> None:
    """A step whose end has committed never runs again; one whose end has not does, and no other."""
    handle = scene.executor.enqueue(tree_tasks.stairs, "s:0")
    worker = scene.held_worker(moment, "complete", "stair", number)
    scene.kill_there(worker)
    completed = scene.completed("stair")
    assert len(completed) == (number if moment == "after" else number - 1)
    ended = len(completed) == tree_tasks.STEPS
    assert scene.statuses("stairs") == {"completed" if ended else "waiting_for_children": 1}
    scene.another()
    assert handle.result(timeout=30) == f"s:{tree_tasks.STEPS}"
    assert scene.runs_of(completed) == len(completed)
    if moment == "before":
        assert scene.runs()[f"stair {number - 1}"] == 2
    assert _out_of_order(tree_tasks.runs(history_in(scene.folder))) == []
    assert len(scene.members()) == 1 + tree_tasks.STEPS
    assert scene.problems() == []


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [1, tree_tasks.LAPS], ids=["first", "last"])
def test_a_loop_keeps_its_place(scene: Scene, moment: str, number: int) -> None:
    """An iteration is followed by the next exactly once, and Done is heard, whenever the process dies."""
    handle = scene.executor.enqueue(tree_tasks.laps, "l")
    worker = scene.held_worker(moment, "complete", "lap", number)
    scene.kill_there(worker)
    completed = scene.completed("lap")
    assert len(completed) == (number if moment == "after" else number - 1)
    scene.another()
    assert handle.result(timeout=30) == LoopResult(True, f"l:{tree_tasks.LAPS}")
    assert scene.runs_of(completed) == len(completed)
    if moment == "before":
        assert scene.runs()["lap"] == tree_tasks.LAPS + 1
    assert len(scene.members()) == 1 + tree_tasks.LAPS
    assert scene.problems() == []


# In a storm

KILLS = 5
CLANS_A_KILL = 5


@pytest.mark.timeout(180)
def test_a_storm_of_kills_over_trees(scene: Scene, record_property: Any) -> None:
    """At every moment of a storm each tree is one that could be; in the end each is whole, and nothing ran again."""
    audit.install(scene.engine)
    options = ("--lease", "2.5")
    for _ in range(3):
        scene.workers.start(*options)
    handles: dict[str, TaskHandle[Any]] = {}
    kills = 0
    # On a quick machine a kill may find nothing to hit.
    while kills < KILLS or (kills < 6 * KILLS and not any(row.starts > 1 for row in scene.members())):
        kills += 1
        names = [f"c{len(handles) + number}" for number in range(CLANS_A_KILL)]
        calls = [tree_tasks.clan.bind(name) for name in names]
        handles.update(zip(names, scene.executor.enqueue_many(calls), strict=True))
        # The rhythm of the storm, not a wait for something.
        time.sleep(random.uniform(0.1, 0.6))
        random.choice(scene.workers.all).kill()
        scene.workers.restart_dead(*options)
        assert scene.problems() == []
    started = time.monotonic()
    wait_until(lambda: not audit.unfinished(scene.engine), 90, lambda: str(scene.statuses()), interval=0.1)
    record_property("aftermath", time.monotonic() - started)
    assert scene.problems() == []
    rows = scene.members()
    assert len(rows) == len(handles) * tree_tasks.CLAN
    for name, handle in handles.items():
        assert handle.result(timeout=10) == [f"{name}012", f"{name}:{tree_tasks.STEPS}", f"{name}:4", "failed"]
    assert _broken_histories(audit.moves(scene.engine), rows) == []
    assert _out_of_order(tree_tasks.runs(history_in(scene.folder))) == []
    recovered = sum(row.starts > 1 for row in rows)
    print(f"{len(rows)} executions in {len(handles)} trees, {recovered} of them started more than once")
    assert recovered, "no crash hit a running attempt: the storm was none"


def _broken_histories(moves: list[Move], rows: list[families.Member]) -> list[str]:
    """What was ended twice, or touched after its end, or run under a token that was used before."""
    of: dict[str, list[Move]] = {row.id: [] for row in rows}
    for move in moves:
        of[move.execution_id].append(move)
    return [
        f"{execution_id}: {problem}"
        for execution_id, its_moves in of.items()
        for problem in (*_written_after_the_end(its_moves), *_token_reused(its_moves))
    ]


def _out_of_order(runs: list[dict[str, str]]) -> list[str]:
    """Sequences of which a step ran after a later one had begun."""
    order: dict[str, list[str]] = {}
    for entry in runs:
        if entry["what"].startswith("stair "):
            order.setdefault(entry["root"], []).append(entry["what"])
    return [f"{name}: {steps}" for name, steps in order.items() if steps != sorted(steps)]
