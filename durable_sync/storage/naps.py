"""Naps: a connection sleeps in the database until another process rings, where one connection can wake another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_sync.storage.notices import channel

if TYPE_CHECKING:
    from durable_sync.storage.storage import Storage

__all__ = ["Nap", "ring"]

_SECONDS = 9.0
"""Of one nap at most: the slow query log shows what takes more than ten, as a rule. A ring between two is not heard."""


def ring(storage: Storage) -> None:
    """Wakes all who nap."""
    database = storage.database
    database.read("ring", lambda connection: database.dialect.ring(connection, channel(storage)))


class Nap:
    """A connection to nap on. `cut` may be called from any thread, the rest from one."""

    def __init__(self, storage: Storage) -> None:
        self._database = storage.database
        self._name = channel(storage)
        # The watchdog must find nothing wrong with it.
        self._seconds = min(_SECONDS, self._database.watchdog.limit / 3)
        self._raw = self._database.connections.detached("nap")
        try:
            with self._database.connections.using("nap", self._raw):
                self._database.engine.dialect.set_isolation_level(self._raw, "AUTOCOMMIT")
        except BaseException:
            self.close()
            raise

    def sleep(self) -> bool:
        """Sleeps, for some seconds at most; True if somebody has rung."""
        with self._database.connections.using("nap", self._raw):
            return self._database.dialect.nap(self._raw, self._name, self._seconds)

    def cut(self) -> None:
        """Frees who naps; the connection is lost."""
        self._database.connections.cut(self._raw)

    def close(self) -> None:
        """Lets go of the connection."""
        self._database.connections.drop(self._raw)
