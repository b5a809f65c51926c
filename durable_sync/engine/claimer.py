"""Claims ready executions for the pool, never more than it has room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from durable_sync.engine.loop import Loop
from durable_sync.engine.prefetch import Prefetch
from durable_sync.engine.quarantine import Quarantine
from durable_sync.engine.queued import Queued
from durable_sync.engine.queues import KnownQueues
from durable_sync.engine.timers import Timers
from durable_sync.engine.workplace import Workplace
from durable_sync.storage.claiming import Glimpse
from durable_sync.storage.records import ClaimedExecution
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects
from durable_sync.transitions import ORDINARY_LANE, SOLO_LANE, SUSPECT_LANE

__all__ = ["Claimer"]

_LOOK_AFTER_QUEUED = 0.01
_QUICKEST_POLL = 0.01
_RECENT_POLL = 0.05
_RECENT_SECONDS = 5.0
"""For so long after a claim another is expected, and polls are no further apart than `_RECENT_POLL`."""
_MOST_SEEN = 1000
"""Candidates that one look asks for at most, unless more workers are free."""


class Claimer(Loop):
    """Looks for work when woken, and otherwise often while there is some and seldom while there is none."""

    name = "claim"

    def __init__(
        self,
        label: str,
        storage: Storage,
        workplace: Workplace,
        *,
        prefetch: Prefetch,
        poll_interval: float,
        effected: Callable[[Effects], None],
    ) -> None:
        super().__init__(label)
        self._storage = storage
        self._workplace = workplace
        self._pool = workplace.pool
        self._lease = workplace.lease
        self._prefetch = prefetch
        self._queued = Queued(workplace.pool, workplace.attempts, workplace.give_back)
        self._queues = KnownQueues(workplace.queues, workplace.registry, interval=poll_interval)
        self._timers = Timers(storage, interval=poll_interval, effected=effected)
        self._quarantine = Quarantine(workplace.attempts, workplace.pool)
        self._poll_interval = poll_interval
        self._poll = poll_interval
        self._looked_at = 0.0
        self._claimed_at = float("-inf")
        self._max_eagerness = _MOST_SEEN if storage.database.dialect.claims_from_many else 1
        self._eagerness = 1
        self._barren = 0
        self._hinted = False
        self._planned = float("inf")
        self.backlog = True
        """There may be more to claim than the last look took."""

    def wake(self) -> None:
        """Looks now, and often for a while."""
        self._poll = min(self._poll, _QUICKEST_POLL)
        super().wake()

    def look(self) -> None:
        """Looks now, this once, and then when it would have looked anyway."""
        self._hinted = True
        super().wake()

    def step(self) -> float:
        """Claims what fits; returns when to look again."""
        hinted, self._hinted = self._hinted, False
        self._looked_at = time.monotonic()
        planned, self._planned = self._planned, float("inf")
        self._queued.look_begins(planned=planned, now=self._looked_at)
        expected = self._looked_at + self._prefetch.claim_seconds
        delay = self._claim_what_fits()
        now = time.monotonic()
        self._queued.look_ends(expected=expected, now=now)
        if hinted:
            delay = max(min(delay, planned - now), 0.0)
        self._planned = now + delay
        return delay

    def give_back_queued(self) -> int:
        """Releases what is claimed and not started; returns how many. For any thread."""
        return self._queued.give_back()

    def _claim_what_fits(self) -> float:
        self._give_back_stale()
        # Read before the lease is asked: should it change, the claim fails instead of having an unknown owner.
        executor_id = self._lease.executor_id
        tasks = [task.id for task in self._workplace.registry]
        wanted = self._prefetch.wanted()
        self._prefetch.set_refill()
        if wanted <= 0:
            self.backlog = True
            # A worker that was freed before it could read this has woken nobody.
            wanted = self._prefetch.wanted()
        if wanted <= 0 or not tasks or not self._lease.may_start_work() or self._quarantine.admits_nothing():
            self.backlog = True
            # While nothing can be claimed, timers run all the same.
            if self._timers.look_is_due:
                self._timers.fire(self._peek([], ORDINARY_LANE, 1).timer_in)
            return self._unless_queued(self._poll_interval)
        reach = self._reach(wanted)
        glimpse = self._peek(tasks, ORDINARY_LANE, wanted, discovers=self._queues.discovery_is_due)
        if self._queues.learn(glimpse.queues) or self._timers.fire(glimpse.timer_in):
            return 0.0
        claimed = self._claim_recovered(tasks, executor_id) if glimpse.recovered else 0
        if not self._quarantine.admits_nothing():
            claimed += self._claim(glimpse.candidates, wanted - claimed, executor_id)
        # Where a claim must name what it takes, to see more is of no use.
        may_see_more = self._max_eagerness > 1 and len(glimpse.candidates) >= reach < _MOST_SEEN
        return self._next_look(glimpse, claimed, wanted, may_see_more=may_see_more)

    def _give_back_stale(self) -> None:
        if self._queued.is_stale():
            self._prefetch.misled()
            taken = self._queued.give_back()
            self.log.debug("claim: gave back %d executions that could not start soon", taken)

    def _peek(self, tasks: Sequence[str], lane: int, limit: int, *, discovers: bool = False) -> Glimpse:
        if discovers:
            self._queues.discovering()
        return self._storage.peek(
            queues=self._queues.by_task(tasks), lane=lane, limit=self._reach(limit), discovers=discovers
        )

    def _reach(self, limit: int) -> int:
        return max(min(limit * self._eagerness, _MOST_SEEN), limit)

    def _claim(self, candidates: Sequence[str], limit: int, executor_id: str) -> int:
        if not candidates or limit <= 0:
            return 0
        with self._workplace.attempts.claiming():
            claimed = self._storage.claim(candidates, limit=limit, executor_id=executor_id)
            for execution in claimed:
                self._take_in(execution, executor_id)
        # Others took what we saw: look further next time, where they aren't.
        contended = len(claimed) < min(limit, len(candidates))
        self._eagerness = min(self._eagerness * 2, self._max_eagerness) if contended else max(self._eagerness // 2, 1)
        if claimed:
            self._claimed_at = time.monotonic()
            self._prefetch.claim_took(self._claimed_at - self._looked_at)
            self._queued.claimed(self._claimed_at)
            self.log.debug("claim: %d executions", len(claimed))
        return len(claimed)

    def _take_in(self, execution: ClaimedExecution, executor_id: str) -> None:
        attempt = self._workplace.hold(execution, executor_id)
        try:
            # A shutdown may have given up waiting for this claim.
            if not self.stopping:
                self._pool.submit(attempt)
                return
        except RuntimeError as error:
            self.log.warning("claim: %s: given back, because no thread can be started: %s", attempt, error)
        self._workplace.decline(attempt)

    def _claim_recovered(self, tasks: Sequence[str], executor_id: str) -> int:
        """One that was recovered before, if the quarantine admits one. Before other work: it has waited longer."""
        if not self._quarantine.admits_suspect():
            return 0
        for lane in (SUSPECT_LANE, SOLO_LANE):
            glimpse = self._peek(tasks, lane, 1, discovers=self._queues.are_all_served)
            if self._queues.learn(glimpse.queues):
                glimpse = self._peek(tasks, lane, 1)
            if lane == SOLO_LANE:
                # No enqueue puts anything beside it from now on.
                self.backlog = True
            if lane == SOLO_LANE and not self._quarantine.admits_solo(waits=bool(glimpse.candidates)):
                return 0
            if glimpse.candidates:
                return self._claim(glimpse.candidates, 1, executor_id)
        return 0

    def _next_look(self, glimpse: Glimpse, claimed: int, wanted: int, *, may_see_more: bool) -> float:
        seen = len(glimpse.candidates)
        self.backlog = claimed >= wanted or claimed < seen
        self._barren = 0 if claimed or not seen else self._barren + 1
        if self.backlog:
            self._poll = _QUICKEST_POLL
            # What is seen and can't be had was taken by somebody, or is locked, perhaps for long.
            return 0.0 if claimed or may_see_more else _QUICKEST_POLL * min(self._barren, 4)
        self._poll = _QUICKEST_POLL if claimed else min(self._poll * 1.5, self._longest_poll())
        until_timer = float("inf") if glimpse.timer_in is None else glimpse.timer_in / 1_000_000
        return self._unless_queued(min(self._poll, until_timer if until_timer > 0 else _QUICKEST_POLL))

    def _longest_poll(self) -> float:
        recent = time.monotonic() - self._claimed_at < _RECENT_SECONDS
        return min(self._poll_interval, _RECENT_POLL) if recent else self._poll_interval

    def _unless_queued(self, delay: float) -> float:
        """Sooner, if something waits here that another process might run now."""
        return min(delay, _LOOK_AFTER_QUEUED) if self._pool.has_queued else delay
