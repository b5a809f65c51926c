"""The base of the loops that wait on a connection of their own."""

from __future__ import annotations

from typing import Generic, TypeVar

from durable_sync.engine.loop import Loop
from durable_sync.storage.standing import StandingConnection

__all__ = ["StandingLoop"]

C = TypeVar("C", bound=StandingConnection)


class StandingLoop(Loop, Generic[C]):
    """Opens its connection when it is first needed, and anew after a failure. A stop frees it from waiting."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._connection: C | None = None

    def _open(self) -> C:
        raise NotImplementedError

    def _opened(self) -> None:
        """What is to be done because nobody has waited until now."""
        raise NotImplementedError

    def _wait(self, connection: C) -> None:
        """Waits for a while, and tells what it has heard."""
        raise NotImplementedError

    def step(self) -> float:
        """Waits once."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
            if self.stopping:
                # Whoever asked for the stop may have looked for it just before.
                return 0.0
            self._opened()
        try:
            self._wait(connection)
        except Exception:
            self._connection = None
            connection.close()
            if self.stopping:
                return 0.0
            raise
        return 0.0

    def request_stop(self) -> None:
        """Asks the thread to end, and frees it from waiting."""
        super().request_stop()
        connection = self._connection
        if connection is not None:
            connection.cut()

    def end(self) -> None:
        """Lets go of the connection."""
        if self._connection is not None:
            self._connection.close()
