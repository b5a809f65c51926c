"""What each database can do, and how it says no. The only file that names a database.

A `Dialect` is a set of capabilities with the portable answer to each; a database that can do better
overrides it. Everything else asks for the capability, never for the name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Insert, Table, bindparam, event, func, literal_column, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from durable_sync.errors import ConfigurationError

__all__ = ["PORTABLE_OPTION", "Dialect", "Fault", "dialect_for", "require_driver", "with_driver"]

PORTABLE_OPTION = "durable_sync_portable"
"""An engine with this execution option set to True is used on the portable path, whatever its database."""

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
    arrays: ClassVar[bool] = False
    """A list can be one parameter, and many rows one `unnest` of lists."""
    single_writer: ClassVar[bool] = False
    """One write transaction at a time in the whole database: threads of a process take turns."""
    notifies: bool = False
    """LISTEN and NOTIFY, with a driver that lets a thread wait for them."""
    autocommit_is_free: ClassVar[bool] = False
    """Reading outside of a transaction saves round trips; elsewhere, switching costs more than it saves."""

    def now(self) -> ColumnElement[int]:
        """The database's present time in microseconds, evaluated when the row is met."""
        raise NotImplementedError("this database is told the time by a parameter")

    def engine_options(self) -> dict[str, Any]:
        """Options of `create_engine` that this database needs."""
        return {"isolation_level": "READ COMMITTED"}

    def connect_args(self, url: URL) -> dict[str, Any]:
        """Driver options that bound the time to connect, unless the URL sets them."""
        return {}

    def prepare(self, engine: Engine, *, busy_seconds: float) -> None:
        """Sets up what each new connection needs, and looks at what the driver can do."""

    def open_problem(self, url: URL) -> str | None:
        """What can be said, without connecting, about why this URL can't serve."""
        return None

    def lock_migrations(self, connection: Connection, name: str) -> None:
        """Makes other processes wait until `unlock_migrations` or the end of the transaction."""

    def unlock_migrations(self, connection: Connection, name: str) -> None:
        """Ends `lock_migrations` where the end of the transaction doesn't."""

    def insert_unless_taken(self, table: Table) -> Insert | None:
        """An INSERT that does nothing if a unique key is taken; None where there is none."""
        return None

    def is_in(self, column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        """`column` is one of `values`."""
        return column.in_(values)

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

    def cut(self, dbapi_connection: Any) -> None:
        """Frees a thread that waits on this connection, from another thread. The connection is lost."""


class SQLite(Dialect):
    """An embedded file in WAL mode with full durability; one writer at a time."""

    update_returning = True
    single_writer = True
    autocommit_is_free = True

    def engine_options(self) -> dict[str, Any]:
        return {}

    def prepare(self, engine: Engine, *, busy_seconds: float) -> None:
        # The sqlite3 module would begin and commit behind our back: it double-claimed 603 of 6,140 rows.
        def on_connect(dbapi_connection: Any, _record: Any) -> None:
            dbapi_connection.isolation_level = None
            cursor = dbapi_connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {round(busy_seconds * 1000)}")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.close()

        def on_begin(connection: Connection) -> None:
            if not connection.get_execution_options().get("durable_sync_read"):
                connection.exec_driver_sql("BEGIN IMMEDIATE")

        event.listen(engine, "connect", on_connect)
        event.listen(engine, "begin", on_begin)

    def insert_unless_taken(self, table: Table) -> Insert | None:
        return sqlite.insert(table).on_conflict_do_nothing()

    def open_problem(self, url: URL) -> str | None:
        name = url.database
        if not name or name == ":memory:" or "mode=memory" in str(url.query) + name:
            return "an in-memory SQLite database ends with its process; name a file, as in sqlite:///jobs.db"
        if name.startswith("file:"):
            return None
        path = Path(name)
        if path.is_dir():
            return f"{path} is a directory, not a database file"
        if not path.parent.is_dir():
            return f"there is no directory {path.parent} for the database file {path.name}"
        if path.exists() and not os.access(path, os.W_OK):
            return f"the database file {path} is read-only"
        return None

    def _fault(self, error: DBAPIError) -> Fault:
        if type(error).__name__ == "IntegrityError":
            return Fault.CONFLICT
        message = str(error.orig)
        if "locked" in message or "busy" in message:
            return Fault.CONTENTION
        # A full disk, an I/O error and an interrupt pass; a corrupt or read-only file doesn't.
        if "full" in message or "disk I/O" in message or "interrupted" in message:
            return Fault.OUTAGE
        return Fault.REFUSED

    def cut(self, dbapi_connection: Any) -> None:
        dbapi_connection.interrupt()


class PostgreSQL(Dialect):
    """PostgreSQL, by psycopg 3; other drivers do without notifications."""

    server_clock = True
    skip_locked = True
    update_returning = True
    arrays = True
    autocommit_is_free = True

    _CONTENTION = frozenset({"40001", "40P01", "55P03"})
    # Class 08: connection; 57: operator intervention; 53: out of resources; 25006: a replica after failover.
    _OUTAGE_CLASSES = ("08", "57", "53")

    def prepare(self, engine: Engine, *, busy_seconds: float) -> None:
        self.notifies = engine.driver == "psycopg"

    def now(self) -> ColumnElement[int]:
        return literal_column("(extract(epoch from clock_timestamp()) * 1000000)::bigint", BigInteger)

    def connect_args(self, url: URL) -> dict[str, Any]:
        given = {} if "connect_timeout" in url.query else {"connect_timeout": 10}
        if "application_name" not in url.query:
            given["application_name"] = "durable_sync"  # type: ignore[assignment]
        return given

    def lock_migrations(self, connection: Connection, name: str) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})

    def insert_unless_taken(self, table: Table) -> Insert | None:
        return postgresql.insert(table).on_conflict_do_nothing()

    def is_in(self, column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        # One parameter, so that the statement's text, and its plan, is the same for any number of values.
        return column == func.any(bindparam(None, list(values), type_=ARRAY(column.type), unique=True))

    def _fault(self, error: DBAPIError) -> Fault:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        if state in self._CONTENTION:
            return Fault.CONTENTION
        if state == "23505":
            return Fault.CONFLICT
        if state is None:
            return Fault.OUTAGE if type(error).__name__ in {"OperationalError", "InterfaceError"} else Fault.REFUSED
        return Fault.OUTAGE if state.startswith(self._OUTAGE_CLASSES) or state == "25006" else Fault.REFUSED

    def cut(self, dbapi_connection: Any) -> None:
        _shut_down(dbapi_connection.fileno())


# Such locks are the server's, not the database's, and their names end at 64 characters.
_GET_LOCK = text("SELECT GET_LOCK(SHA1(CONCAT(DATABASE(), '.', :name)), 60)")
_RELEASE_LOCK = text("SELECT RELEASE_LOCK(SHA1(CONCAT(DATABASE(), '.', :name)))")


class MySQL(Dialect):
    """MariaDB and MySQL, by PyMySQL."""

    server_clock = True
    skip_locked = True

    # Deadlock, lock wait timeout, snapshot changed (MariaDB 11.6), lock not available.
    _CONTENTION = frozenset({1213, 1205, 1020, 3572})
    # Gone away, lost, can't connect, shutting down, too many connections, Galera without quorum, read-only
    # after failover, killed, aborted, disk full.
    _OUTAGE = frozenset(
        {0, 2006, 2013, 2003, 2002, 2014, 2055, 1053, 1040, 1047, 1290, 1836, 1317, 1927, 1021, 1158, 1159}
    )

    def now(self) -> ColumnElement[int]:
        return literal_column("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))", BigInteger)

    def connect_args(self, url: URL) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if "connect_timeout" not in url.query:
            given["connect_timeout"] = 10
        if "charset" not in url.query:
            given["charset"] = "utf8mb4"
        return given

    def insert_unless_taken(self, table: Table) -> Insert | None:
        # INSERT IGNORE would also swallow values that don't fit.
        return mysql.insert(table).on_duplicate_key_update(id=table.c.id)

    def lock_migrations(self, connection: Connection, name: str) -> None:
        if connection.scalar(_GET_LOCK, {"name": name}) != 1:
            raise TimeoutError("another process has held the migration lock for a minute")

    def unlock_migrations(self, connection: Connection, name: str) -> None:
        connection.execute(_RELEASE_LOCK, {"name": name})

    def _fault(self, error: DBAPIError) -> Fault:
        arguments = getattr(error.orig, "args", ())
        code = arguments[0] if arguments and isinstance(arguments[0], int) else None
        if code in self._CONTENTION:
            return Fault.CONTENTION
        if code in {1062, 1586}:
            return Fault.CONFLICT
        if code in self._OUTAGE or (code is None and type(error).__name__ in {"OperationalError", "InterfaceError"}):
            return Fault.OUTAGE
        return Fault.REFUSED

    def cut(self, dbapi_connection: Any) -> None:
        connected: socket.socket | None = getattr(dbapi_connection, "_sock", None)
        if connected is not None:
            _shut_down(connected.fileno())


def _shut_down(descriptor: int) -> None:
    # A duplicate, because the driver's own thread may close and reuse the number meanwhile.
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


_DIALECTS: dict[str, type[Dialect]] = {
    "sqlite": SQLite,
    "postgresql": PostgreSQL,
    "mysql": MySQL,
    "mariadb": MySQL,
}

_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""Used for a URL that names none: what it would mean otherwise depends on SQLAlchemy's version."""

_EXTRAS = {"postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}
_URL_HINTS = {
    "postgresql": "postgresql+psycopg://user@host/database",
    "mysql": "mysql+pymysql://user@host/database",
    "mariadb": "mysql+pymysql://user@host/database",
}


class _Portable:
    """Mixed in front of a dialect: its connection habits, none of its capabilities."""

    server_clock = False
    skip_locked = False
    update_returning = False
    arrays = False
    autocommit_is_free = False

    is_in = Dialect.is_in
    insert_unless_taken = Dialect.insert_unless_taken


def dialect_for(name: str, *, portable: bool) -> Dialect:
    """The dialect of a database, by SQLAlchemy's name for it; `portable` strips it of all capabilities."""
    best = _DIALECTS.get(name, Dialect)
    if not portable:
        return best()
    portable_kind: type[Dialect] = type("Portable" + best.__name__, (_Portable, best), {})
    return portable_kind()


def with_driver(url: URL) -> URL:
    """The URL with the driver that we test, unless it names one."""
    driver = None if "+" in url.drivername else _DRIVERS.get(url.drivername)
    return url if driver is None else url.set(drivername=f"{url.drivername}+{driver}")


def require_driver(url: URL) -> None:
    """Raises ConfigurationError if the URL's driver is not there, naming the extra that installs it."""
    backend = url.get_backend_name()
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        raise ConfigurationError(f"SQLAlchemy knows no database {url.drivername!r}: check the URL's scheme") from error
    except ImportError as error:
        extra = _EXTRAS.get(backend)
        remedy = (
            f"pip install 'durable-sync[{extra}]' and write the URL as {_URL_HINTS[backend]}"
            if extra
            else "install it with pip"
        )
        raise ConfigurationError(f"the driver of {url.drivername!r} is not installed ({error}): {remedy}") from error
