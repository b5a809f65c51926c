"""MariaDB and MySQL."""

from __future__ import annotations

import math
import socket
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from attrs import frozen
from sqlalchemy import BigInteger, ColumnElement, FromClause, Insert, Table, event, literal_column, select, text
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from durable_sync.storage.dialects.base import ABANDONED_SECONDS, Dialect, Fault, shut_down

__all__ = ["MySQL", "for_transport"]

_PLAIN_LENGTH = 256 * 1024
"""Characters of a text up to which it is sent as it is."""


@frozen
class _Bulky:
    """A long text. Not a str, which the driver would quote before it looks for another way."""

    text: str


def for_transport(value: str | None) -> Any:
    """Marks a long text: quoting doubles quotes and backslashes, so that JSON could outgrow a packet."""
    return _Bulky(value) if value is not None and len(value) > _PLAIN_LENGTH else value


def _encode_bulky(value: _Bulky, _mapping: Any = None) -> str:
    return f"CONVERT(FROM_BASE64('{b64encode(value.text.encode()).decode()}') USING utf8mb4)"


# Such locks are the server's, not the database's, and their names end at 64 characters.
_GET_LOCK = text("SELECT GET_LOCK(SHA1(CONCAT(DATABASE(), '.', :name)), 60)")
_RELEASE_LOCK = text("SELECT RELEASE_LOCK(SHA1(CONCAT(DATABASE(), '.', :name)))")

# A user sees, and may wake, his own threads without any privilege. A proxy counts connections in a way of its own, and
# would take these numbers for some of its own: there, the one that asks is not found under its number.
_NAPPERS = text(
    "SELECT id FROM information_schema.processlist WHERE id = :own AND info LIKE '/* durable_sync ring %' "
    "OR db = DATABASE() AND info LIKE :nap"
)
# Interrupted; MariaDB, MySQL: longer than the server lets a statement last.
_RUNG = {(1317,), (1969,), (3024,)}
# Gone meanwhile; another user's, which a privilege lets this one see and not wake.
_NOT_TO_BE_WOKEN = {(1094,), (1095,)}


def _napping(name: str) -> str:
    return f"/* durable_sync nap {name} */"


class MySQL(Dialect):
    """MariaDB and MySQL, by PyMySQL."""

    server_clock = True
    skip_locked = True
    json_rows = True
    reads_in_autocommit = True
    nodes_lock_alone = True  # Galera

    # Deadlock, lock wait timeout, snapshot changed (MariaDB 11.6), lock not available; no such savepoint: a deadlock
    # has rolled back all of the transaction, and its savepoints are what is missed first.
    _CONTENTION = frozenset({1213, 1205, 1020, 3572, 1305})
    # Gone away, lost, can't connect, shutting down, too many connections, Galera without quorum, read-only
    # after failover, killed, aborted; disk full, as the server, a table, or the writer of a file says it.
    _OUTAGE = frozenset(
        {0, 2006, 2013, 2003, 2002, 2014, 2055, 1053, 1040, 1047, 1290, 1836, 1317, 1927, 1158, 1159}
        | {1021, 1114, 1026, 3}
    )

    def now(self) -> ColumnElement[int]:
        return literal_column("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))", BigInteger)

    def connect_args(self, url: URL, limit: float) -> dict[str, Any]:
        # The driver's own limits also hold while it shakes hands and while it rolls back, which nobody else watches.
        seconds = max(math.ceil(limit), 1)
        wanted = {
            "connect_timeout": min(seconds, 10),
            "read_timeout": seconds,
            "write_timeout": seconds,
            "charset": "utf8mb4",
        }
        return {name: value for name, value in wanted.items() if name not in url.query}

    def largest_packet(self, connection: Connection) -> int | None:
        return int(connection.execute(text("SELECT @@max_allowed_packet")).scalar_one())

    def insert_unless_taken(self, table: Table) -> Insert | None:
        from sqlalchemy.dialects.mysql import insert

        # INSERT IGNORE would also swallow values that don't fit.
        return insert(table).on_duplicate_key_update(id=table.c.id)

    def rows_of_json(self, name: str, types: Mapping[str, TypeEngine[Any]]) -> FromClause:
        # A driver that sends an UPDATE for each row is six times as slow. Where SKIP LOCKED is, there is JSON_TABLE.
        from sqlalchemy.dialects.mysql import dialect

        ours = dialect()
        declared = ", ".join(
            f"{column} {type_.compile(dialect=ours)} PATH '$[{place}]'"
            for place, (column, type_) in enumerate(types.items())
        )
        listed = text(f"JSON_TABLE(:{name}, '$[*]' COLUMNS ({declared})) AS listed")
        columns = [literal_column(f"listed.{column}", type_).label(column) for column, type_ in types.items()]
        return select(*columns).select_from(listed).subquery("v")

    def prepare(self, engine: Engine, *, busy_seconds: float) -> None:
        # Other drivers don't let go of a thread that naps.
        self.rings = engine.driver == "pymysql"

        def on_connect(dbapi_connection: Any, _record: Any) -> None:
            self.adopt(dbapi_connection)
            if "MariaDB" in dbapi_connection.get_server_info():  # MySQL has nothing of the kind
                cursor = dbapi_connection.cursor()
                cursor.execute(f"SET SESSION idle_transaction_timeout = {ABANDONED_SECONDS}")
                cursor.close()

        event.listen(engine, "connect", on_connect)

    def adopt(self, dbapi_connection: Any) -> None:
        dbapi_connection.encoders = {**dbapi_connection.encoders, _Bulky: _encode_bulky}

    def lock_migrations(self, connection: Connection, name: str) -> None:
        if connection.scalar(_GET_LOCK, {"name": name}) != 1:
            raise TimeoutError("another process has held the migration lock for a minute")

    def unlock_migrations(self, connection: Connection, name: str) -> None:
        connection.execute(_RELEASE_LOCK, {"name": name})

    def nap(self, dbapi_connection: Any, name: str, seconds: float) -> bool:
        longest = getattr(dbapi_connection, "_read_timeout", None)
        if longest is not None:
            seconds = min(seconds, longest / 2)
        cursor = dbapi_connection.cursor()
        try:
            cursor.execute(f"{_napping(name)} SELECT SLEEP({seconds:.3f})")
            return bool(cursor.fetchone()[0])
        except Exception as error:
            if error.args[:1] in _RUNG:
                return True
            raise
        finally:
            cursor.close()

    def ring(self, connection: Connection, name: str) -> None:
        raw: Any = connection.connection.dbapi_connection
        own = raw.thread_id()
        threads = set(connection.execute(_NAPPERS, {"own": own, "nap": f"{_napping(name)}%"}).scalars())
        for thread in threads - {own} if own in threads else ():
            try:
                connection.execute(text(f"KILL QUERY {int(thread)}"))
            except DBAPIError as error:
                if error.orig is None or error.orig.args[:1] not in _NOT_TO_BE_WOKEN:
                    raise

    def _fault(self, error: DBAPIError) -> Fault:
        arguments = getattr(error.orig, "args", ())
        code = arguments[0] if arguments and isinstance(arguments[0], int) else None
        if code in self._CONTENTION:
            return Fault.CONTENTION
        if code in {1062, 1586}:
            return Fault.CONFLICT
        # InternalError without a number: the driver has met a packet that it did not expect.
        lost = {"OperationalError", "InterfaceError", "InternalError"}
        if code in self._OUTAGE or (code is None and type(error).__name__ in lost):
            return Fault.OUTAGE
        return Fault.REFUSED

    def descriptor(self, dbapi_connection: Any) -> int | None:
        connected: socket.socket | None = getattr(dbapi_connection, "_sock", None)
        return None if connected is None else connected.fileno()

    def cut(self, dbapi_connection: Any) -> None:
        connected: socket.socket | None = getattr(dbapi_connection, "_sock", None)
        if connected is not None:
            shut_down(connected.fileno())
