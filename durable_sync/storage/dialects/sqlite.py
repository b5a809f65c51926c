"""SQLite."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    FunctionElement,
    Insert,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    event,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.engine import URL, Connection, Engine, ExecutionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from durable_sync.storage.dialects.base import Dialect, Fault

__all__ = ["SQLite"]


_HAS_JSON = (3, 38)
"""From this version on it always has."""
_BEGINS = "durable_sync_begins"
_SHORTLY, _NAP, _LONG_NAP = 0.5, 0.001, 0.005
"""Seconds between two tries for the write lock: naps, and from when on they are longer."""


class _JsonList(TypeDecorator[Any]):
    """A list, as a JSON text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return json.dumps(value)


class SQLite(Dialect):
    """An embedded file in WAL mode with full durability; one writer at a time."""

    single_writer = True
    in_process = True
    json_rows = sqlite3.sqlite_version_info >= _HAS_JSON

    def engine_options(self) -> dict[str, Any]:
        return {}

    def prepare(self, engine: Engine, *, busy_seconds: float) -> None:
        # The sqlite3 module would begin and commit behind our back: it double-claimed 603 of 6,140 rows.
        def on_connect(dbapi_connection: Any, _record: Any) -> None:
            legacy = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", None)  # from Python 3.12 on
            if legacy is not None:
                dbapi_connection.autocommit = legacy
            dbapi_connection.isolation_level = None
            cursor = dbapi_connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {round(busy_seconds * 1000)}")
            (mode,) = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
            cursor.execute("PRAGMA synchronous = FULL")
            if mode == "wal":
                # Only a BEGIN IMMEDIATE waits for others from now on, and it does so by itself: see `_begin`.
                cursor.execute("PRAGMA busy_timeout = 0")
            cursor.close()

        def on_begin(connection: Connection) -> None:
            if not connection.get_execution_options().get("durable_sync_read"):
                connection.exec_driver_sql("BEGIN IMMEDIATE", execution_options={_BEGINS: True})

        def on_execute(cursor: Any, statement: str, _parameters: Any, context: ExecutionContext) -> bool:
            begins = _BEGINS in context.execution_options
            if begins:
                _begin(cursor, statement, busy_seconds)
            return begins

        event.listen(engine, "connect", on_connect)
        event.listen(engine, "begin", on_begin)
        event.listen(engine, "do_execute", on_execute)

    def is_among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        # One parameter, where one for each value would have to be named, numbered and bound.
        if sqlite3.sqlite_version_info < _HAS_JSON:
            return super().is_among(column, name)
        listed = func.json_each(bindparam(name, type_=_JsonList())).table_valued("value")
        return column.in_(select(listed.c.value))

    def rows_of_json(self, name: str, types: Mapping[str, TypeEngine[Any]]) -> FromClause:
        # Each statement of the driver lets go of the interpreter, and has to get it back from all other threads.
        listed = func.json_each(bindparam(name, type_=Text())).table_valued("value").alias("listed")
        columns = [
            type_coerce(func.json_extract(listed.c.value, literal_column(f"'$[{place}]'")), type_).label(column)
            for place, (column, type_) in enumerate(types.items())
        ]
        return select(*columns).subquery("v")

    def listed_as_json(self, columns: Iterable[ColumnElement[Any]]) -> FunctionElement[str] | None:
        # Each row that the driver fetches lets go of the interpreter, too.
        return func.json_group_array(func.json_array(*columns)) if self.json_rows else None

    def insert_unless_taken(self, table: Table) -> Insert | None:
        from sqlalchemy.dialects.sqlite import insert

        return insert(table).on_conflict_do_nothing()

    def settled(self, url: URL) -> URL:
        name = url.database
        if not name or name == ":memory:" or name.startswith("file:"):
            return url
        return url.set(database=str(Path(name).absolute()))

    def files_written(self, url: URL) -> Sequence[str]:
        name = url.database
        if not name or name.startswith("file:") or "\0" in name:
            return ()
        # SQLite puts the log beside the file itself, not beside a link to it.
        path = os.path.realpath(name)
        return path, f"{path}-wal"

    def open_problem(self, url: URL) -> str | None:
        name = url.database
        if not name or ":memory:" in name or "mode=memory" in name or url.query.get("mode") == "memory":
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
        if _says_busy(error.orig):
            return Fault.CONTENTION
        message = str(error.orig)
        # A full disk, an I/O error and an interrupt pass; a corrupt or read-only file doesn't.
        if "full" in message or "disk I/O" in message or "interrupted" in message:
            return Fault.OUTAGE
        # Each of these may have rolled back all of the transaction, and its savepoints are what is missed first.
        if "no such savepoint" in message:
            return Fault.OUTAGE
        return Fault.REFUSED

    def cut(self, dbapi_connection: Any) -> None:
        dbapi_connection.interrupt()


def _begin(cursor: Any, statement: str, patience: float) -> None:
    """Tries for so many seconds. SQLite's own wait naps for up to 100 ms: one that writes often locks it meanwhile."""
    started = time.monotonic()
    while True:
        try:
            cursor.execute(statement)
            return
        except Exception as error:
            waited = time.monotonic() - started
            if waited >= patience or not _says_busy(error):
                raise
        time.sleep((_NAP if waited < _SHORTLY else _LONG_NAP) * random.uniform(0.5, 1.0))


def _says_busy(error: BaseException | None) -> bool:
    message = str(error)
    return "locked" in message or "busy" in message
