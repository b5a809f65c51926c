"""Hears that others have committed, where the database is a file and passes no messages on.

Always a hint: polling is the truth.
"""

from __future__ import annotations

from collections.abc import Callable

from durable_sync.engine.loop import Loop
from durable_sync.storage.changes import Changes

__all__ = ["ChangeListener"]

_SPACING_SECONDS = 0.2
"""To wake a thread and ask the system takes 0.2 ms of a processor: see ADR 0014."""


class ChangeListener(Loop):
    """Tells that there has been a commit, of whatever."""

    name = "changes"

    def __init__(self, label: str, changes: Changes, *, changed: Callable[[], None]) -> None:
        super().__init__(label)
        self._changes = changes
        self._changed = changed

    def step(self) -> float:
        """Looks once."""
        if self._changes.seen():
            self._changed()
        return _SPACING_SECONDS
