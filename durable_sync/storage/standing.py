"""A connection of its own for a thread that waits on it, apart from all that are lent for one operation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from durable_sync.storage.storage import Storage

__all__ = ["StandingConnection"]


class StandingConnection:
    """`cut` may be called from any thread, the rest from one."""

    verb: ClassVar[str]
    """What it is for, in the log and in errors."""

    def __init__(self, storage: Storage) -> None:
        self._database = storage.database
        self._raw = self._database.connections.detached(self.verb)
        try:
            with self._watched():
                self._database.engine.dialect.set_isolation_level(self._raw, "AUTOCOMMIT")
                self._set_up(storage)
        except BaseException:
            self.close()
            raise

    def _set_up(self, storage: Storage) -> None:
        """What has to be said first."""

    def _watched(self) -> AbstractContextManager[None]:
        """To be held while the database is to answer, or to wake this thread."""
        return self._database.connections.using(self.verb, self._raw)

    def cut(self) -> None:
        """Frees who waits; the connection is lost."""
        self._database.connections.cut(self._raw)

    def close(self) -> None:
        """Lets go of the connection."""
        self._database.connections.drop(self._raw)
