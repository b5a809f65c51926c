"""A node of a Galera cluster dies, while executors work on all of its nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from durable_sync.execution import ExecutionStatus
from durable_sync.storage import trees
from tests.conftest import do_without
from tests.crashes.processes import Worker
from tests.faults.callers import Caller, accounted
from tests.faults.checker import check
from tests.faults.figures import IS_FULL, note, size
from tests.faults.galera import Cluster, Node
from tests.faults.laboratory import Laboratory
from tests.faults.working import working_since
from tests.faults.workload import mixture
from tests.races.holding import held_after, in_thread
from tests.races.pretended import Process, family, leaf
from tests.waiting import wait_until

COMPLETED, RUNNING = ExecutionStatus.COMPLETED, ExecutionStatus.RUNNING
LEASE = 5.0
"""Longer than the survivors take to miss a node; until then nobody can renew."""


@pytest.fixture(scope="module")
def _cluster() -> Iterator[Cluster]:
    if not Node.is_available():
        do_without(f"galera: none found; {Node.how_to_install}")
    with Cluster(fsync=IS_FULL) as started:
        yield started


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Three nodes, running, whatever the test before did to them."""
    for node in _cluster.nodes:
        node.start()
    return _cluster


@pytest.mark.timeout(180)
def test_two_nodes_count_children_down(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two children end on two nodes, whose locks don't know of each other: the later one completes the parent."""
    with ExitStack() as stack:
        left, right = (
            Process(url, name) for url, name in zip(cluster.create_database(), ("left", "right"), strict=False)
        )
        for process in (left, right):
            stack.callback(process.storage.database.retire)
        root = left.executor.enqueue(family).execution_id
        # Not of the root, whose row is locked from the beginning.
        parent = left.spawn(root, family.bind()).children[0]
        children = left.spawn(parent, leaf.bind(), leaf.bind()).children
        one, two = left.completing(children[0]), left.completing(children[1])
        held = held_after(monkeypatch, trees, "_waiting")
        first = in_thread(left.record, one)
        held.wait_for_arrivals()
        wait_until(lambda: right.storage.get([children[1]], patience=0)[children[1]].status is RUNNING, 10)
        assert right.record(two).won == {two.identity}
        wait_until(lambda: left.storage.get([children[1]], patience=0)[children[1]].status is COMPLETED, 10)
        held.open()
        assert first.result(20).won == {one.identity}
        assert left.storage.get([root], patience=0)[root].status is COMPLETED


@pytest.mark.timeout(size(full=1800, short=240))
def test_node_killed(cluster: Cluster, tmp_path: Path) -> None:
    """What any node has acknowledged is finished, once, though nodes die and executors of different nodes collide."""
    urls = cluster.create_database()
    works_again: list[float] = []
    with Laboratory(urls[0], tmp_path, lease=LEASE) as laboratory, ExitStack() as stack:
        callers = [stack.enter_context(Caller(url, pause=0.1)) for url in urls]
        workers = [laboratory.start_with("--url", url) for url in urls]
        wait_for_all(laboratory, workers, 0)
        for number in range(size(full=4, short=1)):
            laboratory.enqueue(mixture(size(full=480, short=160), 0.03))
            callers[0].go_on(size(full=100, short=10))
            # The first node stays, for the logs to be read there.
            doomed = 1 + number % 2
            cluster.kill(cluster.nodes[doomed])
            survivors = [worker for place, worker in enumerate(workers) if place != doomed]
            works_again.append(wait_for_all(laboratory, survivors, time.monotonic()))
            if number < size(full=4, short=0):
                cluster.nodes[doomed].start()
                wait_for_all(laboratory, workers, time.monotonic())
        for caller in callers:
            caller.stop()
        laboratory.settle(size(full=400.0, short=120.0))
        account = accounted(laboratory.account(), callers)
        problems = check(account)
        conflicts = cluster.conflicts()
        errors = [line for worker in workers for line in worker.log.splitlines() if line.startswith("ERROR")]
        assert all(worker.is_alive() for worker in workers)
    note(
        "galera",
        "MariaDB",
        kills=len(works_again),
        executions=len(account.rows),
        acknowledged=len(account.enqueued),
        refused=sum(len(caller.errors) for caller in callers),
        slowest_enqueue=round(max(caller.slowest for caller in callers), 2),
        conflicts=conflicts,
        recovered=sum(move.recovers for move in account.moves),
        works_again=round(max(works_again), 2),
        problems=len(problems),
    )
    assert problems == []
    assert errors == []
    assert conflicts > 0


def working(laboratory: Laboratory, since: float) -> set[str]:
    """As `working_since`; nobody, while the node that is asked doesn't know yet who else is left."""
    try:
        return set(working_since(laboratory, since))
    except DBAPIError:
        return set()


def wait_for_all(laboratory: Laboratory, workers: list[Worker], since: float) -> float:
    """Waits until each of them has started something that it has claimed since then; returns the longest seconds."""
    names = {worker.name for worker in workers}
    wait_until(lambda: names <= working(laboratory, since), 30, "every process works")
    return max(seconds for name, seconds in working_since(laboratory, since).items() if name in names)
