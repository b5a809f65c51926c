"""How much is claimed beyond the free workers: what they will begin on within some tens of milliseconds.

No more, so that what is claimed never waits behind a long run while another process idles; and no less, so that a
worker always finds the next task here, without a commit in between.
"""

from __future__ import annotations

from durable_sync.engine.pool import WorkerPool

__all__ = ["Prefetch"]

_WITHIN_SECONDS = 0.05
"""What is claimed beyond the free workers should start within this time."""
_MAX_SIZE = 1000
_LEAST_RESERVE, _MOST_RESERVE = 0.25, 0.75
"""Of what is prefetched: what is left when it pays to claim again. Refilling by handfuls would cost a commit each."""
_RESERVED_CLAIMS = 2.0
"""What is left should last as long as so many claims, as they are of late."""
_MAX_RISE = 0.015
"""Seconds by which one claim may take longer than those before, and be believed: it may have been held up."""


class _Pace:
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


class Prefetch:
    """Asked by the claimer, on its thread, but for `ran` and `refill_at`."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pace = _Pace()
        self._pool = pool
        self.claim_seconds = 0.0
        """What a claim takes: the longest of late, slowly forgotten."""
        self.refill_at = 0
        """The pool's room at which it pays to claim again. For any thread."""

    def ran(self, seconds: float) -> None:
        """Takes in how long a run took. For any thread."""
        self._pace.note(seconds)

    def wanted(self) -> int:
        """How many executions to claim now: 0 while what waits here is enough."""
        room = self._pool.room
        return room + self._size() if -room <= self._enough() else 0

    def set_refill(self) -> None:
        """Decides at which room the workers are to say so."""
        self.refill_at = -self._enough()

    def claim_took(self, seconds: float) -> None:
        """Takes in one claim that won something."""
        self.claim_seconds = max(min(seconds, self.claim_seconds + _MAX_RISE), self.claim_seconds * 0.9)

    def misled(self) -> None:
        """What was claimed waits too long: nothing more ahead, until it is known again how long runs take."""
        self._pace.forget()

    def _size(self) -> int:
        return min(self._pace.startable(self._pool.size, _WITHIN_SECONDS), _MAX_SIZE)

    def _enough(self) -> int:
        """What may wait here without a refill."""
        reserve = _RESERVED_CLAIMS * self.claim_seconds / _WITHIN_SECONDS
        return int(self._size() * min(max(reserve, _LEAST_RESERVE), _MOST_RESERVE))
