"""The pure model and a real storage, driven side by side by two executors in any order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select

from durable_sync.storage import sleepers
from durable_sync.storage.leases import Incarnation
from durable_sync.storage.records import ClaimedExecution
from durable_sync.storage.sleepers import Awakening
from durable_sync.storage.statements import Fenced
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects
from durable_sync.transitions import wake, wake_failed
from tests.clocks import ManualClock
from tests.races.holding import open_storage
from tests.races.model import Model, Row, S, is_finished, normal, waits_turn
from tests.races.outcomes import (
    ANY_BEGINNING,
    COMPLETE,
    DONE,
    ENDS,
    FAMILIES,
    INTENTIONS,
    KEYED,
    SECOND,
    SLEEPERS,
    Beginning,
    error,
    fenced,
    numbered_ids,
)

LEASE = 10 * SECOND
GAVE_UP = error("gave up")
FAILS = {"retry", "fail", "time_out"}
EXECUTORS = st.sampled_from(["a", "b"])
MAX_DEPTH = 3
MANY = 60
"""Rows; no more are begun on purpose."""


class TwoExecutors(RuleBasedStateMachine):
    """Each rule does the same to the database and to the model, and compares what both answered."""

    def __init__(self, storage: Storage, clock: ManualClock) -> None:
        super().__init__()
        self._storage = storage
        self.clock = clock
        with storage.database.engine.begin() as connection:
            for table in (storage.sql.executions, storage.sql.tables.executors):
                connection.execute(delete(table))
        self.model = Model()
        self.ids = numbered_ids()
        self._seen: dict[str, Row] | None = None
        self.lives = Counter[str]()
        self.claims: dict[tuple[str, int], ClaimedExecution] = {}
        self.batches: list[list[Fenced]] = []
        self.final: dict[str, Row] = {}
        self.starts, self.failures, self.recoveries = Counter[str](), Counter[str](), Counter[str]()
        for name in ("a", "b"):
            self.be_born(name)

    @property
    def storage(self) -> Storage:
        self._seen = None
        return self._storage

    @property
    def now(self) -> int:
        return self.clock.now()

    def incarnation(self, name: str) -> Incarnation:
        """The present life of an executor."""
        return Incarnation(executor_id=f"{name}{self.lives[name]}", name=name, hostname="h", pid=1, lease=LEASE)

    def be_born(self, name: str) -> None:
        self.lives[name] += 1
        self.storage.register(self.incarnation(name))
        self.model.register(self.incarnation(name).executor_id, LEASE, self.now)

    def agreed(
        self, before: dict[str, Row], effects: Effects, own: Iterable[str] = (), known: Iterable[str] = ()
    ) -> None:
        """What a verb says that it did is what came to be.

        `own` did it to themselves, or had nobody to tell; `known` may have ended before, and be told of again.
        """
        self.learn_names()
        after = self.model.rows
        ended = [
            name
            for name, row in after.items()
            if is_finished(row) and not is_finished(before.get(name, {"status": S.READY}))
        ]
        told_before = {name for name in effects.finished if name in before and is_finished(before[name])}
        assert told_before <= set(known)
        assert sorted(set(effects.finished) - told_before) == sorted(ended)
        stopped = {name for name in ended if name in before and before[name]["status"] is S.RUNNING}
        assert sorted(effects.stopped) == sorted(stopped - set(own))
        begun = [row for name, row in after.items() if _is_offered(row) and not _is_offered(before.get(name))]
        assert effects.ready or not begun

    def learn_names(self) -> None:
        """Storage gives iterations their ids."""
        if not self.model.unnamed:
            return
        places = {f"{row['parent_id']}/{row['child_index']}": name for name, row in self.stored().items()}
        for unnamed in list(self.model.unnamed):
            assert unnamed in places, "an iteration was not born"
            self.model.name(unnamed, places[unnamed])

    # --- the verbs ------------------------------------------------------------------------------

    @initialize(data=st.data(), is_deep=st.sampled_from([False, True, True]))
    def begin(self, data: st.DataObject, is_deep: bool) -> None:
        """With trees that have grown already, and with a childless execution."""
        for recoveries in (1, 3):
            self.store(Beginning(), recoveries)
        self._work("a", data, self.offered(), FAMILIES)
        if is_deep and self.offered():
            self._work("a", data, self.some(data), FAMILIES)
        self.store(Beginning(), 3)

    @precondition(lambda self: len(self.model.rows) < MANY)
    @rule(beginning=ANY_BEGINNING, max_recoveries=st.sampled_from([0, 1, 2, 3]))
    def enqueue(self, beginning: Beginning, max_recoveries: int) -> None:
        if beginning.delay:
            beginning = Beginning(delay=3 * SECOND)
        self.store(beginning, max_recoveries)

    def store(self, beginning: Beginning, max_recoveries: int) -> None:
        new = beginning.row(next(self.ids), max_recoveries)
        (stored,) = self.storage.enqueue([new], patience=0)
        assert stored.execution_id == self.model.enqueue(new, self.now)
        assert stored.created is (stored.execution_id == new.execution_id)

    @rule(name=EXECUTORS, data=st.data(), limit=st.sampled_from([6, 6, 2]))
    def claim(self, name: str, data: st.DataObject, limit: int) -> None:
        """Candidates are what a look has shown some time ago: they may be anything by now."""
        self._claim(name, data.draw(st.lists(self.any_of(self.offered()), min_size=1, max_size=6, unique=True)), limit)

    def any_of(self, preferred: list[str]) -> st.SearchStrategy[str]:
        """Executions."""
        every = st.sampled_from(list(self.model.rows))
        return st.one_of(st.sampled_from(preferred), every) if preferred else every

    def _claim(self, name: str, candidates: Sequence[str], limit: int) -> list[ClaimedExecution]:
        owner = self.incarnation(name).executor_id
        claimed = self.storage.claim(candidates, limit=limit, executor_id=owner)
        won = [found.execution_id for found in claimed]
        if self._storage.database.dialect.claims_from_many:
            free = self.model.claimable(candidates, owner)
            assert len(won) == min(len(free), limit)
            assert set(won) <= set(free)
        else:
            assert won == self.model.claimable(candidates[:limit], owner)
        self.model.claim(won, owner, self.now)
        for found in claimed:
            identity = (found.execution_id, found.claim_token)
            assert identity not in self.claims, "a claim token was used twice"
            row = self.model.rows[found.execution_id]
            assert found == ClaimedExecution.from_values([row[name] for name in ClaimedExecution.COLUMNS])
            self.claims[identity] = found
            self.starts[found.execution_id] += 1
        return claimed

    def running(self) -> list[tuple[str, int]]:
        """Claims that hold."""
        return [(row["id"], row["claim_token"]) for row in self.model.rows.values() if row["status"] is S.RUNNING]

    def outcomes(
        self, data: st.DataObject, identities: Iterable[tuple[str, int]], mood: st.SearchStrategy[Any] = INTENTIONS
    ) -> list[Fenced]:
        """One for each of these claims."""
        return [self.outcome(identity, data.draw(mood)) for identity in identities]

    def outcome(self, identity: tuple[str, int], intention: Any) -> Fenced:
        may_spawn = self.model.depth(identity[0]) < MAX_DEPTH and len(self.model.rows) < MANY
        return fenced(self.claims[identity], intention, self.ids, may_spawn=may_spawn)

    @precondition(running)
    @rule(data=st.data(), uncertain=st.sampled_from([False, False, True]))
    def record(self, data: st.DataObject, uncertain: bool) -> None:
        """Several at once, of one tree perhaps, in any order; by stale owners too."""
        known = st.one_of(*[st.sampled_from(some) for some in (self.running(), list(self.claims))])
        batch = self.outcomes(data, data.draw(st.lists(known, min_size=1, max_size=4, unique=True)))
        self._record(batch, uncertain=uncertain)

    def offered(self) -> list[str]:
        """What may be claimed now."""
        return [name for name in self.model.rows if self.model.is_offered(name)]

    @precondition(offered)
    @rule(name=EXECUTORS, data=st.data())
    def grow(self, name: str, data: st.DataObject) -> None:
        """Some become parents."""
        self._work(name, data, self.some(data), FAMILIES)

    @precondition(offered)
    @rule(name=EXECUTORS, data=st.data(), mood=st.sampled_from([INTENTIONS, ENDS]))
    def work(self, name: str, data: st.DataObject, mood: st.SearchStrategy[Any]) -> None:
        """Some come to whatever they may."""
        self._work(name, data, self.some(data), mood)

    @rule(name=EXECUTORS, data=st.data())
    def go_well(self, name: str, data: st.DataObject) -> None:
        """All that has been retried or put off is due, and completes: who waits for it goes on."""
        self.clock.advance(4)
        self.promote_due()
        self._work(name, data, self.offered(), st.one_of(COMPLETE, st.just(DONE)))

    def some(self, data: st.DataObject) -> list[str]:
        """Of what may be claimed: brothers and sisters of parents stay behind."""
        return data.draw(st.lists(st.sampled_from(self.offered()), min_size=1, unique=True))

    def _work(self, name: str, data: st.DataObject, candidates: list[str], mood: st.SearchStrategy[Any]) -> None:
        """An executor claims these, and comes to an end with all of them at once, in any order."""
        claimed = self._claim(name, candidates, len(candidates)) if candidates else []
        if claimed:
            order = data.draw(st.permutations([(found.execution_id, found.claim_token) for found in claimed]))
            self._record(self.outcomes(data, order, mood))

    def overtaken(self) -> list[tuple[str, int]]:
        """Claims of executions that run under a later claim by now."""
        rows = self.model.rows
        return [
            (name, token)
            for name, token in self.claims
            if rows[name]["status"] is S.RUNNING and token < rows[name]["claim_token"]
        ]

    @precondition(overtaken)
    @rule(data=st.data(), intention=INTENTIONS)
    def record_late(self, data: st.DataObject, intention: Any) -> None:
        """A stale owner speaks while the present one runs."""
        identity = data.draw(st.sampled_from(self.overtaken()))
        assert self._record([self.outcome(identity, intention)]) == set()

    def left_behind(self) -> list[tuple[str, int]]:
        """The last claims of executions that have finished, or have children."""
        stay = {S.RUNNING, S.READY}
        return [
            (row["id"], row["claim_token"])
            for row in self.model.rows.values()
            if row["claim_token"] and row["status"] not in stay
        ]

    @precondition(left_behind)
    @rule(data=st.data(), intention=INTENTIONS)
    def record_after_the_end(self, data: st.DataObject, intention: Any) -> None:
        """The last owner speaks once more."""
        identity = data.draw(st.sampled_from(self.left_behind()))
        assert self._record([self.outcome(identity, intention)]) == set()

    @precondition(running)
    @rule(data=st.data())
    def record_again(self, data: st.DataObject) -> None:
        """The answer was lost, so all is tried again: nothing changes, and what was written counts as won."""
        batch = self.outcomes(
            data, data.draw(st.lists(st.sampled_from(self.running()), min_size=1, max_size=4, unique=True))
        )
        won = self._record(batch)
        # Not known again: what was cancelled at once, because another outcome of the batch failed its parent.
        lost = {one.identity for one in batch if self.model.rows[one.execution_id]["status"] is S.CANCELLED}
        assert won - lost <= self._repeat(batch)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def record_much_later(self, data: st.DataObject) -> None:
        """The same after much else has happened: nothing changes."""
        self._repeat(data.draw(st.sampled_from(self.batches)))

    def _repeat(self, batch: list[Fenced]) -> set[tuple[str, int]]:
        before = self.stored()
        again = self.storage.record(batch, uncertain=True)
        # What the first try did may be told again, for nobody has heard of it.
        assert all(is_finished(before[name]) for name in again.effects.finished)
        assert again.effects.stopped == []
        assert self.stored() == before
        return again.won

    def _record(self, batch: list[Fenced], *, uncertain: bool = False) -> set[tuple[str, int]]:
        before = dict(self.model.rows)
        recorded = self.storage.record(batch, uncertain=uncertain)
        won = self.model.record(batch, self.now)
        by_others = recorded.won - won
        # What the outcome wanted was there, by whoever's doing: the uncertain can't tell.
        assert uncertain or not by_others
        assert all(
            before[one.execution_id]["status"] is one.transition.target for one in batch if one.identity in by_others
        )
        assert won <= recorded.won
        self.agreed(before, recorded.effects, own=_names(won), known=_names(by_others))
        self.count(batch, won)
        self.batches.append(batch)
        return won

    def count(self, batch: list[Fenced], won: set[tuple[str, int]]) -> None:
        for outcome in batch:
            name = outcome.execution_id
            if outcome.identity in won:
                # A parent whose children can't have their keys fails.
                refused = outcome.births and outcome.births[0].execution_id not in self.model.rows
                self.failures[name] += outcome.transition.name in FAILS or bool(refused)
                self.starts[name] -= outcome.transition.name == "release_unstarted"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Anything: a root, a child, a step or a finalize that waits for its turn."""
        below = [row["id"] for row in self.model.rows.values() if row["parent_id"] and not is_finished(row)]
        execution_id = data.draw(self.any_of(below))
        before = dict(self.model.rows)
        reason = error("Cancelled", next(self.ids))
        effects = self.storage.cancel(execution_id, reason, patience=0)
        assert self.model.cancel(execution_id, reason, self.now) is (execution_id in effects.finished)
        self.agreed(before, effects)

    def sleeping(self) -> list[Row]:
        return [row for row in self.model.rows.values() if row["status"] is S.SLEEPING]

    @rule(data=st.data(), transition=st.sampled_from([wake('"w"'), wake('"w"'), wake_failed(error("W"))]))
    def wake(self, data: st.DataObject, transition: Any) -> None:
        """Its own key, or one under which nobody sleeps; and once more, for the answer was lost."""
        keys = [(row["task_id"], row["key"]) for row in self.sleeping()]
        task_id, key = data.draw(
            st.sampled_from(keys or [("s", one.key) for one in SLEEPERS] + [("t", one.key) for one in KEYED])
        )
        before = dict(self.model.rows)
        awakening = Awakening(task_id, key, transition)
        woken = self.storage.wake(awakening, patience=0)
        assert woken is self.model.wake(task_id, key, transition, self.now)
        self.agreed(before, awakening.effects)
        assert self.wake_again(awakening) is woken
        assert self.storage.wake(Awakening(task_id, key, transition), patience=0) is False

    def wake_again(self, awakening: Awakening) -> bool:
        """The answer to its COMMIT was lost."""
        storage = self.storage
        return storage.database.transact(
            "wake", lambda tx: sleepers.wake(storage.sql, tx.connection, awakening, uncertain=True)
        )

    @rule()
    def end_oversleepers(self) -> None:
        before = dict(self.model.rows)
        effects = self.storage.end_oversleepers(error=error("O"))
        self.model.end_oversleepers(error("O"), self.now)
        self.agreed(before, effects)

    @rule(name=EXECUTORS)
    def renew(self, name: str) -> None:
        incarnation = self.incarnation(name)
        self.compare(incarnation.executor_id)
        alive = self.storage.renew(incarnation)
        assert alive is self.model.renew(incarnation.executor_id, LEASE, self.now)
        if not alive:
            self.be_born(name)

    @rule(seconds=st.sampled_from([3, 1, 11]))
    def time_passes(self, seconds: int) -> None:
        """Timers come due, and leases that nobody renews end."""
        self.clock.advance(seconds)

    @rule()
    def promote_due(self) -> None:
        assert self.storage.promote_due() == self.model.promote_due(self.now)

    @rule()
    def reap(self) -> None:
        before = dict(self.model.rows)
        survey = self.storage.look_for_dead()
        reaped = self.storage.reap(gave_up=GAVE_UP)
        dead, recovered, given_up = self.model.reap(GAVE_UP, self.now)
        assert set(reaped.dead) == dead
        assert {found[1] for found in reaped.recovered} == recovered
        assert {found[1] for found in reaped.given_up} == given_up
        assert survey.work is bool(dead or recovered or given_up)
        self.recoveries.update(recovered | given_up)
        self.agreed(before, reaped.effects, own=recovered | given_up)

    @rule(name=EXECUTORS)
    def take_over(self, name: str) -> None:
        """No lease is renewed in time, all is recovered, and one executor claims all that it can."""
        self.clock.advance(11)
        self.reap()
        for other in ("a", "b"):
            self.be_born(other)
        self._claim(name, list(self.model.rows), 6)

    @rule(name=EXECUTORS)
    def resign(self, name: str) -> None:
        """It goes on as another incarnation."""
        owner = self.incarnation(name).executor_id
        self.compare(owner)
        self.storage.resign(owner)
        self.model.leases[owner].dead = True
        self.be_born(name)

    def compare(self, owner: str) -> None:
        """What the heartbeat asks: what the database says an incarnation runs."""
        held = {identity for identity in self.running() if self.model.rows[identity[0]]["executor_id"] == owner}
        assert self.storage.owned(owner) == held

    # --- what holds at any time -----------------------------------------------------------------

    def stored(self) -> dict[str, Row]:
        """The database's rows, whole."""
        if self._seen is None:
            table = self._storage.sql.executions
            with self._storage.database.engine.execution_options(durable_sync_read=True).connect() as connection:
                rows = connection.execute(select(table)).mappings().all()
            self._seen = {row["id"]: normal(row) for row in rows}
        return self._seen

    def families(self) -> Iterator[tuple[Row, dict[str, Any], list[Row], list[Row]]]:
        """Each that has spawned: its row, its plan, its children in order, and its finalize if it has one."""
        stored = self.stored()
        for row in stored.values():
            if row["plan"] is not None:
                below = [other for other in stored.values() if other["parent_id"] == row["id"]]
                children = [child for child in below if child["child_index"] is not None]
                children.sort(key=lambda child: child["child_index"])
                yield row, json.loads(row["plan"]), children, [one for one in below if one["child_index"] is None]

    @invariant()
    def the_same_state(self) -> None:
        assert self.stored() == self.model.rows

    @invariant()
    def finished_is_final(self) -> None:
        for execution_id, row in self.stored().items():
            assert is_finished(row) is (row["finished_at"] is not None)
            assert row["active_key"] == (None if is_finished(row) else row["key"])
            if execution_id in self.final:
                assert row == self.final[execution_id]
            elif is_finished(row):
                self.final[execution_id] = row

    @invariant()
    def one_owner_at_a_time(self) -> None:
        """Only what runs has an owner that may write, and it alone has the last token."""
        last = Counter[str]()
        for execution_id, token in self.claims:
            last[execution_id] = max(last[execution_id], token)
        for execution_id, row in self.stored().items():
            assert row["claim_token"] == last[execution_id]

    @invariant()
    def counts_are_kept_apart(self) -> None:
        for execution_id, row in self.stored().items():
            assert row["starts"] == self.starts[execution_id]
            assert row["failures"] == self.failures[execution_id]
            assert row["recoveries"] == self.recoveries[execution_id]

    @invariant()
    def only_what_is_ready_can_be_found(self) -> None:
        """A row is in the claim index or waits for its time while it is ready, unless it waits for its turn."""
        for row in self.stored().values():
            if row["status"] is S.READY:
                assert row["lane"] is None or row["timer_at"] is None
                assert not waits_turn(row) or row["input_from"] is not None
            else:
                assert row["lane"] is None
                asleep = row["status"] is S.SLEEPING and row["timeout"] is not None
                assert (row["timer_at"] is not None) is asleep

    @invariant()
    def an_error_tells_how_it_ended(self) -> None:
        """Or how the last attempt failed, until there is a success."""
        for row in self.stored().values():
            if row["status"] not in {S.READY, S.RUNNING}:
                assert (row["error"] is not None) is (is_finished(row) and row["status"] is not S.COMPLETED)

    @invariant()
    def nothing_is_active_below_the_finished(self) -> None:
        for parent, _plan, children, finalize in self.families():
            assert not is_finished(parent) or all(map(is_finished, [*children, *finalize]))

    @invariant()
    def parents_wait_for_what_is_left(self) -> None:
        """Never for nothing, which would be for ever."""
        for parent, _plan, children, finalize in self.families():
            left = [child for child in children if not is_finished(child)]
            if parent["status"] is S.WAITING_FOR_CHILDREN:
                assert parent["unfinished_children"] == len(left) > 0
                assert any(not waits_turn(child) for child in left)
            if parent["status"] is S.WAITING_FOR_FINALIZE:
                assert parent["unfinished_children"] == len(left) == 0
                assert not is_finished(finalize[0])
                assert not waits_turn(finalize[0])

    @invariant()
    def all_in_their_turn(self) -> None:
        """One finalize, after the children; one step of a sequence at a time; no more iterations than there may be."""
        for _parent, plan, children, finalize in self.families():
            assert [one["id"] for one in finalize] == [plan["finalize"]] * (plan["finalize"] is not None)
            assert all(map(is_finished, children)) or all(_has_not_begun(one) for one in finalize)
            at_work = [child for child in children if not waits_turn(child) and not is_finished(child)]
            assert plan["kind"] == "children" or len(at_work) <= 1
            assert [child["child_index"] for child in children] == list(range(len(children)))
            assert plan["kind"] != "loop" or len(children) <= plan["max_iterations"]


def _names(identities: Iterable[tuple[str, int]]) -> set[str]:
    return {name for name, _token in identities}


def _has_not_begun(row: Row) -> bool:
    return waits_turn(row) or (is_finished(row) and row["claim_token"] == 0)


def _is_offered(row: Row | None) -> bool:
    """Whether it may be claimed, now or when its time has come."""
    return row is not None and row["status"] is S.READY and not waits_turn(row)


def drive(url: str, *, examples: int, steps: int) -> None:
    """Compares the model with the storage on this database."""
    clock = ManualClock()
    storage = open_storage(url, clock=clock)
    run_state_machine_as_test(
        lambda: TwoExecutors(storage, clock),
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# A failure is made small before it is shown, which takes a while.
@pytest.mark.timeout(400)
def test_a_storage_is_what_the_model_says(database_url: str) -> None:
    """In any order of verbs, with stale owners and lost answers, both stay the same and keep the promises."""
    drive(database_url, examples=40, steps=35)
