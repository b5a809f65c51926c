"""Numbered upgrades of the tables, which several processes may run at once, and the check of their version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import func, insert, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from durable_sync.clock import SteadyClock
from durable_sync.errors import DatabaseVersionError
from durable_sync.storage.statements import Sql

__all__ = ["LATEST", "check_version", "is_latest", "migrate"]


def _create_tables(sql: Sql, connection: Connection) -> None:
    for table in sql.tables.metadata.sorted_tables:
        table.create(connection, checkfirst=True)
        # Where DDL can't be rolled back, a process may have died between a table and its indexes.
        for index in table.indexes:
            index.create(connection, checkfirst=True)


_STEPS: Final[tuple[Callable[[Sql, Connection], None], ...]] = (_create_tables,)
"""Step n upgrades tables of version n to n + 1. Each may be repeated: it looks before it makes."""

LATEST: Final = len(_STEPS)
"""The version of the tables that this library uses."""


def migrate(sql: Sql, connection: Connection) -> None:
    """Makes or upgrades the tables, in the caller's transaction; newer ones raise DatabaseVersionError."""
    lock = sql.executions.name
    sql.dialect.lock_migrations(connection, lock)
    try:
        found = _version(sql, connection)
        _refuse_newer(sql, found)
        for version in range(found + 1, LATEST + 1):
            _STEPS[version - 1](sql, connection)
            _note(sql, connection, version)
    finally:
        sql.dialect.unlock_migrations(connection, lock)


def is_latest(sql: Sql, connection: Connection) -> bool:
    """True if there is nothing to upgrade; newer tables raise DatabaseVersionError."""
    found = _version(sql, connection)
    _refuse_newer(sql, found)
    return found == LATEST


def check_version(sql: Sql, connection: Connection) -> None:
    """Raises DatabaseVersionError unless the tables are there, at the version that this library uses."""
    found = _version(sql, connection)
    _refuse_newer(sql, found)
    if found < LATEST:
        state = f"at version {found}" if found else "absent"
        raise DatabaseVersionError(
            f"the tables ({sql.executions.name} and so on) are {state}; this library needs version {LATEST}: "
            "call executor.migrate(), or leave migrate=True"
        )


def _version(sql: Sql, connection: Connection) -> int:
    versions = sql.tables.versions
    if not inspect(connection).has_table(versions.name, schema=versions.schema):
        return 0
    return connection.execute(select(func.max(versions.c.version))).scalar() or 0


def _refuse_newer(sql: Sql, found: int) -> None:
    if found > LATEST:
        raise DatabaseVersionError(
            f"the tables ({sql.executions.name} and so on) are at version {found}, newer than version {LATEST}, "
            "which this library knows: upgrade durable-sync in this process"
        )


def _note(sql: Sql, connection: Connection, version: int) -> None:
    versions = sql.tables.versions
    try:
        with connection.begin_nested():
            connection.execute(insert(versions).values(version=version, applied_at=SteadyClock().now()))
    except IntegrityError:
        # Another process made the same step, on a database where nothing keeps two from trying.
        return
