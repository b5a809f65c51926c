"""Hears that others have committed, where the database is a file and passes no messages on.

Always a hint: polling is the truth.
"""

from __future__ import annotations

from collections.abc import Callable

from durable_sync.engine.loop import Loop
from durable_sync.storage.changes import Changes

__all__ = ["ChangeListener"]

_SPACING_SECONDS = 0.02
_LONGEST_SPACING_SECONDS = 0.08
"""While others commit all the time: each time that is told costs a look into the database."""


class ChangeListener(Loop):
    """Tells that something has changed, whoever has changed it."""

    name = "changes"

    def __init__(self, label: str, changes: Changes, *, changed: Callable[[], None]) -> None:
        super().__init__(label)
        self._changes = changes
        self._changed = changed
        self._spacing = _SPACING_SECONDS

    def step(self) -> float:
        """Looks once."""
        if self._changes.seen():
            self._changed()
            self._spacing = min(self._spacing * 1.5, _LONGEST_SPACING_SECONDS)
        else:
            self._spacing = _SPACING_SECONDS
        return self._spacing
