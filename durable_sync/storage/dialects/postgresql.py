"""PostgreSQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    ColumnElement,
    FromClause,
    Insert,
    Table,
    Text,
    bindparam,
    cast,
    event,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from durable_sync.storage.dialects.base import ABANDONED_SECONDS, Dialect, Fault, shut_down

__all__ = ["PostgreSQL"]


class PostgreSQL(Dialect):
    """PostgreSQL, by psycopg 3; other drivers do without notifications."""

    server_clock = True
    skip_locked = True
    update_returning = True
    json_rows = True
    reads_in_autocommit = True

    _CONTENTION = frozenset({"40001", "40P01", "55P03"})
    # Class 08: connection; 57: operator intervention; 53: out of resources. 25006: a replica after failover; 25P03: a
    # transaction that the server took for abandoned.
    _OUTAGE = ("08", "57", "53", "25006", "25P03")

    def prepare(self, engine: Engine, *, busy_seconds: float) -> None:
        self.notifies = engine.driver == "psycopg"

        def on_connect(dbapi_connection: Any, _record: Any) -> None:
            cursor = dbapi_connection.cursor()
            cursor.execute(f"SET idle_in_transaction_session_timeout = {ABANDONED_SECONDS * 1000}")
            cursor.close()
            dbapi_connection.commit()

        event.listen(engine, "connect", on_connect)

    def now(self) -> ColumnElement[int]:
        return literal_column("(extract(epoch from clock_timestamp()) * 1000000)::bigint", BigInteger)

    def connect_args(self, url: URL, limit: float) -> dict[str, Any]:
        # libpq takes no less than two seconds.
        wanted = {"connect_timeout": max(min(math.ceil(limit), 10), 2), "application_name": "durable_sync"}
        return {name: value for name, value in wanted.items() if name not in url.query}

    def lock_migrations(self, connection: Connection, name: str) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})

    def insert_unless_taken(self, table: Table) -> Insert | None:
        from sqlalchemy.dialects.postgresql import insert

        return insert(table).on_conflict_do_nothing()

    def is_in(self, column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        # One parameter, so that the statement's text, and its plan, is the same for any number of values.
        return column == func.any(bindparam(None, list(values), type_=ARRAY(column.type), unique=True))

    def is_among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        # Psycopg writes a list as an array element by element, ten times as slowly.
        listed = func.json_array_elements_text(bindparam(name, type_=JSON())).table_valued("value")
        return column == func.any(func.array(select(listed.c.value).scalar_subquery()))

    def rows_of_json(self, name: str, types: Mapping[str, TypeEngine[Any]]) -> FromClause:
        from sqlalchemy.dialects.postgresql import JSONB

        # Binary JSON is parsed once for all columns.
        text_given = cast(bindparam(name, type_=Text()), JSONB())
        listed = func.jsonb_array_elements(text_given).table_valued("value").alias("listed")
        columns = [
            cast(listed.c.value.op("->>")(literal_column(str(place))), type_).label(column)
            for place, (column, type_) in enumerate(types.items())
        ]
        return select(*columns).subquery("v")

    def is_first_of_rows(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        # A join alone is planned by the size of the table. What is planned and prepared while there are few rows goes
        # on to read the whole table when there are many, until the server has looked at it again.
        listed = self.rows_of_json(name, {"first": column.type})
        return column == func.any(func.array(select(listed.c.first).scalar_subquery()))

    def _fault(self, error: DBAPIError) -> Fault:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        if state in self._CONTENTION:
            return Fault.CONTENTION
        if state == "23505":
            return Fault.CONFLICT
        if state is None:
            return Fault.OUTAGE if type(error).__name__ in {"OperationalError", "InterfaceError"} else Fault.REFUSED
        return Fault.OUTAGE if state.startswith(self._OUTAGE) else Fault.REFUSED

    def descriptor(self, dbapi_connection: Any) -> int | None:
        number: int = dbapi_connection.fileno()
        return number

    def cut(self, dbapi_connection: Any) -> None:
        shut_down(dbapi_connection.fileno())
