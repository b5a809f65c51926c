"""The tables. Times are microseconds since the epoch, UTC; payloads are JSON text."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, SmallInteger, String, Table, Text, text
from sqlalchemy.dialects.mysql import LONGTEXT, VARCHAR
from sqlalchemy.schema import SchemaItem

__all__ = ["MAX_KEY", "MAX_NAME", "Tables", "build_tables", "metadata"]

MAX_NAME = 200
"""Characters in a task id or a queue: four bytes each, two of them and more must fit an index of 3,072 bytes."""
MAX_KEY = 255
"""Characters in a key."""


def _name(length: int) -> String:
    # A server's default may be latin1 and fold case: ids and keys are compared byte by byte.
    return (
        String(length)
        .with_variant(String(length, collation="C"), "postgresql")
        .with_variant(VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    )


def _payload() -> Text:
    # MySQL's TEXT ends at 64 KiB.
    return Text().with_variant(LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")


def _counter(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=text("0"))


@frozen
class Tables:
    """The library's tables under one prefix and schema."""

    metadata: MetaData
    versions: Table
    clocks: Table
    executors: Table
    executions: Table


def build_tables(prefix: str = "durable_", schema: str | None = None) -> Tables:
    """Makes the tables' definitions in a MetaData of their own."""
    made = MetaData(schema=schema)
    versions = Table(
        f"{prefix}versions",
        made,
        Column("version", Integer, primary_key=True, autoincrement=False),
        Column("applied_at", BigInteger, nullable=False),
    )
    clocks = Table(
        f"{prefix}clocks",
        made,
        Column("boot_id", _name(64), primary_key=True),
        Column("clock_offset", BigInteger, nullable=False),
    )
    executors = Table(
        f"{prefix}executors",
        made,
        Column("id", _name(36), primary_key=True),
        Column("name", _name(255), nullable=False),
        Column("hostname", _name(255), nullable=False),
        Column("pid", BigInteger, nullable=False),
        Column("started_at", BigInteger, nullable=False),
        Column("lease_expires_at", BigInteger, nullable=False),
        Column("dead_at", BigInteger),
    )
    executions = Table(f"{prefix}executions", made, *_execution_columns())
    _add_indexes(executions)
    return Tables(made, versions, clocks, executors, executions)


def _execution_columns() -> list[SchemaItem]:
    return [
        Column("id", _name(36), primary_key=True),
        Column("task_id", _name(MAX_NAME), nullable=False),
        Column("root_id", _name(36)),
        Column("parent_id", _name(36)),
        Column("child_index", Integer),
        _counter("unfinished_children"),
        Column("status", _name(24), nullable=False),
        Column("queue", _name(MAX_NAME), nullable=False),
        Column("priority", Integer, nullable=False),
        # Null unless the row may be claimed now; otherwise how: see transitions.lane_of.
        Column("lane", SmallInteger),
        # When something is to happen to the row by itself; null if nothing is.
        Column("timer_at", BigInteger),
        Column("key", _name(MAX_KEY)),
        # The key while the execution is active; null once it has finished, which frees the key.
        Column("active_key", _name(MAX_KEY)),
        Column("executor_id", _name(36)),
        Column("claim_token", BigInteger, nullable=False, server_default=text("0")),
        _counter("starts"),
        _counter("failures"),
        _counter("recoveries"),
        Column("max_recoveries", Integer, nullable=False),
        # Options of this one enqueue; null: the task's own.
        Column("timeout", BigInteger),
        Column("max_retries", Integer),
        # Microseconds between attempts so far.
        Column("idle_for", BigInteger, nullable=False, server_default=text("0")),
        Column("created_at", BigInteger, nullable=False),
        Column("ready_at", BigInteger, nullable=False),
        Column("first_started_at", BigInteger),
        Column("started_at", BigInteger),
        Column("finished_at", BigInteger),
        Column("updated_at", BigInteger, nullable=False),
        Column("progress", _payload()),
        Column("input", _payload(), nullable=False),
        Column("run_output", _payload()),
        Column("output", _payload()),
        Column("error", _payload()),
    ]


def _add_indexes(executions: Table) -> None:
    c = executions.c
    partial: dict[str, tuple[Column[object], ...]] = {
        "claim": (c.lane, c.task_id, c.queue, c.priority.desc(), c.ready_at),  # type: ignore[dict-item]
        "timer": (c.timer_at,),
        "parent": (c.parent_id, c.child_index),
    }
    for name, columns in partial.items():
        condition = text(f"{c.lane.name if name == 'claim' else columns[0].name} IS NOT NULL")
        Index(f"ix_{executions.name}_{name}", *columns, postgresql_where=condition, sqlite_where=condition)
    active = text("finished_at IS NULL")
    Index(f"ix_{executions.name}_active", c.status, c.task_id, postgresql_where=active, sqlite_where=active)
    keyed = text("active_key IS NOT NULL")
    Index(f"ix_{executions.name}_key", c.task_id, c.active_key, unique=True, postgresql_where=keyed, sqlite_where=keyed)


metadata = build_tables().metadata
"""The tables under their default names, for users who run Alembic."""
