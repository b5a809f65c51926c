"""The interleavings that design.md lists, each held open on purpose. The numbers are those of the list there.

Number 4, which needs parents, is in test_tree_races.py; what number 1 is for direct claims, in test_direct_claims.py.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.orm import Session

from durable_sync import (
    DurableError,
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    TaskContext,
)
from durable_sync.engine.heartbeat import Heartbeat
from durable_sync.storage import claiming, enqueueing, leases, recording, trees
from durable_sync.storage.statements import Fenced
from durable_sync.storage.storage import Storage
from durable_sync.transitions import Transition, complete, fail, release, retry
from tests.gates import PATIENCE, Gate
from tests.races.holding import (
    LAPSED,
    Blocked,
    LostAnswers,
    claim,
    enqueue,
    held_after,
    held_before,
    in_thread,
    incarnation,
    open_storage,
    sends,
    wait_for,
)
from tests.races.looking import row, rows
from tests.races.stepping import counted, wait_for_steps
from tests.waiting import wait_until

GAVE_UP = '{"type": "TaskError", "message": "gave up"}'


# 1. A claim whose outcome is unknown


@pytest.mark.parametrize("loss", ["answer", "rows"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_1_a_claim_that_never_arrived_is_released(
    database_url: str, monkeypatch: pytest.MonkeyPatch, loss: str, busy: bool
) -> None:
    """What the database says is ours and memory doesn't know is given back while we live, and counts as no start."""
    executor = DurableExecutor(database_url, lease=2, max_workers=4, poll_interval=0.2)
    gate = Gate()
    runs: list[int] = []

    @executor.task
    def run(ctx: TaskContext) -> int:
        runs.append(ctx.attempt)
        return ctx.attempt

    @executor.task
    def occupy() -> None:
        gate.pass_through()

    with executor:
        claimer = executor._desk.background.claimer
        wake, wakers = claimer.wake, set[str]()
        monkeypatch.setattr(claimer, "wake", lambda: (wakers.add(threading.current_thread().name), wake()))
        if busy:
            executor.enqueue(occupy)
            gate.wait_for_arrivals()
        lost = _lose_a_claim(monkeypatch, loss)
        handle = executor.enqueue(run.options(key="not claimed at once"))
        wait_for(lost)
        assert row(database_url, handle.execution_id, "status") == ("running",)
        assert runs == []
        assert handle.result(timeout=PATIENCE) == 0
        gate.open()
    assert runs == [0]
    assert any("renew" in name for name in wakers), "nobody is told that there is work again"
    # Claim, release, claim, and nothing counted for what was never started.
    assert row(database_url, handle.execution_id, "claim_token, starts, recoveries") == (2, 1, 0)


def _lose_a_claim(monkeypatch: pytest.MonkeyPatch, loss: str) -> threading.Event:
    lost = threading.Event()
    claim_them = Storage.claim

    if loss == "answer":
        answers = LostAnswers(monkeypatch, "claim")

        def claim_without_answer(*args: Any, **kwargs: Any) -> Any:
            try:
                return claim_them(*args, **kwargs)
            finally:
                if answers.left == 0:
                    lost.set()

        monkeypatch.setattr(Storage, "claim", claim_without_answer)
        return lost

    def claim_and_drop(*args: Any, **kwargs: Any) -> Any:
        claimed = claim_them(*args, **kwargs)
        if claimed and not lost.is_set():
            lost.set()
            return []
        return claimed

    monkeypatch.setattr(Storage, "claim", claim_and_drop)
    return lost


def test_1_a_claim_that_arrives_late_is_not_released(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim that has committed and is slow to arrive in memory is left alone, up to the last moment."""
    executor = DurableExecutor(database_url, lease=4, max_workers=4, poll_interval=0.2)
    occupied, claimed, ran = Gate(), Gate(), Gate()

    @executor.task
    def occupy() -> None:
        occupied.pass_through()

    @executor.task
    def run() -> None:
        ran.pass_through()

    release = Heartbeat._release_strangers
    finished = threading.Event()

    def release_while_the_claim_arrives(self: Heartbeat, unknown: Any, *args: Any) -> None:
        if unknown and self._strangers and not finished.is_set():
            # Second sight of the row: the claim arrives between the look into memory and the judgement.
            claimed.open()
            ran.wait_for_arrivals()
            wait_until(lambda: executor._desk.background.attempts.claiming_since is None)
            finished.set()
        release(self, unknown, *args)

    with executor:
        executor.enqueue(occupy)
        occupied.wait_for_arrivals()
        monkeypatch.setattr(Heartbeat, "_release_strangers", release_while_the_claim_arrives)
        claim_them = Storage.claim

        def claim_slowly(*args: Any, **kwargs: Any) -> Any:
            result = claim_them(*args, **kwargs)
            if result and not finished.is_set():
                claimed.pass_through()
            return result

        monkeypatch.setattr(Storage, "claim", claim_slowly)
        with caplog.at_level(logging.WARNING, "durable_sync"):
            handle = executor.enqueue(run.options(key="not claimed at once"))
            wait_for(finished)
            compared = counted(monkeypatch, executor._desk.background.heartbeat)
            wait_for_steps(compared, 2)
            ran.open()
            handle.result(timeout=PATIENCE)
        occupied.open()
    assert row(database_url, handle.execution_id, "claim_token, starts") == (1, 1)
    assert "never arrived" not in caplog.text


def test_1_a_claim_of_a_former_life_is_not_started(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was claimed by an incarnation that died before the answer came is started by nobody under that claim."""
    executor = DurableExecutor(database_url, lease=1, max_workers=4, poll_interval=0.1)
    others = open_storage(database_url)
    tokens: list[int] = []

    @executor.task
    def run() -> None:
        background = executor._desk.background
        assert background is not None
        (attempt,) = background.attempts.running()
        tokens.append(attempt.claimed.claim_token)

    with executor:
        lease = executor._desk.background.lease
        former = lease.executor_id
        gate = held_after(monkeypatch, Storage, "claim")
        handle = executor.enqueue(run.options(key="not claimed at once"))
        gate.wait_for_arrivals()
        others.resign(former)
        wait_until(lambda: lease.executor_id != former and lease.may_start_work(), PATIENCE)
        gate.open()
        handle.result(timeout=PATIENCE)
    assert tokens == [2]


# 2. Reap against renew


def test_2_a_renewal_under_way_keeps_the_reaper_off(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that has been written and not committed wins against a reaper that saw the old lease."""
    ours, theirs = open_storage(database_url), open_storage(database_url)
    ours.register(incarnation("a", lease=LAPSED))
    (execution_id,) = enqueue(ours)
    claim(ours, [execution_id], "a")
    assert theirs.look_for_dead().work
    gate = held_after(monkeypatch, leases, "renew")
    renewal = in_thread(ours.renew, incarnation("a"))
    gate.wait_for_arrivals()
    blocked = Blocked(theirs)
    reaped = in_thread(theirs.reap, gave_up=GAVE_UP)
    blocked.wait()
    gate.open()
    assert renewal.result(PATIENCE) is True
    assert reaped.result(PATIENCE).dead == []
    assert reaped.result().recovered == []
    assert row(database_url, execution_id, "status, recoveries") == ("running", 0)


def test_2_a_reaper_under_way_refuses_the_renewal(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incarnation that is being marked dead can't renew: it learns that it is dead."""
    ours, theirs = open_storage(database_url), open_storage(database_url)
    ours.register(incarnation("a", lease=LAPSED))
    (execution_id,) = enqueue(ours)
    (claimed,) = claim(ours, [execution_id], "a")
    gate = held_after(monkeypatch, leases, "mark_dead")
    reaped = in_thread(theirs.reap, gave_up=GAVE_UP)
    gate.wait_for_arrivals()
    blocked = Blocked(ours)
    renewal = in_thread(ours.renew, incarnation("a"))
    blocked.wait()
    gate.open()
    assert renewal.result(PATIENCE) is False
    assert reaped.result(PATIENCE).dead == ["a"]
    assert [found[1] for found in reaped.result().recovered] == [execution_id]
    # And it stays dead: neither a later renewal nor a late outcome changes that.
    assert ours.renew(incarnation("a")) is False
    assert ours.record([Fenced(execution_id, claimed.claim_token, complete('"late"'))], uncertain=False).won == set()


# 3. Claim against reap


def test_3_a_claim_that_commits_after_its_owner_died_is_recovered(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sweep looks for work whose owner isn't alive, however it came to be there."""
    ours, theirs = open_storage(database_url), open_storage(database_url)
    if ours.database.dialect.single_writer:
        pytest.skip("nobody can be marked dead while another writes")
    ours.register(incarnation("a", lease=LAPSED))
    (execution_id,) = enqueue(ours)
    gate = held_after(monkeypatch, claiming, "take")
    claiming_now = in_thread(claim, ours, [execution_id], "a")
    gate.wait_for_arrivals()
    swept = theirs.reap(gave_up=GAVE_UP)
    assert (swept.dead, swept.recovered) == (["a"], [])
    gate.open()
    (claimed,) = claiming_now.result(PATIENCE)
    assert row(database_url, execution_id, "status, executor_id") == ("running", "a")
    assert theirs.look_for_dead().work
    assert [found[1] for found in theirs.reap(gave_up=GAVE_UP).recovered] == [execution_id]
    assert ours.record([Fenced(execution_id, claimed.claim_token, complete('"late"'))], uncertain=False).won == set()
    assert row(database_url, execution_id, "status, recoveries") == ("ready", 1)


def test_3_the_dead_claim_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that begins after its owner was marked dead takes nothing: it would only be counted as a recovery."""
    ours, theirs = open_storage(database_url), open_storage(database_url)
    ours.register(incarnation("a", lease=LAPSED))
    (execution_id,) = enqueue(ours)
    gate = held_before(monkeypatch, ours.database, "_write_once")
    claiming_now = in_thread(claim, ours, [execution_id], "a")
    gate.wait_for_arrivals()
    assert theirs.reap(gave_up=GAVE_UP).dead == ["a"]
    gate.open()
    assert claiming_now.result(PATIENCE) == []
    assert row(database_url, execution_id, "status, claim_token") == ("ready", 0)


def test_3_a_tombstone_stays_while_anything_refers_to_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead owner's row is deleted only when nothing runs under its id."""
    storage = open_storage(database_url)
    monkeypatch.setattr(leases, "_TOMBSTONE_SECONDS", -1)
    storage.register(incarnation("a"))
    (execution_id,) = enqueue(storage)
    claim(storage, [execution_id], "a")
    storage.resign("a")
    assert storage.bury() == 0
    storage.reap(gave_up=GAVE_UP)
    assert storage.bury() == 1


@pytest.mark.parametrize(
    "late",
    [complete('"late"'), fail('{"type": "late"}'), retry('{"type": "late"}', 0), release(started=True)],
    ids=lambda transition: str(transition.name),
)
def test_3_what_a_former_owner_says_changes_nothing_for_the_present_one(database_url: str, late: Transition) -> None:
    """While the next owner runs an execution, the outcome of the one before is refused, whatever it is."""
    storage = open_storage(database_url)
    storage.register(incarnation("dead", lease=LAPSED))
    (execution_id,) = enqueue(storage)
    (former,) = claim(storage, [execution_id], "dead")
    storage.reap(gave_up=GAVE_UP)
    storage.register(incarnation("a"))
    (present,) = claim(storage, [execution_id], "a")
    assert present.claim_token > former.claim_token
    assert storage.record([Fenced(execution_id, former.claim_token, late)], uncertain=False).won == set()
    assert storage.record([Fenced(execution_id, former.claim_token, late)], uncertain=True).won == set()
    assert row(database_url, execution_id, "status, executor_id, failures") == ("running", "a", 0)
    outcome = Fenced(execution_id, present.claim_token, complete('"present"'))
    assert storage.record([outcome], uncertain=False).won == {outcome.identity}


# 5. Recording against cancelling


def three_claimed(storage: Storage) -> list[Fenced]:
    """Three executions that run here, with the outcomes that they come to."""
    storage.register(incarnation("a"))
    return [
        Fenced(found.execution_id, found.claim_token, complete('"done"'))
        for found in claim(storage, enqueue(storage, 3), "a")
    ]


def test_5_a_cancel_that_comes_while_outcomes_are_recorded(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished is final: a cancel that waited for the outcome's commit ends nothing, and says so."""
    ours, theirs = open_storage(database_url), open_storage(database_url)
    outcomes = three_claimed(ours)
    gate = held_after(monkeypatch, recording, "record")
    recorded = in_thread(ours.record, outcomes, uncertain=False)
    gate.wait_for_arrivals()
    blocked = Blocked(theirs)
    cancelled = in_thread(theirs.cancel, outcomes[1].execution_id, GAVE_UP, patience=0)
    blocked.wait()
    gate.open()
    assert recorded.result(PATIENCE).won == {outcome.identity for outcome in outcomes}
    assert cancelled.result(PATIENCE).finished == []
    assert rows(database_url, "status") == [("completed",)] * 3


def test_5_outcomes_that_come_while_one_is_cancelled(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once cancelled, no outcome is accepted; the others of its batch are."""
    ours, theirs = open_storage(database_url), open_storage(database_url)
    outcomes = three_claimed(ours)
    gate = held_after(monkeypatch, trees, "apply_to")
    cancelled = in_thread(theirs.cancel, outcomes[1].execution_id, GAVE_UP, patience=0)
    gate.wait_for_arrivals()
    blocked = Blocked(ours)
    recorded = in_thread(ours.record, outcomes, uncertain=False)
    blocked.wait()
    gate.open()
    assert cancelled.result(PATIENCE).finished == [outcomes[1].execution_id]
    assert recorded.result(PATIENCE).won == {outcomes[0].identity, outcomes[2].identity}
    assert rows(database_url, "status") == [("completed",), ("cancelled",), ("completed",)]


def test_5_batches_in_any_order_do_not_lock_each_other_out(database_url: str) -> None:
    """Two transactions over the same executions, in opposite orders, both come to an end, one of them having won."""
    ours, theirs = open_storage(database_url), open_storage(database_url)
    ours.register(incarnation("a"))
    for _ in range(5):
        claimed = claim(ours, enqueue(ours, 40), "a")
        outcomes = [Fenced(found.execution_id, found.claim_token, complete('"done"')) for found in claimed]
        start = threading.Barrier(2)

        def record(storage: Storage, batch: list[Fenced], start: threading.Barrier = start) -> set[tuple[str, int]]:
            start.wait(PATIENCE)
            return storage.record(batch, uncertain=False).won

        first = in_thread(record, ours, outcomes)
        second = in_thread(record, theirs, outcomes[::-1])
        assert sorted(map(len, (first.result(PATIENCE), second.result(PATIENCE)))) == [0, 40]


@pytest.mark.parametrize("stale_first", [True, False], ids=["stale first", "stale last"])
def test_5_a_stale_outcome_takes_none_of_its_batch_with_it(database_url: str, stale_first: bool) -> None:
    """Of two outcomes of one execution in one batch, of an old claim and of the present one, the present one counts."""
    storage = open_storage(database_url)
    storage.register(incarnation("dead", lease=LAPSED))
    (execution_id,) = enqueue(storage)
    (stale,) = claim(storage, [execution_id], "dead")
    storage.reap(gave_up=GAVE_UP)
    storage.register(incarnation("a"))
    (present,) = claim(storage, [execution_id], "a")
    batch = [
        Fenced(execution_id, stale.claim_token, complete('"stale"')),
        Fenced(execution_id, present.claim_token, complete('"present"')),
    ]
    won = storage.record(batch if stale_first else batch[::-1], uncertain=False).won
    assert won == {batch[1].identity}
    assert row(database_url, execution_id, "status, run_output") == ("completed", '"present"')


# 6. What dies beside a poison task


def recovered(url: str, number: int, *, task: str, max_recoveries: int) -> list[str]:
    """Executions that a dead owner ran, recovered once."""
    storage = open_storage(url)
    storage.register(incarnation("dead", lease=LAPSED))
    ids = enqueue(storage, number, task=task, recoveries=max_recoveries)
    claim(storage, ids, "dead")
    assert len(storage.reap(gave_up=GAVE_UP).recovered) == number
    storage.database.retire()
    return ids


def test_6_what_was_recovered_runs_alone_of_its_kind(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One suspect at a time is claimed by a process, without prefetch; ordinary work goes on beside it."""
    ids = recovered(database_url, 5, task="suspect", max_recoveries=3)
    executor = DurableExecutor(database_url, max_workers=4, poll_interval=0.1)
    gate = Gate()
    running, most = [0], [0]

    @executor.task
    def suspect() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        gate.pass_through()
        running[0] -= 1

    @executor.task
    def ordinary() -> None:
        pass

    executor.start()
    gate.wait_for_arrivals()
    for handle in executor.enqueue_many([ordinary.bind() for _ in range(20)]):
        handle.result(timeout=PATIENCE)
    wait_for_steps(counted(monkeypatch, executor._desk.background.claimer), 3)
    suspects = dict(rows(database_url, "id, status"))
    assert sorted(suspects[execution_id] for execution_id in ids) == ["ready"] * 4 + ["running"]
    gate.open()
    executor.drain(timeout=PATIENCE)
    assert most == [1]
    executor.shutdown()


def test_6_the_last_chance_is_taken_with_nothing_beside(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one more recovery would fail waits until its process is idle, and keeps other work off while it runs."""
    executor = DurableExecutor(database_url, max_workers=4, poll_interval=0.1)
    occupied, alone, beside = Gate(), Gate(), Gate()

    @executor.task
    def occupy() -> None:
        occupied.pass_through()

    @executor.task
    def ordinary() -> None:
        beside.pass_through()

    executor.start()
    executor.enqueue_many([occupy.bind(), occupy.bind()])
    occupied.wait_for_arrivals(2)
    # Nobody here knows the task until it has been through a crash.
    (last_chance,) = recovered(database_url, 1, task="suspect", max_recoveries=1)

    @executor.task
    def suspect() -> None:
        alone.pass_through()

    steps = counted(monkeypatch, executor._desk.background.claimer)
    wait_for_steps(steps, 3)
    assert row(database_url, last_chance, "status") == ("ready",)
    occupied.open()
    alone.wait_for_arrivals()
    handle = executor.enqueue(ordinary)
    wait_for_steps(steps, 3)
    assert not handle.running()
    assert beside.nobody_came()
    beside.open()
    alone.open()
    handle.result(timeout=PATIENCE)
    assert row(database_url, last_chance, "status") == ("completed",)
    executor.shutdown()


# 7. An interrupt while the task is inside the library


@pytest.mark.parametrize(("verb", "key"), [("enqueue_claimed", None), ("enqueue", "not claimed at once")])
def test_7_an_interrupt_waits_until_an_enqueue_is_through(
    database_url: str, monkeypatch: pytest.MonkeyPatch, verb: str, key: str | None
) -> None:
    """A task that is stopped while it enqueues has enqueued once, and gets no further than that."""
    executor = DurableExecutor(database_url, max_workers=2)
    got_further: list[str] = []

    @executor.task
    def child() -> str:
        return "ran"

    @executor.task(timeout=0.2)
    def parent() -> None:
        handle = executor.enqueue(child.options(key=key))
        got_further.append(handle.execution_id)

    executor.start()
    handle = executor.enqueue(parent.options(delay=0.3))
    gate = held_after(monkeypatch, enqueueing, verb)
    gate.wait_for_arrivals()
    (attempt,) = executor._desk.background.attempts.running()
    wait_until(lambda: attempt.interruptible.interrupted, PATIENCE)
    assert attempt.is_running
    gate.open()
    assert handle.wait(timeout=PATIENCE).status is ExecutionStatus.TIMED_OUT
    executor.drain(timeout=PATIENCE)
    assert got_further == []
    children = rows(database_url, "task_id, status")
    assert children.count(("child", "completed")) == 1
    assert len(children) == 2
    executor.shutdown()


def test_7_an_interrupt_waits_until_a_commit_is_told_of(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is stopped when its own transaction has just committed does not keep others from hearing of it."""
    executor = DurableExecutor(database_url, max_workers=2)
    engine = create_engine(database_url)
    gate, told, got_further = Gate(), [], []

    @executor.task
    def child() -> None: ...

    @executor.task
    def parent() -> None:
        with Session(engine) as session:
            executor.using(session).enqueue(child)
            session.commit()
        got_further.append("beyond the commit")

    executor.start()
    messenger = executor._desk._messenger
    ready = messenger.ready

    def ready_slowly() -> None:
        if threading.current_thread().name.startswith("durable_sync-run"):
            gate.pass_through()
            ready()
            told.append("others")

    monkeypatch.setattr(messenger, "ready", ready_slowly)
    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    (attempt,) = executor._desk.background.attempts.running()
    assert handle.cancel()
    wait_until(lambda: attempt.interruptible.interrupted, PATIENCE)
    gate.open()
    wait_until(lambda: executor.running_execution_ids == frozenset(), PATIENCE)
    assert told == ["others"]
    assert got_further == []
    executor.shutdown()
    engine.dispose()


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_7_a_task_that_waits_for_others_can_be_stopped(sqlite_url: str, how: str) -> None:
    """A wait on a handle inside a task is left as soon as the task is stopped."""
    executor = DurableExecutor(sqlite_url, max_workers=2)
    gate, waiting = Gate(), threading.Event()

    @executor.task
    def never() -> None:
        gate.pass_through()

    @executor.task(timeout=0.5 if how == "timeout" else None)
    def waits(child: str) -> None:
        waiting.set()
        executor.get_handle(never, child).result()

    executor.start()
    child = executor.enqueue(never)
    gate.wait_for_arrivals()
    handle = executor.enqueue(waits, child.execution_id)
    wait_for(waiting)
    if how == "cancel":
        assert handle.cancel()
    wait_until(lambda: executor.running_execution_ids == {child.execution_id}, 4, "the waiting task was not stopped")
    expected = ExecutionStatus.TIMED_OUT if how == "timeout" else ExecutionStatus.CANCELLED
    assert handle.wait(timeout=PATIENCE).status is expected
    gate.open()
    executor.shutdown()


# 8. A user's transaction on SQLite that outlives the lease


def locked(url: str) -> sqlite3.Connection:
    """A connection of a user's that holds SQLite's write lock."""
    name = make_url(url).database
    assert name is not None
    connection = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_8_nobody_is_reaped_after_a_lock_longer_than_the_lease(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was blocked waits one renewal before it reaps: the others were blocked too, and live."""
    executors = [DurableExecutor(sqlite_url, name=name, lease=2) for name in ("a", "b")]
    for executor in executors:
        executor.start()
    first, second = (executor._desk.background for executor in executors)
    user = locked(sqlite_url)
    wait_until(lambda: first.lease.remaining < -0.2 and second.lease.remaining < -0.2, PATIENCE)
    # The second's renewal comes last, after the first has renewed and has looked for the dead.
    gate = held_before(monkeypatch, second.heartbeat, "_renew")
    gate.wait_for_arrivals()
    looks = counted(monkeypatch, first.reaper)
    user.execute("COMMIT")
    user.close()
    wait_until(lambda: first.lease.remaining > 0, PATIENCE)
    wait_for_steps(looks, 1)
    gate.open()
    wait_until(lambda: second.lease.remaining > 0, PATIENCE)
    wait_until(lambda: first.lease.may_reap() and second.lease.may_reap(), PATIENCE)
    wait_for_steps(looks, 1)
    assert rows(sqlite_url, "dead_at", "durable_executors") == [(None,), (None,)]
    for executor in executors:
        executor.shutdown()


@pytest.mark.parametrize("sweeps", ["during the lock", "from before"])
def test_8_nobody_is_reaped_by_who_has_a_little_of_its_own_lease_left(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, sweeps: str
) -> None:
    """Whoever could not renew reaps nobody, also while its own lease lasts, and by no sweep that has begun before."""
    first, second = (
        DurableExecutor(sqlite_url, name="first", lease=4),
        DurableExecutor(sqlite_url, name="second", lease=4),
    )
    second.start()
    theirs = second._desk.background
    # Who gets the lock first, once it is free, is chance: here it is the sweep, and both renewals come after it.
    their_turn = held_before(monkeypatch, theirs.heartbeat, "_renew")
    wait_until(lambda: theirs.lease.remaining < 3.4, PATIENCE)  # out of step: the second's lease ends first
    first.start()
    ours = first._desk.background
    their_turn.wait_for_arrivals()
    our_turn = held_before(monkeypatch, ours.heartbeat, "_renew")
    user = locked(sqlite_url)
    if sweeps == "from before":
        wait_until(lambda: theirs.lease.remaining < 1, PATIENCE)
        asked = sends(ours.reaper._storage.database.engine, "BEGIN IMMEDIATE")
        sweep: Future[Any] = in_thread(ours.reaper._sweep)
        wait_for(asked)
    wait_until(lambda: theirs.lease.remaining < -0.05, PATIENCE)
    assert ours.lease.remaining > 0, "the machine was too slow: the test has shown nothing"
    if sweeps == "during the lock":
        sweep = in_thread(ours.reaper.step)
    user.execute("COMMIT")
    user.close()
    sweep.result(PATIENCE)
    our_turn.open()
    their_turn.open()
    wait_until(lambda: ours.lease.may_reap() and theirs.lease.may_reap(), PATIENCE)
    wait_for_steps(counted(monkeypatch, ours.reaper), 1)
    assert rows(sqlite_url, "dead_at", "durable_executors") == [(None,), (None,)]
    for executor in (first, second):
        executor.shutdown()


@pytest.mark.parametrize("started", [False, True], ids=["alone", "beside other writers"])
def test_8_an_enqueue_that_blocks_itself_says_so(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """The error of an enqueue on the thread whose own session holds SQLite's lock names `using`."""
    monkeypatch.setattr("durable_sync.desk.CALLER_PATIENCE", 0.1)
    executor = DurableExecutor(sqlite_url, lease=1)

    @executor.task
    def run() -> None: ...

    executor.migrate()
    if started:
        # As if a loop had the turn to write, and waited for the lock itself, all the time.
        executor._desk.storage.database._writers.turn.acquire()
    engine = create_engine(sqlite_url)
    with Session(engine) as session:
        session.execute(text("CREATE TABLE mine (x INTEGER)"))
        session.execute(text("INSERT INTO mine VALUES (1)"))
        with pytest.raises(DurableError, match=r"executor\.using\(session\)"):
            executor.enqueue(run)
        if started:
            executor._desk.storage.database._writers.turn.release()
        # And as it says, that way it works.
        executor.using(session).enqueue(run)
        session.commit()
    assert rows(sqlite_url, "status") == [("ready",)]
    engine.dispose()
    executor.shutdown()


# 9. A commit hook that fires before the commit


def slow_to_commit(engine: Engine, gate: Gate) -> None:
    """Holds each COMMIT at the gate, after all hooks that fire before it."""
    do_commit = engine.dialect.do_commit

    def held(connection: Any) -> None:
        gate.pass_through()
        do_commit(connection)

    engine.dialect.do_commit = held  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_9_work_enqueued_in_a_slow_transaction_is_found(
    database_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whoever is woken before the commit looks again: the execution is invisible before it, and starts after it."""
    executor = DurableExecutor(database_url, max_workers=2, poll_interval=0.3)

    @executor.task
    def run() -> str:
        return "ran"

    executor.start()
    engine = create_engine(database_url)
    gate = Gate()
    slow_to_commit(engine, gate)
    connection = engine.connect()
    transaction: Any = Session(connection) if kind == "session" else connection
    handle = executor.using(transaction).enqueue(run)
    committing = (
        in_thread(transaction.commit) if kind == "connection" else in_thread(_commit_both, transaction, connection)
    )
    gate.wait_for_arrivals()
    looks = counted(monkeypatch, executor._desk.background.claimer)
    wait_for_steps(looks, 3)
    with pytest.raises(ExecutionNotFoundError):
        handle.get_execution()
    gate.open()
    committing.result(PATIENCE)
    assert handle.result(timeout=PATIENCE) == "ran"
    connection.close()
    engine.dispose()
    executor.shutdown()


def _commit_both(session: Session, connection: Any) -> None:
    session.commit()
    connection.commit()


def test_9_work_enqueued_in_a_transaction_that_rolls_back_never_was(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path and the wake-up leave nothing behind of a transaction that did not commit."""
    executor = DurableExecutor(database_url, max_workers=2, poll_interval=0.1)
    ran: list[int] = []

    @executor.task
    def run() -> None:
        ran.append(1)

    executor.start()
    engine = create_engine(database_url)
    with Session(engine) as session:
        handle = executor.using(session).enqueue(run)
        session.rollback()
        wait_for_steps(counted(monkeypatch, executor._desk.background.claimer), 3)
        with pytest.raises(ExecutionNotFoundError):
            handle.get_execution()
    assert ran == []
    assert rows(database_url, "id") == []
    engine.dispose()
    executor.shutdown()
