"""Starts loops in order, restarts a dead one, stops them in order."""

from __future__ import annotations

import time
from collections.abc import Sequence

from durable_sync.engine.loop import Loop

__all__ = ["Supervisor"]

_CHECK_SECONDS = 1.0


class Supervisor(Loop):
    """Watches over the other loops."""

    name = "supervise"

    def __init__(self, label: str, loops: Sequence[Loop]) -> None:
        super().__init__(label)
        self._loops = loops

    def start_all(self) -> None:
        """Starts the loops in order, then itself."""
        for loop in self._loops:
            loop.start()
        self.start()

    def stop_all(self, timeout: float) -> list[str]:
        """Stops itself, then the loops in reverse order, within `timeout` seconds; returns who has not ended."""
        deadline = time.monotonic() + timeout
        self.stop(timeout)
        for loop in self._loops:
            loop.request_stop()
        return [loop.name for loop in reversed(self._loops) if not loop.stop(max(deadline - time.monotonic(), 0.0))]

    def step(self) -> float:
        """Restarts dead loops."""
        for loop in self._loops:
            if not loop.alive and not loop.stopping:
                self.log.error("supervise: the thread of %r has died; starting it again", loop.name)
                loop.start()
        return _CHECK_SECONDS
