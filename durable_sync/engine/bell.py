"""Wakes other processes that rest, and is woken by them, where one connection can wake another in the database.

It is a bell, not a message: there may be work. Always a hint: polling is the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from durable_sync.engine.loop import Loop
from durable_sync.engine.standing import StandingLoop
from durable_sync.storage.naps import Nap, ring
from durable_sync.storage.storage import Storage

__all__ = ["Napper", "Ringer"]

_SPACING_SECONDS = 0.05
"""After a ring there is none for so long: to find who naps takes the server a millisecond."""
_BUSY_SECONDS = 0.1
"""How often who has no rest looks whether he has."""


class Ringer(Loop):
    """Rings when there is work here, after it was committed. For any thread."""

    name = "ring"

    def __init__(self, label: str, storage: Storage) -> None:
        super().__init__(label)
        self._storage = storage
        self._asked = False

    def ready(self) -> None:
        """There is work to claim."""
        self._asked = True
        self.wake()

    def step(self) -> float:
        """Rings once for all who have asked."""
        if not self._asked:
            return float("inf")
        self._asked = False
        try:
            ring(self._storage)
        except Exception:
            self._asked = True
            raise
        # Not cut short by a wake: what comes within this time goes together.
        self._stopping.wait(_SPACING_SECONDS)
        return 0.0

    def end(self) -> None:
        """Rings for what was enqueued just before the end."""
        if self._asked:
            with suppress(Exception):
                ring(self._storage)


class Napper(StandingLoop[Nap]):
    """Naps while this process has nothing to do, and tells when somebody rings."""

    name = "nap"

    def __init__(self, label: str, storage: Storage, *, rests: Callable[[], bool], rung: Callable[[], None]) -> None:
        super().__init__(label)
        self._storage = storage
        self._rests = rests
        self._rung = rung

    def step(self) -> float:
        """Takes one nap, if there is rest."""
        return super().step() if self._rests() else _BUSY_SECONDS

    def _open(self) -> Nap:
        return Nap(self._storage)

    def _opened(self) -> None:
        # Who rang while nobody napped was not heard.
        self._rung()

    def _wait(self, connection: Nap) -> None:
        if connection.sleep():
            self._rung()
