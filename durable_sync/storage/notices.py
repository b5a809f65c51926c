"""Messages between processes through the database, where it has them (PostgreSQL's NOTIFY)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import text

from durable_sync.storage.standing import StandingConnection

if TYPE_CHECKING:
    from durable_sync.storage.storage import Storage

__all__ = ["Ears", "channel", "tell"]

_NOTIFY = text("SELECT pg_notify(:channel, :message)")


def tell(storage: Storage, messages: Sequence[str]) -> None:
    """Sends the messages, in a transaction of their own: inside another, they would make commits take turns."""
    rows = [{"channel": channel(storage), "message": message} for message in messages]
    # A list of one would be prepared as many are, which costs more.
    given = rows if len(rows) > 1 else rows[0]
    storage.database.read("notify", lambda c: c.execute(_NOTIFY, given))


class Ears(StandingConnection):
    """A connection that listens."""

    verb = "listen"

    def _set_up(self, storage: Storage) -> None:
        self._raw.execute(f'LISTEN "{channel(storage)}"')

    def hear(self, seconds: float) -> Iterator[str]:
        """The messages that arrive within this time."""
        for notice in self._raw.notifies(timeout=seconds):
            yield notice.payload

    def probe(self) -> None:
        """Raises if the connection has died without a word."""
        with self._watched():
            self._raw.execute("SELECT 1")


def channel(storage: Storage) -> str:
    """The name under which processes on the same tables find each other."""
    return _channel_of(storage.sql.executions.fullname)


@cache
def _channel_of(table: str) -> str:
    return "durable_sync_" + hashlib.sha1(table.encode()).hexdigest()[:16]
