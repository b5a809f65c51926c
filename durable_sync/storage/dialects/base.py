"""The capabilities, with the portable answer to each, and what a failure means."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, FromClause, FunctionElement, Insert, Table, bindparam, true
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.types import TypeEngine

__all__ = ["ABANDONED_SECONDS", "MAX_PACKET", "Dialect", "Fault", "shut_down"]

ABANDONED_SECONDS = 5
"""A transaction of ours that says nothing for so long is ended by a server that can: whoever had it may be gone without
a word, and the server would keep its locks for hours."""

MAX_PACKET = 4 * 1024 * 1024
"""Bytes of payload in one statement: a quarter of the smallest default `max_allowed_packet` (MariaDB's 16 MiB)."""


class Fault(Enum):
    """What a failed transaction means for the one who tried it."""

    CONTENTION = auto()
    """A deadlock, a serialization failure, a busy file: try the whole transaction again, soon."""
    OUTAGE = auto()
    """The connection or the server is gone; whether a COMMIT took effect is unknown. Try again, later."""
    CONFLICT = auto()
    """A unique key is taken."""
    REFUSED = auto()
    """The database will never take this statement or this value."""


class Dialect:
    """The portable path: what any database that SQLAlchemy speaks can do."""

    server_clock: ClassVar[bool] = False
    """The database tells the time; otherwise this process's clock does."""
    skip_locked: ClassVar[bool] = False
    """`SELECT ... FOR UPDATE SKIP LOCKED`, so that two claims take different rows without waiting."""
    update_returning: ClassVar[bool] = False
    """`UPDATE ... RETURNING`."""
    json_rows: ClassVar[bool] = False
    """Many rows can be one parameter, a JSON text: drivers take far longer to write them out one by one."""
    single_writer: ClassVar[bool] = False
    """One write transaction at a time in the whole database: threads of a process take turns."""
    in_process: ClassVar[bool] = False
    """A library inside this process, whose locks and open files a forked child would inherit in confusion."""
    notifies: bool = False
    """LISTEN and NOTIFY, with a driver that lets a thread wait for them."""
    rings: bool = False
    """A connection can sleep in the database until another wakes it: see `nap` and `ring`."""
    nodes_lock_alone: ClassVar[bool] = False
    """The server may be one of several that take writes, and whose row locks are their own: what a transaction has read
    holds until its COMMIT only where it has locked that very row."""
    reads_in_autocommit: ClassVar[bool] = False
    """A connection that only reads can do without transactions, which saves round trips."""

    @property
    def claims_from_many(self) -> bool:
        """A claim can be given more candidates than it may take, and takes the first that are free."""
        return self.update_returning or self.skip_locked or self.single_writer

    def now(self) -> ColumnElement[int]:
        """The database's present time in microseconds, evaluated when the row is met."""
        raise NotImplementedError("this database is told the time by a parameter")

    def engine_options(self) -> dict[str, Any]:
        """Options of `create_engine` that this database needs."""
        return {"isolation_level": "READ COMMITTED"}

    def settled(self, url: URL) -> URL:
        """The URL in a form that means the same wherever the process moves to."""
        return url

    def files_written(self, url: URL) -> Sequence[str]:
        """The files, on this machine, of which each commit changes at least one; none if there are none to be seen."""
        return ()

    def connect_args(self, url: URL, limit: float) -> dict[str, Any]:
        """Driver options that bound the time to connect, and that of an operation where the driver can; in seconds.

        What the URL sets goes before.
        """
        return {}

    def prepare(self, engine: Engine, *, busy_seconds: float) -> None:
        """Sets up what each new connection needs, and looks at what the driver can do."""

    def adopt(self, dbapi_connection: Any) -> None:
        """Makes a connection that isn't ours fit for our statements; must do no harm to others."""

    def open_problem(self, url: URL) -> str | None:
        """What can be said, without connecting, about why this URL can't serve."""
        return None

    def lock_migrations(self, connection: Connection, name: str) -> None:
        """Makes other processes wait until `unlock_migrations` or the end of the transaction."""

    def unlock_migrations(self, connection: Connection, name: str) -> None:
        """Ends `lock_migrations` where the end of the transaction doesn't."""

    def largest_packet(self, connection: Connection) -> int | None:
        """Bytes that one statement may have; None if the database sets no limit worth telling."""
        return None

    def insert_unless_taken(self, table: Table) -> Insert | None:
        """An INSERT that does nothing if a unique key is taken; None where there is none."""
        return None

    def is_in(self, column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        """`column` is one of `values`."""
        return column.in_(values)

    def is_among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """`column` is one of the values in the list that is the parameter `name`.

        Beside it there must be no condition that an index of its own serves: see `without_index`.
        """
        return column.in_(bindparam(name, expanding=True))

    def rows_of_json(self, name: str, types: Mapping[str, TypeEngine[Any]]) -> FromClause:
        """The rows that the parameter `name` lists as JSON arrays, with these columns; see `json_rows`."""
        raise NotImplementedError("this database is given its rows one by one")

    def is_first_of_rows(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """`column` is the first of a row that `name` lists. Said beside a join with these rows, where that helps."""
        return true()

    def listed_as_json(self, columns: Iterable[ColumnElement[Any]]) -> FunctionElement[str] | None:
        """All rows of a SELECT as one JSON text, an array of arrays; None where rows are fetched as fast one by one."""
        return None

    def fault(self, error: BaseException) -> Fault | None:
        """What a failed transaction means; None if it isn't the database's doing."""
        if isinstance(error, PoolTimeoutError):
            return Fault.OUTAGE
        if not isinstance(error, DBAPIError):
            return None
        if error.connection_invalidated:
            return Fault.OUTAGE
        return self._fault(error)

    def _fault(self, error: DBAPIError) -> Fault:
        kind = type(error).__name__
        if kind == "IntegrityError":
            return Fault.CONFLICT
        return Fault.OUTAGE if kind in {"OperationalError", "InterfaceError"} else Fault.REFUSED

    def nap(self, dbapi_connection: Any, name: str, seconds: float) -> bool:
        """Sleeps in the database for up to so many seconds; True if somebody rang the bell of that name."""
        raise NotImplementedError("nobody can be woken in this database")

    def ring(self, connection: Connection, name: str) -> None:
        """Wakes all who sleep at the bell of that name, as far as the database lets this user see them."""
        raise NotImplementedError("nobody can be woken in this database")

    def descriptor(self, dbapi_connection: Any) -> int | None:
        """The number of the connection's socket; None if it has none, or its driver doesn't tell."""
        return None

    def cut(self, dbapi_connection: Any) -> None:
        """Frees a thread that waits on this connection, from another thread. The connection is lost."""


def shut_down(descriptor: int) -> None:
    """Ends a socket in both directions: whoever waits on it is told that it is closed."""
    # A duplicate, because the driver's own thread may close and reuse the number meanwhile.
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
