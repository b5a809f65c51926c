"""Claims ready executions for the pool, never more than it has room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from attrs import frozen

from durable_sync.engine.attempts import Attempt, Attempts
from durable_sync.engine.lease import Lease
from durable_sync.engine.loop import Loop
from durable_sync.engine.pool import WorkerPool
from durable_sync.engine.quarantine import Quarantine
from durable_sync.execution import ErrorInfo
from durable_sync.registry import TaskRegistry
from durable_sync.storage.claiming import Glimpse
from durable_sync.storage.records import ClaimedExecution
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects
from durable_sync.transitions import ORDINARY_LANE, SOLO_LANE, SUSPECT_LANE

__all__ = ["Claimer", "Pace"]

_PREFETCH_SECONDS = 0.05
"""What is claimed beyond the free workers should start within this time."""
_MAX_PREFETCH = 1000
_LEAST_RESERVE, _MOST_RESERVE = 0.25, 0.75
"""Of what is prefetched: what is left when it pays to claim again. Refilling by handfuls would cost a commit each."""
_RESERVED_CLAIMS = 2.0
"""What is left should last as long as so many claims, as they are of late."""
_QUEUED_TOO_LONG = 0.07
"""What has been claimed and waited for so long is given back."""
_STANDSTILL = 0.03
"""What waits here is given back, too, once no worker has begun on anything for so long."""
_HELD_UP = 0.015
"""Who is so late for a look, or takes so much longer over it than over claims of late, was held up himself, and so were
the workers, by Python's garbage collector, say. That time does not count as waited; once, until more is claimed, for a
process may be held up again and again."""
_LOOK_AFTER_QUEUED = 0.01
_QUICKEST_POLL = 0.01
_RECENT_POLL = 0.05
_RECENT_SECONDS = 5.0
"""For so long after a claim another is expected, and polls are no further apart than `_RECENT_POLL`."""
_MOST_SEEN = 1000
"""Candidates that one look asks for at most, unless more workers are free."""
_OVERSLEPT = ErrorInfo("TaskTimedOutError", "nobody has woken it before its timeout", "", False)


class Pace:
    """How long a run takes here, as a moving average. Written by worker threads; a lost update does no harm."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def note(self, run_seconds: float) -> None:
        """Takes in one run."""
        known = self._seconds
        self._seconds = run_seconds if known is None else known + 0.1 * (run_seconds - known)

    def startable(self, workers: int, within: float) -> int:
        """How many further runs `workers` would start within so many seconds; 0 while nothing is known."""
        return 0 if self._seconds is None else int(workers * within / max(self._seconds, 1e-5))

    def forget(self) -> None:
        """Starts anew: the average has misled."""
        self._seconds = None


@frozen
class _HoldUp:
    """The whole process stood still for so many seconds, until then (monotonic)."""

    seconds: float = 0.0
    until: float = float("-inf")

    def uncounted(self, moment: float) -> float:
        """An earlier moment, as if time had stood still too."""
        return moment if moment >= self.until else min(moment + self.seconds, self.until)


class Claimer(Loop):
    """Looks for work when woken, and otherwise often while there is some and seldom while there is none."""

    name = "claim"

    def __init__(
        self,
        label: str,
        storage: Storage,
        *,
        registry: TaskRegistry,
        queues: frozenset[str] | None,
        lease: Lease,
        pool: WorkerPool,
        attempts: Attempts,
        pace: Pace,
        poll_interval: float,
        give_back: Callable[[Attempt], None],
        effected: Callable[[Effects], None],
    ) -> None:
        super().__init__(label)
        self._storage = storage
        self._registry = registry
        self._queues = queues
        self._seen_queues: dict[str, set[str]] = {}
        self._lease = lease
        self._pool = pool
        self._attempts = attempts
        self._pace = pace
        self._poll_interval = poll_interval
        self._give_back = give_back
        self._effected = effected
        self._poll = poll_interval
        self._discovered_at = float("-inf")
        self._timers_seen_at = float("-inf")
        self._looked_at = 0.0
        self._held_up = _HoldUp()
        self._excused_at = float("-inf")
        self._claimed_at = float("-inf")
        self._max_eagerness = _MOST_SEEN if storage.database.dialect.claims_from_many else 1
        self._eagerness = 1
        self._barren = 0
        self._hinted = False
        self._planned = float("inf")
        self._quarantine = Quarantine(attempts, pool)
        self.backlog = True
        """There may be more to claim than the last look took."""
        self._claim_seconds = 0.0
        """What a claim takes: the longest of late, slowly forgotten. One that was held up raises it only a little."""
        self.refill_at = 0
        """The pool's room at which it pays to claim again."""

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
        self._excuse(planned, self._looked_at)
        expected = self._looked_at + self._claim_seconds
        delay = self._claim_what_fits()
        now = time.monotonic()
        self._excuse(expected, now)
        if hinted:
            delay = max(min(delay, planned - now), 0.0)
        self._planned = now + delay
        return delay

    def _excuse(self, expected: float, now: float) -> None:
        late = now - expected
        if late <= _HELD_UP or self._claimed_at <= self._excused_at:
            return
        # What this look has claimed counts as claimed since.
        self._excused_at = self._looked_at
        # Of what waits still, some may have waited through the one before as well.
        before = self._held_up.seconds if now - late - self._held_up.until < _QUEUED_TOO_LONG else 0.0
        self._held_up = _HoldUp(before + late, now)

    def _claim_what_fits(self) -> float:
        self._release_stale()
        # Read before the lease is asked: should it change, the claim fails instead of having an unknown owner.
        executor_id = self._lease.executor_id
        tasks = [task.id for task in self._registry]
        wanted = self._wanted()
        self.refill_at = -self._enough()
        if wanted <= 0:
            self.backlog = True
            # A worker that was freed before it could read this has woken nobody.
            wanted = self._wanted()
        if wanted <= 0 or not tasks or not self._lease.may_start_work() or self._quarantine.admits_nothing():
            self.backlog = True
            self._look_at_timers()
            return self._unless_queued(self._poll_interval)
        reach = self._reach(wanted)
        glimpse = self._peek(tasks, ORDINARY_LANE, wanted, discovers=self._may_discover())
        if self._learn_queues(glimpse):
            return 0.0
        if self._fire_timers(glimpse):
            return 0.0
        claimed = self._claim_recovered(tasks, executor_id) if glimpse.recovered else 0
        if not self._quarantine.admits_nothing():
            claimed += self._claim(glimpse.candidates, wanted - claimed, executor_id)
        # Where a claim must name what it takes, to see more is of no use.
        may_see_more = self._max_eagerness > 1 and len(glimpse.candidates) >= reach < _MOST_SEEN
        return self._next_look(glimpse, claimed, wanted, may_see_more=may_see_more)

    def _look_at_timers(self) -> None:
        """While nothing can be claimed: timers run all the same."""
        if time.monotonic() - self._timers_seen_at >= self._poll_interval * 0.9:
            self._fire_timers(self._peek([], ORDINARY_LANE, 1))

    def _fire_timers(self, glimpse: Glimpse) -> bool:
        """Does what is due by itself; True if there was any."""
        self._timers_seen_at = time.monotonic()
        if glimpse.timer_in is None or glimpse.timer_in > 0:
            return False
        promoted = self._storage.promote_due()
        overslept = self._storage.end_oversleepers(error=_OVERSLEPT.to_json())
        self._effected(overslept)
        return bool(promoted or overslept.finished)

    def _wanted(self) -> int:
        room = self._pool.room
        return room + self._prefetch() if -room <= self._enough() else 0

    def _enough(self) -> int:
        """What may wait here without a refill."""
        reserve = _RESERVED_CLAIMS * self._claim_seconds / _PREFETCH_SECONDS
        return int(self._prefetch() * min(max(reserve, _LEAST_RESERVE), _MOST_RESERVE))

    def _prefetch(self) -> int:
        return min(self._pace.startable(self._pool.size, _PREFETCH_SECONDS), _MAX_PREFETCH)

    def _may_discover(self) -> bool:
        return self._queues is None and time.monotonic() - self._discovered_at >= self._poll_interval * 0.9

    def _peek(self, tasks: Sequence[str], lane: int, limit: int, *, discovers: bool = False) -> Glimpse:
        if discovers:
            self._discovered_at = time.monotonic()
        return self._storage.peek(
            queues={task: self._queues_of(task) for task in tasks},
            lane=lane,
            limit=self._reach(limit),
            discovers=discovers,
        )

    def _reach(self, limit: int) -> int:
        return max(min(limit * self._eagerness, _MOST_SEEN), limit)

    def _queues_of(self, task_id: str) -> Sequence[str]:
        """The queues in which to look for a task: those served, or those it was seen in."""
        if self._queues is not None:
            return sorted(self._queues)
        task = self._registry.get(task_id)
        declared = set[str]() if task is None else {task.declaration.queue}
        return sorted(declared | self._seen_queues.get(task_id, set()))

    def _learn_queues(self, glimpse: Glimpse) -> bool:
        for task_id, queue in glimpse.queues:
            self._seen_queues.setdefault(task_id, set()).add(queue)
        return bool(glimpse.queues)

    def _claim(self, candidates: Sequence[str], limit: int, executor_id: str) -> int:
        if not candidates or limit <= 0:
            return 0
        with self._attempts.claiming():
            claimed = self._storage.claim(candidates, limit=limit, executor_id=executor_id)
            for execution in claimed:
                self._take_in(execution, executor_id)
        # Others took what we saw: look further next time, where they aren't.
        contended = len(claimed) < min(limit, len(candidates))
        self._eagerness = min(self._eagerness * 2, self._max_eagerness) if contended else max(self._eagerness // 2, 1)
        if claimed:
            self._claimed_at = time.monotonic()
            took = min(self._claimed_at - self._looked_at, self._claim_seconds + _HELD_UP)
            self._claim_seconds = max(took, self._claim_seconds * 0.9)
            self.log.debug("claim: %d executions", len(claimed))
        return len(claimed)

    def _take_in(self, execution: ClaimedExecution, executor_id: str) -> None:
        task = self._registry.get(execution.task_id)
        if task is None:
            raise AssertionError(f"claimed an execution of the unknown task {execution.task_id!r}")
        attempt = self._attempts.hold(execution, task, executor_id)
        try:
            # A shutdown may have given up waiting for this claim.
            if not self.stopping:
                self._pool.submit(attempt)
                return
        except RuntimeError as error:
            self.log.warning("claim: %s: given back, because no thread can be started: %s", attempt, error)
        if attempt.unqueue():
            self._give_back(attempt)

    def _claim_recovered(self, tasks: Sequence[str], executor_id: str) -> int:
        """One that was recovered before, if the quarantine admits one. Before other work: it has waited longer."""
        if not self._quarantine.admits_suspect():
            return 0
        for lane in (SUSPECT_LANE, SOLO_LANE):
            glimpse = self._peek(tasks, lane, 1, discovers=self._queues is None)
            if self._learn_queues(glimpse):
                glimpse = self._peek(tasks, lane, 1)
            if lane == SOLO_LANE:
                # No enqueue puts anything beside it from now on.
                self.backlog = True
            if lane == SOLO_LANE and not self._quarantine.admits_solo(waits=bool(glimpse.candidates)):
                return 0
            if glimpse.candidates:
                return self._claim(glimpse.candidates, 1, executor_id)
        return 0

    def _release_stale(self) -> None:
        """Gives back what has waited too long behind long runs: another process may be idle."""
        if not self._pool.has_queued:
            return
        attempts = self._attempts.all()
        queued = [attempt.queued_at for attempt in attempts if not attempt.is_running and not attempt.is_settled]
        if not queued:
            return
        # A hold-up from here on is seen, and excused, at the end of this look.
        now, oldest = self._looked_at, self._held_up.uncounted(min(queued))
        started = [attempt.started_at for attempt in attempts if attempt.is_running]
        moved = self._held_up.uncounted(max(started, default=0.0))
        if now - oldest <= _QUEUED_TOO_LONG and now - max(oldest, moved) <= _STANDSTILL:
            return
        self._pace.forget()
        taken = self.give_back_queued()
        self.log.debug("claim: gave back %d executions that could not start soon", taken)

    def give_back_queued(self) -> int:
        """Releases what is claimed and not started; returns how many."""
        taken = [attempt for attempt in self._pool.take_back() if attempt.unqueue()]
        for attempt in taken:
            self._give_back(attempt)
        return len(taken)

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
