"""Two processes change one tree at the same moment, each held open on purpose; the outcome is always a legal one.

Each race runs four times on each database: either of the two goes first, and it is held either with its work done and
not committed, so that the other has to wait for it, or just before its first lock, when it may have read what the other
then changes. After every COMMIT the tree is one that could be.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from attrs import define, frozen
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from durable_sync import Done
from durable_sync.execution import ErrorInfo
from durable_sync.storage.sleepers import Awakening
from durable_sync.storage.statements import Fenced
from durable_sync.transitions import wake
from tests import families
from tests.gates import PATIENCE, Gate
from tests.races.holding import (
    LAPSED,
    TREE_LOCK,
    Blocked,
    after_each_commit,
    held_before_commit,
    held_before_lock,
    in_thread,
    incarnation,
)
from tests.races.pretended import (
    Kin,
    Process,
    family,
    finalized,
    fragile,
    leaf,
    loop,
    sequence,
    sleeper,
    tolerant,
)
from tests.waiting import wait_until

LATE = ErrorInfo("TaskTimedOutError", "late", "", False).to_json()


@frozen
class Table:
    """What a reader from outside sees."""

    engine: Engine

    def members(self) -> dict[str, families.Member]:
        return {row.id: row for row in families.members(self.engine)}

    def status(self, *ids: str | None) -> Any:
        """The status of one, or of several."""
        found = self.members()
        statuses = [found[name].status for name in ids if name is not None]
        return statuses[0] if len(ids) == 1 else statuses

    def below(self, parent_id: str) -> list[families.Member]:
        return [row for row in self.members().values() if row.parent_id == parent_id]

    def problems(self) -> list[str]:
        return families.problems(families.members(self.engine))

    def watch(self, monkeypatch: pytest.MonkeyPatch, *processes: Process) -> list[str]:
        """The problems that are seen after any COMMIT of these: what belongs together was committed apart."""
        seen: list[str] = []
        for process in processes:
            after_each_commit(monkeypatch, process.storage, lambda: seen.extend(self.problems()))
        return seen


@define
class Race:
    """What two processes do at once."""

    left: Callable[[], Any]
    right: Callable[[], Any]
    judge: Callable[[Any, Any, bool], None]
    """Told what each of them returned, and whether the left one came first."""
    waits_for_tree: bool = True
    """The second waits for the lock of the tree, and for nothing else."""


@frozen
class Scene:
    """Where a race takes place."""

    left: Process
    right: Process
    table: Table

    def enqueue(self, task: Any, *args: Any) -> str:
        return str(self.left.executor.enqueue(task, *args).execution_id)


def won(outcome: Fenced, recorded: Any) -> bool:
    """Whether the record was of this outcome; what was refused did nothing else either."""
    if not recorded.won:
        assert recorded.effects.finished == []
        assert not recorded.effects.ready
        return False
    assert recorded.won == {outcome.identity}
    return True


# What may happen at the same moment


def two_last_children_end(scene: Scene) -> Race:
    """Each is counted, and the second one, whichever it is, completes the parent."""
    parent = scene.enqueue(family)
    kin = scene.left.spawn(parent, leaf.bind(1), leaf.bind(2))
    one, two = scene.left.completing(kin.children[0]), scene.right.completing(kin.children[1])

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert won(one, first)
        assert won(two, second)
        assert (parent in first.effects.finished) is not left_first
        assert (parent in second.effects.finished) is left_first
        assert scene.table.status(parent) == "completed"

    return Race(lambda: scene.left.record(one), lambda: scene.right.record(two), judge)


def two_last_children_end_before_a_finalize(scene: Scene) -> Race:
    """The finalize gets its turn once, by the second one."""
    parent = scene.enqueue(finalized)
    kin = scene.left.spawn(parent, leaf.bind(1), leaf.bind(2))
    one, two = scene.left.completing(kin.children[0]), scene.right.completing(kin.children[1])

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert (first.effects.ready, second.effects.ready) == (not left_first, left_first)
        assert scene.table.status(parent) == "waiting_for_finalize"
        assert kin.finalize is not None
        scene.left.complete(kin.finalize, 3)
        assert scene.table.status(parent, kin.finalize) == ["completed", "completed"]

    return Race(lambda: scene.left.record(one), lambda: scene.right.record(two), judge)


def two_children_fail(scene: Scene) -> Race:
    """The first one ends the parent and the other with it; the second one is refused."""
    parent = scene.enqueue(family)
    kin = scene.left.spawn(parent, leaf.bind(1), leaf.bind(2), leaf.bind(3))
    one, two = scene.left.failing(kin.children[0]), scene.right.failing(kin.children[1])

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert (won(one, first), won(two, second)) == (left_first, not left_first)
        expected = ["failed", "cancelled"] if left_first else ["cancelled", "failed"]
        assert scene.table.status(parent, *kin.children) == ["children_failed", *expected, "cancelled"]
        effects = (first if left_first else second).effects
        assert sorted(effects.finished) == sorted([parent, *kin.children])
        assert effects.stopped == [kin.children[1 if left_first else 0]]

    return Race(lambda: scene.left.record(one), lambda: scene.right.record(two), judge)


def two_children_of_a_tolerant_parent_end(scene: Scene) -> Race:
    """One fails, one completes, and the finalize runs once both have."""
    parent = scene.enqueue(tolerant)
    kin = scene.left.spawn(parent, leaf.bind(1), leaf.bind(2))
    one, two = scene.left.failing(kin.children[0]), scene.right.completing(kin.children[1])

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert won(one, first)
        assert won(two, second)
        assert (first.effects.ready, second.effects.ready) == (not left_first, left_first)
        assert scene.table.status(parent, *kin.children) == ["waiting_for_finalize", "failed", "completed"]

    return Race(lambda: scene.left.record(one), lambda: scene.right.record(two), judge)


def a_child_fails_while_its_sibling_spawns(scene: Scene) -> Race:
    """The sibling's family is either never born, or born and cancelled."""
    root = scene.enqueue(family)
    kin = scene.left.spawn(root, leaf.bind(), finalized.bind())
    fails = scene.left.failing(kin.children[0])
    spawns = scene.right.spawning(kin.children[1], leaf.bind(1), leaf.bind(2))

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert won(fails, first)
        assert won(spawns, second) is not left_first
        assert scene.table.status(root, *kin.children) == ["children_failed", "failed", "cancelled"]
        grandchildren = [row.status for row in scene.table.below(kin.children[1])]
        assert grandchildren == ([] if left_first else ["cancelled"] * 3)

    return Race(lambda: scene.left.record(fails), lambda: scene.right.record(spawns), judge)


def a_cancel_meets_the_last_childs_end(scene: Scene) -> Race:
    """A parent has either completed or been cancelled, and whoever came second is told so."""
    parent = scene.enqueue(family)
    kin = scene.left.spawn(parent, leaf.bind())
    completes = scene.right.completing(kin.children[0])

    def judge(cancelled: Any, recorded: Any, left_first: bool) -> None:
        assert (parent in cancelled.finished) is left_first
        assert won(completes, recorded) is not left_first
        assert scene.table.status(parent, *kin.children) == (["cancelled"] * 2 if left_first else ["completed"] * 2)

    return Race(lambda: scene.left.cancel(parent), lambda: scene.right.record(completes), judge)


def a_cancel_meets_the_end_that_begins_the_finalize(scene: Scene) -> Race:
    """The cancel wins in any case, and ends the finalize, whether it has had its turn or not."""
    parent = scene.enqueue(finalized)
    kin = scene.left.spawn(parent, leaf.bind())
    completes = scene.right.completing(kin.children[0])

    def judge(cancelled: Any, recorded: Any, left_first: bool) -> None:
        assert parent in cancelled.finished
        assert kin.finalize in cancelled.finished
        assert won(completes, recorded) is not left_first
        child = "cancelled" if left_first else "completed"
        assert scene.table.status(parent, *kin.children, kin.finalize) == ["cancelled", child, "cancelled"]

    return Race(lambda: scene.left.cancel(parent), lambda: scene.right.record(completes), judge)


def a_cancel_of_the_root_meets_a_grandchilds_spawn(scene: Scene) -> Race:
    """Nothing that the grandchild bears outlives the root."""
    root = scene.enqueue(family)
    kin = scene.left.spawn(root, family.bind(), leaf.bind())
    grandkin = scene.left.spawn(kin.children[0], finalized.bind())
    spawns = scene.right.spawning(grandkin.children[0], leaf.bind(1), leaf.bind(2))

    def judge(cancelled: Any, recorded: Any, left_first: bool) -> None:
        assert root in cancelled.finished
        assert won(spawns, recorded) is not left_first
        assert cancelled.stopped == ([grandkin.children[0]] if left_first else [])
        born = scene.table.below(grandkin.children[0])
        assert len(born) == (0 if left_first else 3)
        assert {row.status for row in scene.table.members().values()} == {"cancelled"}

    return Race(lambda: scene.left.cancel(root), lambda: scene.right.record(spawns), judge)


def a_cancel_of_the_root_meets_its_own_spawn(scene: Scene) -> Race:
    """A root that is cancelled while it spawns has no children, or only cancelled ones."""
    root = scene.enqueue(finalized)
    spawns = scene.right.spawning(root, leaf.bind(1), leaf.bind(2))

    def judge(cancelled: Any, recorded: Any, left_first: bool) -> None:
        assert root in cancelled.finished
        assert won(spawns, recorded) is not left_first
        assert cancelled.stopped == ([root] if left_first else [])
        assert [row.status for row in scene.table.below(root)] == ([] if left_first else ["cancelled"] * 3)

    return Race(lambda: scene.left.cancel(root), lambda: scene.right.record(spawns), judge, waits_for_tree=False)


def two_cancels_of_one_tree(scene: Scene) -> Race:
    """One of them ends it, and the other is told that it did not."""
    root = scene.enqueue(family)
    kin = scene.left.spawn(root, family.bind(), leaf.bind())
    scene.left.spawn(kin.children[0], leaf.bind())

    def judge(first: Any, second: Any, left_first: bool) -> None:
        winner, loser = (first, second) if left_first else (second, first)
        assert len(winner.finished) == 4
        assert loser.finished == []

    return Race(lambda: scene.left.cancel(root), lambda: scene.right.cancel(root), judge)


def a_cancel_of_a_child_meets_a_cancel_of_the_root(scene: Scene) -> Race:
    """The child's cancel fails the root if it comes first; everything has ended in either case."""
    root = scene.enqueue(family)
    kin = scene.left.spawn(root, leaf.bind(), leaf.bind())

    def judge(of_child: Any, of_root: Any, left_first: bool) -> None:
        assert (root in of_child.finished, root in of_root.finished) == (left_first, not left_first)
        assert scene.table.status(root) == ("children_failed" if left_first else "cancelled")
        assert scene.table.status(*kin.children) == ["cancelled"] * 2

    return Race(lambda: scene.left.cancel(kin.children[0]), lambda: scene.right.cancel(root), judge)


def a_cancel_of_a_waiting_finalize_meets_the_last_childs_end(scene: Scene) -> Race:
    """Without its finalize the parent ends as finalize_failed, whatever its children have come to."""
    parent = scene.enqueue(finalized)
    kin = scene.left.spawn(parent, leaf.bind(), leaf.bind())
    scene.left.complete(kin.children[0])
    completes = scene.right.completing(kin.children[1])
    assert kin.finalize is not None
    finalize = kin.finalize

    def judge(cancelled: Any, recorded: Any, left_first: bool) -> None:
        assert sorted(cancelled.finished) == sorted([parent, finalize, *(kin.children[1:] if left_first else ())])
        assert won(completes, recorded) is not left_first
        child = "cancelled" if left_first else "completed"
        assert scene.table.status(parent, finalize, kin.children[1]) == ["finalize_failed", "cancelled", child]

    return Race(lambda: scene.left.cancel(finalize), lambda: scene.right.record(completes), judge)


def a_completion_meets_the_reapers_last_word_on_a_sibling(scene: Scene) -> Race:
    """The parent fails by the child that was given up, also if its last other child completed first."""
    parent = scene.enqueue(family)
    kin = scene.left.spawn(parent, leaf.bind(), fragile.bind())
    scene.left.storage.register(incarnation("dead", lease=LAPSED))
    scene.left.storage.claim([kin.children[1]], limit=1, executor_id="dead")
    scene.left.storage.resign("dead")
    completes = scene.left.completing(kin.children[0])

    def judge(recorded: Any, reaped: Any, left_first: bool) -> None:
        assert won(completes, recorded) is left_first
        assert [entry[1] for entry in reaped.given_up] == [kin.children[1]]
        assert parent in reaped.effects.finished
        child = "completed" if left_first else "cancelled"
        assert scene.table.status(parent, *kin.children) == ["children_failed", child, "failed"]

    return Race(lambda: scene.left.record(completes), scene.right.reap, judge)


def a_cancel_meets_the_reapers_last_word(scene: Scene) -> Race:
    """A child whose process died is given up or cancelled; its parent ends with it, once."""
    parent = scene.enqueue(family)
    kin = scene.left.spawn(parent, fragile.bind(), leaf.bind())
    scene.left.storage.register(incarnation("dead", lease=LAPSED))
    scene.left.storage.claim([kin.children[0]], limit=1, executor_id="dead")
    scene.left.storage.resign("dead")

    def judge(cancelled: Any, reaped: Any, left_first: bool) -> None:
        assert (parent in cancelled.finished, parent in reaped.effects.finished) == (left_first, not left_first)
        assert len(reaped.given_up) == (0 if left_first else 1)
        expected = ["cancelled"] * 3 if left_first else ["children_failed", "failed", "cancelled"]
        assert scene.table.status(parent, *kin.children) == expected

    return Race(lambda: scene.left.cancel(parent), scene.right.reap, judge)


def a_finalizes_end_meets_a_cancel(scene: Scene) -> Race:
    """Whoever comes first says how the parent and its finalize end, and whoever comes second changes nothing."""
    parent = scene.enqueue(finalized)
    kin = scene.left.spawn(parent, leaf.bind())
    scene.left.complete(kin.children[0])
    assert kin.finalize is not None
    ends = scene.left.completing(kin.finalize, 7)

    def judge(recorded: Any, cancelled: Any, left_first: bool) -> None:
        assert won(ends, recorded) is left_first
        assert (parent in cancelled.finished) is not left_first
        expected = "completed" if left_first else "cancelled"
        assert scene.table.status(parent, kin.finalize) == [expected, expected]

    return Race(lambda: scene.left.record(ends), lambda: scene.right.cancel(parent), judge)


def a_steps_end_meets_a_cancel(scene: Scene) -> Race:
    """A cancelled sequence starts no further step, and a step that has ended stays ended."""
    parent = scene.enqueue(sequence, 1)
    kin = scene.left.spawn(parent)
    ends = scene.left.completing(kin.children[0])

    def judge(recorded: Any, cancelled: Any, left_first: bool) -> None:
        assert won(ends, recorded) is left_first
        assert parent in cancelled.finished
        step = "completed" if left_first else "cancelled"
        assert scene.table.status(parent, *kin.children) == ["cancelled", step, "cancelled", "cancelled"]

    return Race(lambda: scene.left.record(ends), lambda: scene.right.cancel(parent), judge)


def a_steps_end_meets_a_cancel_of_the_next(scene: Scene) -> Race:
    """A sequence fails with the step that was cancelled before its turn, or in it."""
    parent = scene.enqueue(sequence, 1)
    kin = scene.left.spawn(parent)
    ends = scene.left.completing(kin.children[0])

    def judge(recorded: Any, cancelled: Any, left_first: bool) -> None:
        assert won(ends, recorded) is left_first
        assert parent in cancelled.finished
        step = "completed" if left_first else "cancelled"
        assert scene.table.status(parent, *kin.children) == ["children_failed", step, "cancelled", "cancelled"]

    return Race(lambda: scene.left.record(ends), lambda: scene.right.cancel(kin.children[1]), judge)


def an_iterations_end_meets_a_cancel(scene: Scene) -> Race:
    """A cancelled loop goes round no more; the iteration that it had begun is cancelled with it."""
    parent = scene.enqueue(loop, 1)
    kin = scene.left.spawn(parent)
    ends = scene.left.completing(kin.children[0], None)

    def judge(recorded: Any, cancelled: Any, left_first: bool) -> None:
        assert won(ends, recorded) is left_first
        assert parent in cancelled.finished
        iterations = [row.status for row in scene.table.below(parent)]
        assert iterations == (["completed", "cancelled"] if left_first else ["cancelled"])
        assert scene.table.status(parent) == "cancelled"

    return Race(lambda: scene.left.record(ends), lambda: scene.right.cancel(parent), judge)


def a_loops_last_iteration_meets_a_cancel(scene: Scene) -> Race:
    """A loop that is Done and one that is cancelled exclude each other."""
    parent = scene.enqueue(loop, 1)
    kin = scene.left.spawn(parent)
    ends = scene.left.completing(kin.children[0], Done(1))

    def judge(recorded: Any, cancelled: Any, left_first: bool) -> None:
        assert won(ends, recorded) is left_first
        assert (parent in cancelled.finished) is not left_first
        expected = "completed" if left_first else "cancelled"
        assert scene.table.status(parent, kin.children[0]) == [expected, expected]

    return Race(lambda: scene.left.record(ends), lambda: scene.right.cancel(parent), judge)


def _sleeping_child(scene: Scene, **options: Any) -> tuple[str, Kin]:
    parent = scene.enqueue(family)
    return parent, scene.left.spawn(parent, sleeper.options(key="k", **options).bind())


def _waking(process: Process, text: str) -> Callable[[], bool]:
    return lambda: process.storage.wake(Awakening("sleeper", "k", wake(text)), patience=0)


def a_wake_meets_a_timeout(scene: Scene) -> Race:
    """A sleeper is woken or times out, never both, and a wake that came too late is told so."""
    parent, kin = _sleeping_child(scene, timeout=0.001)
    _until_late(scene, kin.children[0])

    def judge(woken: Any, late: Any, left_first: bool) -> None:
        assert woken is left_first
        assert late.finished == ([] if left_first else [kin.children[0], parent])
        expected = ["completed", "completed"] if left_first else ["children_failed", "timed_out"]
        assert scene.table.status(parent, kin.children[0]) == expected

    times_out = lambda: scene.right.storage.end_oversleepers(error=LATE)  # noqa: E731
    return Race(_waking(scene.left, '"woken"'), times_out, judge)


def a_root_is_woken_when_it_times_out(scene: Scene) -> Race:
    """The same for a sleeper that is nobody's child."""
    sleeping = scene.enqueue(sleeper.options(key="k", timeout=0.001))
    _until_late(scene, sleeping)

    def judge(woken: Any, late: Any, left_first: bool) -> None:
        assert woken is left_first
        assert late.finished == ([] if left_first else [sleeping])
        assert scene.table.status(sleeping) == ("completed" if left_first else "timed_out")

    times_out = lambda: scene.right.storage.end_oversleepers(error=LATE)  # noqa: E731
    return Race(_waking(scene.left, '"woken"'), times_out, judge)


def _until_late(scene: Scene, sleeping: str) -> None:
    sql = scene.left.storage.sql

    def is_late() -> bool:
        due = scene.table.members()[sleeping].timer_at
        return due is not None and scene.left.storage.database.read("get", sql.now_value) > due

    wait_until(is_late, PATIENCE)


def two_wakes(scene: Scene) -> Race:
    """The first one's output is the sleeper's, and the second one is told that nobody sleeps."""
    parent, kin = _sleeping_child(scene)

    def judge(left: Any, right: Any, left_first: bool) -> None:
        assert (left, right) == (left_first, not left_first)
        assert scene.table.status(parent, kin.children[0]) == ["completed", "completed"]
        stored = scene.left.storage.get([kin.children[0]], patience=0)[kin.children[0]]
        assert stored.run_output == ('"left"' if left_first else '"right"')

    return Race(_waking(scene.left, '"left"'), _waking(scene.right, '"right"'), judge)


def two_wakes_with_the_same_output(scene: Scene) -> Race:
    """Only one of them ended the sleeper, though nobody could tell by the row which."""
    _parent, kin = _sleeping_child(scene)

    def judge(left: Any, right: Any, left_first: bool) -> None:
        assert (left, right) == (left_first, not left_first)
        assert scene.table.status(kin.children[0]) == "completed"

    return Race(_waking(scene.left, '"same"'), _waking(scene.right, '"same"'), judge)


def a_wake_meets_a_cancel_of_the_parent(scene: Scene) -> Race:
    """The parent completes by the wake, or the sleeper is cancelled with it and the wake is told so."""
    parent, kin = _sleeping_child(scene)

    def judge(woken: Any, cancelled: Any, left_first: bool) -> None:
        assert woken is left_first
        assert (parent in cancelled.finished) is not left_first
        expected = "completed" if left_first else "cancelled"
        assert scene.table.status(parent, kin.children[0]) == [expected, expected]

    return Race(_waking(scene.left, '"woken"'), lambda: scene.right.cancel(parent), judge)


def a_keyed_child_meets_an_enqueue_of_its_key(scene: Scene) -> Race:
    """One execution has the key: the enqueue gets the child's, or the parent fails and has no children."""
    parent = scene.enqueue(family)
    kin = scene.left.spawn(parent, finalized.bind())
    spawns = scene.left.spawning(kin.children[0], leaf.options(key="k").bind(), leaf.bind())

    def judge(recorded: Any, enqueued: Any, left_first: bool) -> None:
        assert won(spawns, recorded)
        children = scene.table.below(kin.children[0])
        assert len(children) == (3 if left_first else 0)
        assert enqueued.created is not left_first
        assert [row.id for row in scene.table.members().values() if row.active_key == "k"] == [enqueued.execution_id]
        expected = ["waiting_for_children"] * 2 if left_first else ["children_failed", "failed"]
        assert scene.table.status(parent, *kin.children) == expected

    return Race(
        lambda: scene.left.record(spawns),
        lambda: scene.right.executor.enqueue(leaf.options(key="k")),
        judge,
        waits_for_tree=False,
    )


def two_families_want_one_key(scene: Scene) -> Race:
    """Of two parents that spawn a child of the same key, one does, and the other fails."""
    one, two = scene.enqueue(family), scene.enqueue(family)
    left = scene.left.spawning(one, leaf.bind(), leaf.options(key="k").bind())
    right = scene.right.spawning(two, leaf.bind(), leaf.options(key="k").bind())

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert won(left, first)
        assert won(right, second)
        expected = ["waiting_for_children", "failed"]
        assert scene.table.status(one, two) == (expected if left_first else expected[::-1])
        assert len(scene.table.below(one) + scene.table.below(two)) == 2

    return Race(lambda: scene.left.record(left), lambda: scene.right.record(right), judge, waits_for_tree=False)


def two_batches_over_the_same_trees(scene: Scene) -> Race:
    """Batches that name the same trees in opposite orders wait for each other, and don't lock each other out."""
    roots = [scene.enqueue(family) for _ in range(3)]
    kin = [scene.left.spawn(root, leaf.bind(), leaf.bind()) for root in roots]
    left = [scene.left.completing(one.children[0]) for one in kin]
    right = [scene.right.completing(one.children[1]) for one in kin][::-1]

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert (len(first.won), len(second.won)) == (3, 3)
        last = second if left_first else first
        assert set(roots) <= set(last.effects.finished)
        assert scene.table.status(*roots) == ["completed"] * 3

    return Race(lambda: scene.left.record(*left), lambda: scene.right.record(*right), judge)


def an_end_reaches_up_while_a_cancel_reaches_down(scene: Scene) -> Race:
    """The last leaf of a chain of parents completes them all, or is cancelled with them all."""
    root = scene.enqueue(family)
    chain, name = [root], root
    for _ in range(4):
        name = scene.left.spawn(name, family.bind()).children[0]
        chain.append(name)
    (last,) = scene.left.spawn(name, leaf.bind()).children
    completes = scene.left.completing(last)

    def judge(recorded: Any, cancelled: Any, left_first: bool) -> None:
        assert won(completes, recorded) is left_first
        assert (root in cancelled.finished) is not left_first
        assert scene.table.status(*chain, last) == (["completed"] if left_first else ["cancelled"]) * 6

    return Race(lambda: scene.left.record(completes), lambda: scene.right.cancel(root), judge)


def a_failure_reaches_up_while_a_cousin_spawns(scene: Scene) -> Race:
    """A leaf fails parents three levels up, and what a cousin bears at that moment does not live."""
    root = scene.enqueue(family)
    kin = scene.left.spawn(root, family.bind(), family.bind())
    (middle,) = scene.left.spawn(kin.children[0], family.bind()).children
    (low,) = scene.left.spawn(middle, leaf.bind()).children
    fails = scene.left.failing(low)
    spawns = scene.right.spawning(kin.children[1], finalized.bind(), leaf.bind())

    def judge(first: Any, second: Any, left_first: bool) -> None:
        assert won(fails, first)
        assert won(spawns, second) is not left_first
        assert scene.table.status(root, kin.children[0], middle) == ["children_failed"] * 3
        assert scene.table.status(kin.children[1]) == "cancelled"
        assert len(scene.table.below(kin.children[1])) == (0 if left_first else 2)

    return Race(lambda: scene.left.record(fails), lambda: scene.right.record(spawns), judge)


RACES = [
    two_last_children_end,
    two_last_children_end_before_a_finalize,
    two_children_fail,
    two_children_of_a_tolerant_parent_end,
    a_child_fails_while_its_sibling_spawns,
    a_cancel_meets_the_last_childs_end,
    a_cancel_meets_the_end_that_begins_the_finalize,
    a_cancel_of_the_root_meets_a_grandchilds_spawn,
    a_cancel_of_the_root_meets_its_own_spawn,
    two_cancels_of_one_tree,
    a_cancel_of_a_child_meets_a_cancel_of_the_root,
    a_cancel_of_a_waiting_finalize_meets_the_last_childs_end,
    a_completion_meets_the_reapers_last_word_on_a_sibling,
    a_cancel_meets_the_reapers_last_word,
    a_finalizes_end_meets_a_cancel,
    a_steps_end_meets_a_cancel,
    a_steps_end_meets_a_cancel_of_the_next,
    an_iterations_end_meets_a_cancel,
    a_loops_last_iteration_meets_a_cancel,
    a_wake_meets_a_timeout,
    a_root_is_woken_when_it_times_out,
    two_wakes,
    two_wakes_with_the_same_output,
    a_wake_meets_a_cancel_of_the_parent,
    a_keyed_child_meets_an_enqueue_of_its_key,
    two_families_want_one_key,
    two_batches_over_the_same_trees,
    an_end_reaches_up_while_a_cancel_reaches_down,
    a_failure_reaches_up_while_a_cousin_spawns,
]


@pytest.fixture
def scene(database_url: str) -> Iterator[Scene]:
    """Two processes on one database."""
    engine = create_engine(database_url, poolclass=NullPool)
    yield Scene(Process(database_url, "left"), Process(database_url, "right"), Table(engine))
    engine.dispose()


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
@pytest.mark.parametrize("mover", ["left", "right"])
def test_the_second_waits_until_the_first_has_committed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, race: Callable[[Scene], Race], mover: str
) -> None:
    """Whoever comes while another changes the tree waits for the tree's lock, and then sees all of what was done."""
    run = race(scene)
    assert scene.table.problems() == []
    seen = scene.table.watch(monkeypatch, scene.left, scene.right)
    first, second = (scene.left, scene.right) if mover == "left" else (scene.right, scene.left)
    moves = {"left": run.left, "right": run.right}
    gate = held_before_commit(monkeypatch, first.storage)
    going_first = in_thread(moves[mover])
    gate.wait_for_arrivals()
    before = scene.table.members()
    blocked = Blocked(second.storage)
    going_second = in_thread(moves["right" if mover == "left" else "left"])
    statement = blocked.wait()
    if run.waits_for_tree and not second.storage.database.dialect.single_writer:
        assert TREE_LOCK.search(statement), f"it waits elsewhere: {statement}"
    assert not going_second.done()
    # Nothing is seen of what is not committed.
    assert scene.table.members() == before
    gate.open()
    results = {mover: going_first.result(PATIENCE), "": going_second.result(PATIENCE)}
    left, right = (results[mover], results[""]) if mover == "left" else (results[""], results[mover])
    run.judge(left, right, mover == "left")
    assert seen + scene.table.problems() == []
    assert scene.left.errors + scene.right.errors == []


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
@pytest.mark.parametrize("held", ["left", "right"])
def test_what_was_read_before_the_lock_does_not_count(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, race: Callable[[Scene], Race], held: str
) -> None:
    """Who has looked, and locks only after another has changed everything, goes by what is there then."""
    run = race(scene)
    seen = scene.table.watch(monkeypatch, scene.left, scene.right)
    slow = scene.left if held == "left" else scene.right
    moves = {"left": run.left, "right": run.right}
    gate = held_before_lock(slow.storage)
    going_second = in_thread(moves[held])
    gate.wait_for_arrivals()
    first = in_thread(moves["right" if held == "left" else "left"]).result(PATIENCE)
    assert scene.table.problems() == []
    gate.open()
    second = going_second.result(PATIENCE)
    left, right = (second, first) if held == "left" else (first, second)
    run.judge(left, right, held == "right")
    assert seen + scene.table.problems() == []
    assert scene.left.errors + scene.right.errors == []


# Locks that can't be taken in one order


def held_before_second_insert(process: Process) -> Gate:
    """The process waits at the gate between the births of two families with keys."""
    gate, births = Gate(), count(1)

    def look(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "INSERT" in statement and next(births) == 2:
            gate.pass_through()

    event.listen(process.storage.database.engine, "before_cursor_execute", look)
    return gate


def test_two_batches_want_the_same_keys_in_opposite_orders(scene: Scene) -> None:
    """Each has what the other wants: the database breaks the deadlock, the loser tries again, and no error escapes."""
    if scene.left.storage.database.dialect.single_writer:
        pytest.skip("writers take turns")
    parents = [scene.enqueue(family) for _ in range(4)]
    keys = ["k1", "k2", "k2", "k1"]
    outcomes = [
        process.spawning(parent, leaf.options(key=key).bind())
        for process, parent, key in zip([scene.left] * 2 + [scene.right] * 2, parents, keys, strict=True)
    ]
    gates = [held_before_second_insert(process) for process in (scene.left, scene.right)]
    recording = [
        in_thread(scene.left.record, *outcomes[:2]),
        in_thread(scene.right.record, *outcomes[2:]),
    ]
    for gate in gates:
        gate.wait_for_arrivals()
    for gate in gates:
        gate.open()
    assert recording[0].result(PATIENCE).won == {outcome.identity for outcome in outcomes[:2]}
    assert recording[1].result(PATIENCE).won == {outcome.identity for outcome in outcomes[2:]}
    # Whoever the database spared has both keys.
    found = scene.table.status(*parents)
    assert found in (["waiting_for_children"] * 2 + ["failed"] * 2, ["failed"] * 2 + ["waiting_for_children"] * 2)
    assert any("eadlock" in error for error in scene.left.errors + scene.right.errors)
    assert scene.table.problems() == []


def test_many_batches_over_many_trees(scene: Scene) -> None:
    """Processes whose batches mix roots, spawns, ends and failures of the same trees never lock each other out."""
    roots = [scene.enqueue(family) for _ in range(12)]
    kin = [scene.left.spawn(root, *[tolerant.bind()] * 2, *[leaf.bind()] * 4) for root in roots]
    chance = random.Random(7)
    rounds: list[list[list[Fenced]]] = []
    for place in range(3):
        batches = []
        for process, offset in ((scene.left, 0), (scene.right, 1)):
            own = [process.completing(one.children[2 * place + offset]) for one in kin] if place else []
            if not place:
                own = [process.spawning(one.children[offset], leaf.bind(), leaf.bind()) for one in kin]
            own += [process.spawning(scene.enqueue(family), leaf.bind()) for _ in range(4)]
            own.append(process.failing(scene.enqueue(leaf)))
            chance.shuffle(own)
            batches.append(own)
        rounds.append(batches)
    for batches in rounds:
        start = threading.Barrier(2)

        def record(process: Process, batch: list[Fenced], start: threading.Barrier = start) -> Any:
            start.wait(PATIENCE)
            return process.record(*batch)

        first = in_thread(record, scene.left, batches[0])
        second = in_thread(record, scene.right, batches[1])
        assert len(first.result(PATIENCE).won) == len(batches[0])
        assert len(second.result(PATIENCE).won) == len(batches[1])
        assert scene.table.problems() == []
    assert {row.unfinished_children for row in scene.table.members().values() if row.id in roots} == {2}
    assert scene.left.errors + scene.right.errors == []
