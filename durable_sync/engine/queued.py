"""What is claimed here and no thread has begun on: it is given back once it waits too long, for another process may be
idle.

While the whole process stands still, nobody here can begin on anything, and what waits is not behind a long run. Such a
hold-up is noticed because the claimer's looks are late by it, and its time does not count as waited.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from durable_sync.engine.attempts import Attempt, Attempts
from durable_sync.engine.pool import WorkerPool

__all__ = ["Queued"]

_TOO_LONG = 0.07
"""What has been claimed and waited for so long is given back."""
_STANDSTILL = 0.03
"""What waits here is given back, too, once no worker has begun on anything for so long."""
_HELD_UP = 0.015
"""Who is so late for a look, or takes so much longer over it than over claims of late, was held up himself, and so were
the workers, by Python's garbage collector, say. That time does not count as waited; once, until more is claimed, for a
process may be held up again and again."""


@frozen
class _HoldUp:
    """The whole process stood still for so many seconds, until then (monotonic)."""

    seconds: float = 0.0
    until: float = float("-inf")

    def uncounted(self, moment: float) -> float:
        """An earlier moment, as if time had stood still too."""
        return moment if moment >= self.until else min(moment + self.seconds, self.until)


class Queued:
    """Looked after by the claimer, on its thread; `give_back` is for any."""

    def __init__(self, pool: WorkerPool, attempts: Attempts, give_back: Callable[[Attempt], None]) -> None:
        self._pool = pool
        self._attempts = attempts
        self._give_back = give_back
        self._looked_at = 0.0
        self._held_up = _HoldUp()
        self._excused_at = float("-inf")
        self._claimed_at = float("-inf")

    def look_begins(self, *, planned: float, now: float) -> None:
        """The claimer looks for work, later than it meant to (monotonic seconds) if it was held up."""
        self._looked_at = now
        self._excuse(planned, now)

    def look_ends(self, *, expected: float, now: float) -> None:
        """The same, at the end of the look."""
        self._excuse(expected, now)

    def claimed(self, now: float) -> None:
        """More has been claimed."""
        self._claimed_at = now

    def is_stale(self) -> bool:
        """True if it has waited too long."""
        if not self._pool.has_queued:
            return False
        attempts = self._attempts.all()
        queued = [attempt.queued_at for attempt in attempts if not attempt.is_running and not attempt.is_settled]
        if not queued:
            return False
        # A hold-up from here on is seen, and excused, at the end of this look.
        now, oldest = self._looked_at, self._held_up.uncounted(min(queued))
        started = [attempt.started_at for attempt in attempts if attempt.is_running]
        moved = self._held_up.uncounted(max(started, default=0.0))
        return now - oldest > _TOO_LONG or now - max(oldest, moved) > _STANDSTILL

    def give_back(self) -> int:
        """Releases what is claimed and not started; returns how many."""
        taken = [attempt for attempt in self._pool.take_back() if attempt.unqueue()]
        for attempt in taken:
            self._give_back(attempt)
        return len(taken)

    def _excuse(self, expected: float, now: float) -> None:
        late = now - expected
        if late <= _HELD_UP or self._claimed_at <= self._excused_at:
            return
        # What this look has claimed counts as claimed since.
        self._excused_at = self._looked_at
        # Of what waits still, some may have waited through the one before as well.
        before = self._held_up.seconds if now - late - self._held_up.until < _TOO_LONG else 0.0
        self._held_up = _HoldUp(before + late, now)
