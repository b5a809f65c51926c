"""The connection is lost at the COMMIT of something that changes a tree, and nobody knows whether that took effect."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import frozen
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from durable_sync import (
    Done,
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    LoopResult,
    ParentOutput,
    ParentResult,
    Spawn,
    TaskError,
)
from durable_sync.storage.database import _WriterBusyError
from durable_sync.storage.statements import Fenced
from tests import families
from tests.crashes import audit
from tests.gates import PATIENCE, Gate
from tests.races.holding import LostAnswers
from tests.races.pretended import Kin, Process, family, finalized, leaf, loop, sequence, sleeper
from tests.waiting import wait_until

took_effect = pytest.mark.parametrize("takes_effect", [True, False], ids=["took effect", "did not"])


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """For a reader from outside."""
    engine = create_engine(database_url, poolclass=NullPool)
    yield engine
    engine.dispose()


def ends(engine: Engine) -> dict[str, int]:
    """How often each execution was ended."""
    return Counter(move.execution_id for move in audit.moves(engine) if move.new_status in families.FINISHED)


def statuses(engine: Engine) -> dict[str, str]:
    return {row.id: row.status for row in families.members(engine)}


# Every outcome of whole trees


@took_effect
def test_trees_of_every_kind_survive_lost_answers(
    database_url: str,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    takes_effect: bool,
) -> None:
    """With every record's answer lost once, each function runs once, each family is born once, each end counts once."""
    executor = DurableExecutor(database_url, max_workers=4, poll_interval=0.05)
    runs: Counter[str] = Counter()
    lock = threading.Lock()

    def ran(name: str) -> int:
        with lock:
            runs[name] += 1
            return runs[name]

    @executor.task
    def double(number: int) -> int:
        ran(f"double {number}")
        return 2 * number

    @executor.task
    def fails() -> int:
        ran("fails")
        raise TaskError("on purpose")

    @executor.task
    def turn() -> Done[int] | None:
        return Done(9) if ran("turn") == 3 else None

    steps = executor.sequential_tasks("steps", double, double, double)
    turns = executor.looping_task("turns", turn, max_iterations=5)

    @executor.parent_task(fail_fast=False, finalize=lambda parent: [child.status.value for child in parent.children])
    def tolerant() -> Spawn[None]:
        ran("tolerant")
        return Spawn(None, [fails.bind(), double.bind(100)])

    @executor.parent_task
    def gives_up() -> Spawn[None]:
        ran("gives_up")
        return Spawn(None, [fails.bind()])

    def combine(parent: ParentResult[None]) -> str:
        ran("combine")
        return repr(parent.children_outputs)

    @executor.parent_task(finalize=combine, fail_fast=False)
    def root() -> Spawn[None]:
        ran("root")
        return Spawn(None, [steps.bind(1), turns.bind(), tolerant.bind(), gives_up.bind()])

    executor.migrate()
    audit.install(engine)
    answers = LostAnswers(monkeypatch, "record", 10_000, takes_effect=takes_effect, every_other=True)
    with caplog.at_level(logging.WARNING, "durable_sync"), executor:
        output = executor.enqueue(root).result(timeout=60)
        wait_until(lambda: executor._desk.background.recorder.idle, PATIENCE)
    assert output == repr((8, LoopResult(True, 9), ["failed", "completed"], None))
    assert runs == {
        **{f"double {number}": 1 for number in (1, 2, 4, 100)},
        "fails": 2,
        "turn": 3,
        "tolerant": 1,
        "gives_up": 1,
        "root": 1,
        "combine": 1,
    }
    rows = families.members(engine)
    # The root, its children, their own (3, 3, 2, 1), and two finalizes.
    assert len(rows) == 1 + 4 + 9 + 2
    assert families.problems(rows) == []
    assert ends(engine) == dict.fromkeys((row.id for row in rows), 1)
    assert len(answers.seen_uncertain) >= 10
    assert "fenced off" not in caplog.text


# One outcome, tried again after others have gone on from it


@frozen
class Scene:
    """One process, whose answers get lost, and another that goes on."""

    ours: Process
    theirs: Process
    engine: Engine

    def again(self, outcome: Fenced) -> None:
        """Tries an outcome again whose COMMIT was not answered: it counts as written, and nothing changes."""
        before = families.members(self.engine)
        recorded = self.ours.record(outcome, uncertain=True)
        assert recorded.won == {outcome.identity}, "it would be called fenced off"
        assert families.members(self.engine) == before
        assert families.problems(before) == []


@pytest.fixture
def scene(database_url: str, engine: Engine) -> Scene:
    return Scene(Process(database_url, "ours"), Process(database_url, "theirs"), engine)


def enqueue(scene: Scene, task: Any, *args: Any) -> str:
    return str(scene.ours.executor.enqueue(task, *args).execution_id)


def _nothing(_scene: Scene, _parent: str, _kin: Kin) -> None: ...


def _a_child_completes(scene: Scene, _parent: str, kin: Kin) -> None:
    scene.theirs.complete(kin.children[0])


def _all_complete(scene: Scene, parent: str, kin: Kin) -> None:
    for name in (*kin.children, kin.finalize):
        scene.theirs.complete(str(name))
    assert statuses(scene.engine)[parent] == "completed"


def _a_child_fails(scene: Scene, _parent: str, kin: Kin) -> None:
    scene.theirs.record(scene.theirs.failing(kin.children[1]))


def _it_is_cancelled(scene: Scene, parent: str, _kin: Kin) -> None:
    scene.theirs.cancel(parent)


@pytest.mark.parametrize(
    "meanwhile",
    [_nothing, _a_child_completes, _all_complete, _a_child_fails, _it_is_cancelled],
    ids=lambda meanwhile: meanwhile.__name__.strip("_"),
)
def test_a_spawn_bears_one_family(scene: Scene, meanwhile: Callable[[Scene, str, Kin], None]) -> None:
    """Whatever the family has come to before the spawn is tried again, there is no second one."""
    parent = enqueue(scene, finalized)
    outcome = scene.ours.spawning(parent, leaf.bind(1), leaf.bind(2))
    scene.ours.record(outcome)
    meanwhile(scene, parent, Kin.born_with(outcome))
    scene.again(outcome)
    assert len(families.members(scene.engine)) == 4


def test_a_spawn_that_was_cancelled_before_it_was_written_bears_nobody(scene: Scene) -> None:
    """A COMMIT that did not take effect, and a cancel before the next try: the spawn is refused, and says so."""
    parent = enqueue(scene, finalized)
    outcome = scene.ours.spawning(parent, leaf.bind(1), leaf.bind(2))
    scene.theirs.cancel(parent)
    assert scene.ours.record(outcome, uncertain=True).won == set()
    assert len(families.members(scene.engine)) == 1


@pytest.mark.parametrize("moved_on", [False, True], ids=["at once", "later"])
def test_a_finalize_without_children_is_born_once(scene: Scene, moved_on: bool) -> None:
    """A parent without children spawns its finalize alone."""
    parent = enqueue(scene, finalized)
    outcome = scene.ours.spawning(parent)
    scene.ours.record(outcome)
    kin = Kin.born_with(outcome)
    assert kin.finalize is not None
    if moved_on:
        scene.theirs.complete(kin.finalize)
    scene.again(outcome)
    assert len(families.members(scene.engine)) == 2


@pytest.mark.parametrize("task", [sequence, loop], ids=["sequence", "loop"])
@pytest.mark.parametrize("moved_on", [False, True], ids=["at once", "later"])
def test_a_step_or_an_iteration_is_followed_once(scene: Scene, task: Any, moved_on: bool) -> None:
    """The next step gets its turn once, and the next iteration is born once."""
    parent = enqueue(scene, task, 1)
    kin = scene.ours.spawn(parent)
    output = None if task is loop else 1
    outcome = scene.ours.completing(kin.children[0], output)
    scene.ours.record(outcome)
    if moved_on:
        follower = next(
            row.id for row in families.members(scene.engine) if row.parent_id == parent and row.child_index == 1
        )
        scene.theirs.complete(follower, output)
    scene.again(outcome)
    born = [row for row in families.members(scene.engine) if row.parent_id == parent]
    assert len(born) == (3 if task is sequence else 2 + moved_on)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("task", [family, finalized], ids=["plain", "with finalize"])
def test_a_childs_end_is_counted_once(scene: Scene, task: Any, last: bool) -> None:
    """Its parent's count goes down once, and what follows from the last one follows once."""
    parent = enqueue(scene, task)
    kin = scene.ours.spawn(parent, leaf.bind(1), leaf.bind(2))
    if last:
        scene.theirs.complete(kin.children[1])
    outcome = scene.ours.completing(kin.children[0])
    scene.ours.record(outcome)
    scene.again(outcome)
    (row,) = [row for row in families.members(scene.engine) if row.id == parent]
    assert row.unfinished_children == (0 if last else 1)


def test_a_failing_child_cascades_once(scene: Scene) -> None:
    """What ended by the failure is not ended again, and its sibling's stays refused."""
    root = enqueue(scene, family)
    kin = scene.ours.spawn(root, leaf.bind(), family.bind())
    scene.ours.spawn(kin.children[1], leaf.bind(), leaf.bind())
    outcome = scene.ours.failing(kin.children[0])
    audit.install(scene.engine)
    scene.ours.record(outcome)
    scene.again(outcome)
    assert statuses(scene.engine)[root] == "children_failed"
    assert ends(scene.engine) == dict.fromkeys(statuses(scene.engine), 1)


def test_a_spawn_whose_key_is_taken_fails_once(scene: Scene) -> None:
    """A parent that fails, because a child's key is taken, has failed by its own outcome also at the second try."""
    scene.theirs.executor.enqueue(leaf.options(key="k"))
    parent = enqueue(scene, family)
    outcome = scene.ours.spawning(parent, leaf.options(key="k").bind())
    scene.ours.record(outcome)
    assert statuses(scene.engine)[parent] == "failed"
    scene.again(outcome)


# What callers do


@took_effect
def test_a_cancel_of_a_tree_is_one_cancel(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, takes_effect: bool
) -> None:
    """The caller who ended the tree is told so, and what runs in it is stopped."""
    executor = DurableExecutor(database_url, max_workers=4, poll_interval=0.05)
    gate = Gate()

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task
    def parent(depth: int) -> Spawn[int]:
        return Spawn(depth, [parent.bind(depth - 1), child.bind()] if depth else [child.bind()])

    executor.migrate()
    audit.install(engine)
    with executor:
        handle = executor.enqueue(parent, 2)
        gate.wait_for_arrivals(3)
        answers = LostAnswers(monkeypatch, "cancel", takes_effect=takes_effect)
        assert handle.cancel() is True
        assert answers.seen_uncertain == [False, True]
        assert handle.cancel() is False
        assert set(statuses(engine).values()) == {"cancelled"}
        assert ends(engine) == dict.fromkeys(statuses(engine), 1)
        wait_until(lambda: not executor.running_execution_ids or gate.open(), PATIENCE)
    assert families.problems(families.members(engine)) == []


def test_a_cancel_by_another_is_not_ours(database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that did not take effect, and another's before the next try: only the other one ended it."""
    ours, theirs = Process(database_url, "ours"), Process(database_url, "theirs")
    handle = ours.executor.enqueue(family)
    ours.spawn(handle.execution_id, leaf.bind())
    theirs_handle = theirs.executor.get_handle(family, handle.execution_id)
    answers: list[bool] = []
    LostAnswers(monkeypatch, "cancel", takes_effect=False, meanwhile=lambda: answers.append(theirs_handle.cancel()))
    assert handle.cancel() is False
    assert answers == [True]


@took_effect
@pytest.mark.parametrize("how", ["output", "error"])
def test_a_wake_of_unknown_outcome_is_one_wake(
    database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, takes_effect: bool, how: str
) -> None:
    """The sleeper ends once, the waker is told that it did it, and the parent goes on once."""
    process = Process(database_url, "ours")
    executor = process.executor
    handle = executor.enqueue(family)
    (sleeping,) = process.spawn(handle.execution_id, sleeper.options(key="k").bind()).children
    audit.install(engine)
    answers = LostAnswers(monkeypatch, "wake", takes_effect=takes_effect)
    if how == "output":
        executor.wake(sleeper, "k", output=1)
    else:
        executor.wake(sleeper, "k", error="no")
    assert answers.seen_uncertain == [False, True]
    with pytest.raises(ExecutionNotFoundError):
        executor.wake(sleeper, "k", output=1)
    expected = ExecutionStatus.COMPLETED if how == "output" else ExecutionStatus.CHILDREN_FAILED
    assert handle.get_execution().status is expected
    if how == "output":
        assert handle.result() == ParentOutput("own", (1,))
    assert ends(engine) == {handle.execution_id: 1, sleeping: 1}


def test_a_wake_by_another_is_not_ours(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake that did not take effect, and another's before the next try: the first is told that nobody sleeps."""
    ours, theirs = Process(database_url, "ours"), Process(database_url, "theirs")
    handle = ours.executor.enqueue(sleeper.options(key="k"))
    LostAnswers(
        monkeypatch,
        "wake",
        takes_effect=False,
        meanwhile=lambda: theirs.executor.wake(sleeper, "k", output="theirs"),
    )
    with pytest.raises(ExecutionNotFoundError):
        ours.executor.wake(sleeper, "k", output="ours")
    assert handle.result(timeout=PATIENCE) == "theirs"


def test_a_wake_that_was_rolled_back_is_not_taken_for_anothers(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a deadlock it is known that nothing was written: whoever woke the sleeper, it was another."""
    ours, theirs = Process(database_url, "ours"), Process(database_url, "theirs")
    ours.executor.enqueue(sleeper.options(key="k"))
    LostAnswers(
        monkeypatch,
        "wake",
        takes_effect=False,
        error=lambda: _WriterBusyError("as if it were a deadlock"),
        meanwhile=lambda: theirs.executor.wake(sleeper, "k", output="same"),
    )
    with pytest.raises(ExecutionNotFoundError):
        ours.executor.wake(sleeper, "k", output="same")


def test_who_waits_hears_of_an_end_whose_answer_was_lost(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second try tells what the first one did: nobody waits for a poll that may be far off."""
    scene = Process(sqlite_url, "ours")
    parent = scene.executor.enqueue(family).execution_id
    kin = scene.spawn(parent, leaf.bind(), leaf.bind())
    outcome = scene.completing(kin.children[0])
    scene.record(outcome)
    assert scene.record(outcome, uncertain=True).effects.finished == [kin.children[0]]
    spawns = scene.spawning(scene.executor.enqueue(family).execution_id, leaf.bind())
    scene.record(spawns)
    assert scene.record(spawns, uncertain=True).effects.ready
