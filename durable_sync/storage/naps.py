"""Naps: a connection sleeps in the database until another process rings, where one connection can wake another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_sync.storage.notices import channel
from durable_sync.storage.standing import StandingConnection

if TYPE_CHECKING:
    from durable_sync.storage.storage import Storage

__all__ = ["Nap", "ring"]

_SECONDS = 9.0
"""Of one nap at most: the slow query log shows what takes more than ten, as a rule. A ring between two is not heard."""


def ring(storage: Storage) -> None:
    """Wakes all who nap."""
    database = storage.database
    database.read("ring", lambda connection: database.dialect.ring(connection, channel(storage)))


class Nap(StandingConnection):
    """A connection to nap on."""

    verb = "nap"

    def _set_up(self, storage: Storage) -> None:
        self._name = channel(storage)
        # The watchdog must find nothing wrong with it.
        self._seconds = min(_SECONDS, self._database.watchdog.limit / 3)

    def sleep(self) -> bool:
        """Sleeps, for some seconds at most; True if somebody has rung."""
        with self._watched():
            return self._database.dialect.nap(self._raw, self._name, self._seconds)
