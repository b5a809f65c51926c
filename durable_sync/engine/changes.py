"""Hears that others have committed, where the database is a file and passes no messages on.

Always a hint: polling is the truth.
"""

from __future__ import annotations

from collections.abc import Callable

from durable_sync.engine.loop import Loop
from durable_sync.storage.changes import Changes

__all__ = ["ChangeListener"]

_AT_REST_SECONDS = 1.0
_DURABLE_SECONDS = 0.01
"""A change is heard of when it is written, and can be read once it has been made durable."""
_SLOWLY_DURABLE_SECONDS = 0.04
"""From the first look for it to the second."""
_SPACING_SECONDS = 0.06
"""From a look to the next change that is heard of."""
_POLL_SECONDS = 0.2
"""To the next look where the system tells nothing: to wake a thread takes 0.2 ms of a processor. See ADR 0014."""


class ChangeListener(Loop):
    """Tells that there has been a commit, of whatever."""

    name = "changes"

    def __init__(self, label: str, changes: Changes, *, changed: Callable[[], None]) -> None:
        super().__init__(label)
        self._changes = changes
        self._changed = changed
        self._is_told: bool | None = None
        """Whether the system tells of changes."""
        self._is_quiet = True

    def step(self) -> float:
        """Waits for a change, or for a while, and looks once."""
        if self._is_told is None:
            return self._begin()
        if self._is_told and self._is_quiet and not self.stopping:
            self._changes.wait(_AT_REST_SECONDS)
            self._stopping.wait(_DURABLE_SECONDS)
        seen = self._changes.seen()
        if seen:
            self._changed()
        self._is_quiet = not seen
        if not self._is_told:
            return _POLL_SECONDS
        return _SLOWLY_DURABLE_SECONDS if seen else _SPACING_SECONDS

    def _begin(self) -> float:
        self._is_told = self._changes.watch()
        # What was written while nobody looked can be anything.
        self._changes.seen()
        self._changed()
        return 0.0

    def request_stop(self) -> None:
        """Asks the thread to end, and frees it from waiting."""
        super().request_stop()
        self._changes.interrupt()

    def disown(self) -> None:
        """In a forked child: lets go of what the parent waits with."""
        self._changes.disown()

    def end(self) -> None:
        """Lets go of what it waits with."""
        self._changes.close()
