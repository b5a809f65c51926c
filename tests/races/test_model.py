"""The pure transitions and the real SQLite storage, driven side by side by two executors in any order."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from sqlalchemy import select

from durable_sync.execution import ACTIVE, ExecutionStatus
from durable_sync.ids import new_id
from durable_sync.storage.leases import Incarnation
from durable_sync.storage.records import NewExecution
from durable_sync.storage.statements import Fenced
from durable_sync.transitions import Transition, cancel_self, complete, fail, release, retry, time_out
from tests.clocks import ManualClock
from tests.races.holding import open_storage
from tests.races.model import Model, Row

LEASE = 10_000_000
GAVE_UP = '{"type": "gave up"}'
FAILS = {"retry", "fail", "time_out"}
EXECUTORS = st.sampled_from(["a", "b"])

OUTCOMES = st.one_of(
    st.builds(complete, st.sampled_from(['"x"', '"y"'])),
    st.builds(retry, st.just('{"type": "e"}'), st.sampled_from([0, 3_000_000])),
    st.builds(fail, st.just('{"type": "e"}')),
    st.builds(time_out, st.just('{"type": "t"}')),
    st.builds(cancel_self, st.just('{"type": "c"}')),
    st.builds(release, started=st.booleans()),
)


class TwoExecutors(RuleBasedStateMachine):
    """Each rule does the same to the database and to the model, and compares what both answered."""

    executions = Bundle("executions")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.clock = ManualClock()
        self.storage = open_storage(f"sqlite:///{self.folder}/model.db", clock=self.clock)
        self.model = Model()
        self.lives = Counter[str]()
        self.tokens: set[tuple[str, int]] = set()
        self.final: dict[str, Row] = {}
        self.starts, self.failures, self.recoveries = Counter[str](), Counter[str](), Counter[str]()
        for name in ("a", "b"):
            self.be_born(name)

    def teardown(self) -> None:
        self.storage.database.retire()
        shutil.rmtree(self.folder)

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

    # --- the verbs ------------------------------------------------------------------------------

    @initialize(target=executions)
    def begin(self) -> Any:
        """With some work to do."""
        return multiple(*[self.store(recoveries=recoveries) for recoveries in (1, 3, 3)])

    @rule(
        target=executions,
        delay=st.sampled_from([0, 0, 3_000_000]),
        max_recoveries=st.sampled_from([0, 1, 2, 3]),
        key=st.sampled_from([None, None, "k"]),
    )
    def enqueue(self, delay: int, max_recoveries: int, key: str | None) -> Any:
        return self.store(delay=delay, recoveries=max_recoveries, key=key)

    def store(self, *, delay: int = 0, recoveries: int = 3, key: str | None = None) -> Any:
        new = NewExecution(
            execution_id=new_id(),
            task_id="t",
            input="{}",
            queue="q",
            priority=0,
            max_recoveries=recoveries,
            delay=delay,
            key=key,
        )
        (stored,) = self.storage.enqueue([new], patience=0)
        assert stored.execution_id == self.model.enqueue(new, self.now)
        assert stored.created is (stored.execution_id == new.execution_id)
        return stored.execution_id if stored.created else multiple()

    @rule(
        target=claims,
        name=EXECUTORS,
        candidates=st.lists(executions, min_size=1, max_size=6, unique=True),
        limit=st.sampled_from([6, 6, 2]),
    )
    def claim(self, name: str, candidates: list[str], limit: int) -> Any:
        """Candidates are what a look has shown some time ago: they may be anything by now."""
        owner = self.incarnation(name).executor_id
        claimed = self.storage.claim(candidates, limit=limit, executor_id=owner)
        won = {found.execution_id: found.claim_token for found in claimed}
        assert won == self.model.claim(candidates[:limit], owner, self.now)
        for identity in won.items():
            assert identity not in self.tokens, "a claim token was used twice"
            self.tokens.add(identity)
            self.starts[identity[0]] += 1
        return multiple(*won.items())

    @rule(batch=st.lists(st.tuples(claims, OUTCOMES), min_size=1, max_size=4))
    def record(self, batch: list[tuple[tuple[str, int], Transition]]) -> None:
        """By whoever once had the claim, long ago perhaps, and perhaps not for the first time."""
        self._record(batch, uncertain=False)

    def overtaken(self) -> list[tuple[str, int]]:
        """Claims of executions that run under a later claim by now."""
        return sorted(
            (execution_id, token)
            for execution_id, token in self.tokens
            if self.model.rows[execution_id]["status"] is ExecutionStatus.RUNNING
            and token < self.model.rows[execution_id]["claim_token"]
        )

    @precondition(overtaken)
    @rule(data=st.data(), outcome=OUTCOMES)
    def record_late(self, data: st.DataObject, outcome: Transition) -> None:
        """A stale owner speaks while the present one runs."""
        identity = data.draw(st.sampled_from(self.overtaken()))
        assert self._record([(identity, outcome)], uncertain=False) == set()

    def ended(self) -> list[tuple[str, int]]:
        """The last claims of executions that have finished."""
        return sorted(
            (execution_id, row["claim_token"]) for execution_id, row in self.final.items() if row["claim_token"]
        )

    @precondition(ended)
    @rule(data=st.data(), outcome=OUTCOMES)
    def record_after_the_end(self, data: st.DataObject, outcome: Transition) -> None:
        """The last owner speaks once more."""
        identity = data.draw(st.sampled_from(self.ended()))
        assert self._record([(identity, outcome)], uncertain=False) == set()

    @rule(batch=st.lists(st.tuples(claims, OUTCOMES), min_size=1, max_size=4, unique_by=lambda entry: entry[0]))
    def record_again(self, batch: list[tuple[tuple[str, int], Transition]]) -> None:
        """The answer was lost, so all is tried again: nothing changes, and what was written counts as won."""
        won = self._record(batch, uncertain=False)
        before = self.stored()
        again = self.storage.record([Fenced(*identity, transition) for identity, transition in batch], uncertain=True)
        assert won <= again
        assert self.stored() == before

    def _record(self, batch: list[tuple[tuple[str, int], Transition]], *, uncertain: bool) -> set[tuple[str, int]]:
        # One attempt has one outcome.
        batch = list({identity: (identity, transition) for identity, transition in batch}.values())
        won = self.storage.record(
            [Fenced(*identity, transition) for identity, transition in batch], uncertain=uncertain
        )
        expected: set[tuple[str, int]] = set()
        for (execution_id, token), transition in batch:
            if self.model.record(execution_id, token, transition, self.now):
                expected.add((execution_id, token))
                self.failures[execution_id] += transition.name in FAILS
                self.starts[execution_id] -= transition.name == "release_unstarted"
        assert won == expected
        return won

    @rule(execution_id=executions)
    def cancel(self, execution_id: str) -> None:
        error = f'{{"type": "cancelled {new_id()}"}}'
        ended = self.storage.cancel(execution_id, error, patience=0)
        assert ended is self.model.cancel(execution_id, error, self.now)

    @rule(name=EXECUTORS)
    def renew(self, name: str) -> None:
        incarnation = self.incarnation(name)
        alive = self.storage.renew(incarnation)
        assert alive is self.model.renew(incarnation.executor_id, LEASE, self.now)
        if not alive:
            self.be_born(name)

    @rule(seconds=st.sampled_from([1, 4, 11]))
    def time_passes(self, seconds: int) -> None:
        """Timers come due, and leases that nobody renews end."""
        self.clock.advance(seconds)

    @rule()
    def promote_due(self) -> None:
        assert self.storage.promote_due() == self.model.promote_due(self.now)

    @rule()
    def reap(self) -> None:
        survey = self.storage.look_for_dead()
        reaped = self.storage.reap(gave_up=GAVE_UP)
        dead, recovered, given_up = self.model.reap(GAVE_UP, self.now)
        assert set(reaped.dead) == dead
        assert {found[1] for found in reaped.recovered} == recovered
        assert {found[1] for found in reaped.given_up} == given_up
        assert survey.work is bool(dead or recovered or given_up)
        self.recoveries.update(recovered | given_up)

    @rule(target=claims, name=EXECUTORS)
    def take_over(self, name: str) -> Any:
        """No lease is renewed in time, all is recovered, and one executor claims all that it can."""
        self.clock.advance(11)
        self.reap()
        for other in ("a", "b"):
            self.be_born(other)
        return self.claim(name, list(self.model.rows), 6)

    @rule(name=EXECUTORS)
    def resign(self, name: str) -> None:
        """It goes on as another incarnation."""
        owner = self.incarnation(name).executor_id
        self.storage.resign(owner)
        self.model.leases[owner].dead = True
        self.be_born(name)

    @rule(name=EXECUTORS)
    def compare(self, name: str) -> None:
        """What the heartbeat asks: what the database says an incarnation runs."""
        owner = self.incarnation(name).executor_id
        running = {
            (row["id"], row["claim_token"])
            for row in self.model.rows.values()
            if row["status"] is ExecutionStatus.RUNNING and row["executor_id"] == owner
        }
        assert self.storage.owned(owner) == running

    # --- what holds at any time -----------------------------------------------------------------

    def stored(self) -> dict[str, Row]:
        """The database's rows, with the columns that the model has."""
        table = self.storage.sql.executions
        with self.storage.database.engine.execution_options(durable_sync_read=True).connect() as connection:
            rows = connection.execute(select(table)).mappings().all()
        names = list(next(iter(self.model.rows.values()), {}))
        return {
            row["id"]: {**{name: row[name] for name in names}, "status": ExecutionStatus(row["status"])} for row in rows
        }

    @invariant()
    def the_same_state(self) -> None:
        assert self.stored() == self.model.rows

    @invariant()
    def finished_is_final(self) -> None:
        for execution_id, row in self.stored().items():
            if execution_id in self.final:
                assert row == self.final[execution_id]
            elif row["status"] not in ACTIVE:
                assert row["finished_at"] is not None
                assert row["active_key"] is None
                self.final[execution_id] = row

    @invariant()
    def one_owner_at_a_time(self) -> None:
        """Only what runs has an owner that may write, and it alone has the last token."""
        for execution_id, row in self.stored().items():
            last = max((token for known, token in self.tokens if known == execution_id), default=0)
            assert row["claim_token"] == last

    @invariant()
    def counts_are_kept_apart(self) -> None:
        for execution_id, row in self.stored().items():
            assert row["starts"] == self.starts[execution_id]
            assert row["failures"] == self.failures[execution_id]
            assert row["recoveries"] == self.recoveries[execution_id]

    @invariant()
    def only_what_is_ready_can_be_found(self) -> None:
        """A row is in the claim index or waits for its time exactly while it is ready."""
        for row in self.stored().values():
            ready = row["status"] is ExecutionStatus.READY
            assert ready is ((row["lane"] is not None) != (row["timer_at"] is not None))
            if not ready:
                assert row["lane"] is None
                assert row["timer_at"] is None


TestTwoExecutors = TwoExecutors.TestCase
TestTwoExecutors.__doc__ = (
    """In any order of verbs, with stale owners and lost answers, both stay the same and keep the promises."""
)
TestTwoExecutors.settings = settings(
    max_examples=40, stateful_step_count=35, deadline=None, suppress_health_check=list(HealthCheck)
)
# A failure is made small before it is shown, which takes a while.
TestTwoExecutors.pytestmark = [pytest.mark.timeout(400)]
