"""When work that was recovered may run: its process died under it, and may do so again.

An execution that was recovered before (a suspect) runs with no other suspect beside it in its process, and one that
one more recovery would fail runs with nothing beside it, so that blame finds the right one. Neither rule holds for
ever: work that has run for a while without killing anybody is no longer waited for.
"""

from __future__ import annotations

import time

from durable_sync.engine.attempts import Attempt, Attempts
from durable_sync.engine.pool import WorkerPool

__all__ = ["Quarantine"]

_PATIENCE = 30.0
"""Seconds that other work waits for a suspect that runs, and solo work for this process to be idle."""


class Quarantine:
    """Asked by who claims. `admits_solo` remembers, and is for one thread."""

    def __init__(self, attempts: Attempts, pool: WorkerPool) -> None:
        self._attempts = attempts
        self._pool = pool
        self._solo_since: float | None = None

    def admits_suspect(self) -> bool:
        """True if no suspect is being watched here."""
        return not any(attempt.claimed.recoveries and _is_watched(attempt) for attempt in self._attempts.all())

    def admits_solo(self, *, waits: bool) -> bool:
        """True if work that must run by itself may start; `waits` tells whether there is any."""
        if not waits:
            self._solo_since = None
            return False
        now = time.monotonic()
        if self._solo_since is None:
            self._solo_since = now
        if self._pool.load and now - self._solo_since < _PATIENCE:
            return False
        self._solo_since = None
        return True

    def admits_nothing(self) -> bool:
        """True while work runs here that must run by itself, unless it waits for other work."""
        if self._pool.lent or len(self._attempts) != 1:
            return False
        return any(_is_solo(attempt) and _is_watched(attempt) for attempt in self._attempts.all())


def _is_solo(attempt: Attempt) -> bool:
    claimed = attempt.claimed
    return claimed.recoveries > 0 and claimed.recoveries >= claimed.max_recoveries


def _is_watched(attempt: Attempt) -> bool:
    return not attempt.is_running or attempt.run_seconds < _PATIENCE
