"""Executions that are due by themselves: delayed ones that become ready, sleepers that nobody woke in time."""

from __future__ import annotations

import time
from collections.abc import Callable

from durable_sync.execution import ErrorInfo
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects

__all__ = ["Timers"]

_OVERSLEPT = ErrorInfo("TaskTimedOutError", "nobody has woken it before its timeout", "", False)


class Timers:
    """Looked after by the claimer, on its thread, which hears with every look when the next is due."""

    def __init__(self, storage: Storage, *, interval: float, effected: Callable[[Effects], None]) -> None:
        self._storage = storage
        self._interval = interval
        self._effected = effected
        self._seen_at = float("-inf")

    @property
    def look_is_due(self) -> bool:
        """True if nobody has looked for a while."""
        return time.monotonic() - self._seen_at >= self._interval * 0.9

    def fire(self, due_in: int | None) -> bool:
        """Does what is due, if the next timer is (microseconds from now, None: there is none); True if anything was."""
        self._seen_at = time.monotonic()
        if due_in is None or due_in > 0:
            return False
        promoted = self._storage.promote_due()
        overslept = self._storage.end_oversleepers(error=_OVERSLEPT.to_json())
        self._effected(overslept)
        return bool(promoted or overslept.finished)
