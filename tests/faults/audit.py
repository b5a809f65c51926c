"""Two logs in the database, written by triggers behind the library's back: moves of executions, and lives of leases.

Without a unique key, so that what happens twice shows twice. Times are the server's, in microseconds; on SQLite, which
has none of its own, the wall clock's, to the millisecond.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from sqlalchemy import text
from sqlalchemy.engine import Engine

__all__ = ["LeaseChange", "Move", "Row", "install", "lease_changes", "moves", "now", "rows", "unfinished"]

_NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    "postgresql": "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
}
_SERIAL = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "postgresql": "BIGSERIAL PRIMARY KEY",
    "mysql": "BIGINT PRIMARY KEY AUTO_INCREMENT",
}
_MOVE_COLUMNS = {
    "execution_id": ("VARCHAR(36)", "NEW.id"),
    "old_status": ("VARCHAR(24)", "OLD.status"),
    "new_status": ("VARCHAR(24)", "NEW.status"),
    "old_token": ("BIGINT", "OLD.claim_token"),
    "new_token": ("BIGINT", "NEW.claim_token"),
    "recovers": ("INTEGER", "NEW.recoveries - OLD.recoveries"),
    "run_output": ("TEXT", "NEW.run_output"),
    "old_owner": ("VARCHAR(36)", "OLD.executor_id"),
    "owner_lease": ("BIGINT", "(SELECT lease_expires_at FROM durable_executors e WHERE e.id = OLD.executor_id)"),
    "owner_dead": ("BIGINT", "(SELECT dead_at FROM durable_executors e WHERE e.id = OLD.executor_id)"),
}
_LEASE_COLUMNS = {
    "owner": ("VARCHAR(36)", "NEW.id"),
    "process": ("VARCHAR(255)", "NEW.name"),
    "old_dead": ("BIGINT", "OLD.dead_at"),
    "new_dead": ("BIGINT", "NEW.dead_at"),
    "old_lease": ("BIGINT", "OLD.lease_expires_at"),
    "new_lease": ("BIGINT", "NEW.lease_expires_at"),
}
_BIRTH = {"old_status": "'absent'", "old_token": "0", "recovers": "0"}
_BORN_CLAIMED = "NEW.status = 'running'"
_MOVED = "OLD.status <> NEW.status OR OLD.claim_token <> NEW.claim_token OR OLD.finished_at IS NOT NULL"
_DEATH = "OLD.dead_at IS NOT NULL OR NEW.dead_at IS NOT NULL"


@frozen
class Move:
    """One UPDATE of an execution, in the order in which they were made to that execution.

    Or the INSERT by which it was enqueued and claimed: its `old_status` is "absent", its `old_token` 0.
    """

    execution_id: str
    old_status: str
    new_status: str
    old_token: int
    new_token: int
    recovers: int
    """1: its owner was taken for dead."""
    run_output: str | None
    old_owner: str | None
    owner_lease: int | None
    """When the owner's lease ended, as it stood then."""
    owner_dead: int | None
    at: int


@frozen
class LeaseChange:
    """One UPDATE of an incarnation that was dead, or died by it."""

    owner: str
    process: str
    """The name of its executor."""
    old_dead: int | None
    new_dead: int | None
    old_lease: int
    new_lease: int
    at: int


@frozen
class Row:
    """What of an execution's row the checker reads."""

    id: str
    task_id: str
    root_id: str | None
    parent_id: str | None
    child_index: int | None
    status: str
    claim_token: int
    starts: int
    failures: int
    recoveries: int
    unfinished_children: int
    plan: str | None
    run_output: str | None
    created_at: int
    started_at: int | None
    finished_at: int | None


def install(engine: Engine) -> None:
    """Makes the logs and their triggers; the library's tables are there already."""
    name = {"mariadb": "mysql"}.get(engine.dialect.name, engine.dialect.name)
    with engine.begin() as connection:
        for table, log, columns, condition in (
            ("durable_executions", "audit_moves", _MOVE_COLUMNS, _MOVED),
            ("durable_executors", "audit_leases", _LEASE_COLUMNS, _DEATH),
        ):
            connection.exec_driver_sql(_table(name, log, columns))
            values = {column: value for column, (_, value) in columns.items()}
            for statement in _trigger(name, "UPDATE", table, log, values, condition):
                connection.exec_driver_sql(statement)
        values = {column: value for column, (_, value) in _MOVE_COLUMNS.items() if "OLD." not in value} | _BIRTH
        for statement in _trigger(name, "INSERT", "durable_executions", "audit_moves", values, _BORN_CLAIMED):
            connection.exec_driver_sql(statement)


def now(engine: Engine) -> int:
    """The database's time, by the clock that the logs go by."""
    name = {"mariadb": "mysql"}.get(engine.dialect.name, engine.dialect.name)
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(f"SELECT {_NOW[name]}").scalar_one())


def _table(name: str, log: str, columns: dict[str, tuple[str, str]]) -> str:
    declared = ", ".join(f"{column} {kind}" for column, (kind, _) in columns.items())
    return f"CREATE TABLE {log} (seq {_SERIAL[name]}, {declared}, at BIGINT)"


def _trigger(name: str, event: str, table: str, log: str, values: dict[str, str], condition: str) -> list[str]:
    """Logs these values whenever an INSERT or UPDATE (`event`) meets the condition."""
    insert = f"INSERT INTO {log} ({', '.join(values)}, at) VALUES ({', '.join(values.values())}, {_NOW[name]});"
    made = f"CREATE TRIGGER {log}_{event} AFTER {event} ON {table}"
    if name == "sqlite":
        return [f"{made} WHEN {condition} BEGIN {insert} END"]
    if name == "postgresql":
        called = f"{log}_{event}_f()"
        function = f"CREATE FUNCTION {called} RETURNS trigger AS $$ BEGIN {insert} RETURN NULL; END $$ LANGUAGE plpgsql"
        return [function, f"{made} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {called}"]
    return [f"{made} FOR EACH ROW BEGIN IF {condition} THEN {insert} END IF; END"]


def _read(engine: Engine, columns: str, table: str, order: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY {order}")))


def moves(engine: Engine) -> list[Move]:
    """The moves of executions, in order."""
    return [Move(*row) for row in _read(engine, f"{', '.join(_MOVE_COLUMNS)}, at", "audit_moves", "seq")]


def lease_changes(engine: Engine) -> list[LeaseChange]:
    """The deaths of incarnations, and whatever was done to the dead."""
    return [LeaseChange(*row) for row in _read(engine, f"{', '.join(_LEASE_COLUMNS)}, at", "audit_leases", "seq")]


def rows(engine: Engine) -> list[Row]:
    """The executions as they are now."""
    return [Row(*row) for row in _read(engine, ", ".join(Row.__annotations__), "durable_executions", "id")]


def unfinished(engine: Engine) -> int:
    """How many executions have not finished."""
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM durable_executions WHERE finished_at IS NULL")
        return int(connection.execute(query).scalar_one())
