"""The tables. Times are microseconds since the epoch, UTC; payloads are JSON text."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import BigInteger, Column, Integer, MetaData, SmallInteger, Table, text
from sqlalchemy.schema import SchemaItem

from durable_sync.storage.dialects import name_type, partial_index, payload_type

__all__ = ["MAX_KEY", "MAX_NAME", "Tables", "build_tables"]

MAX_NAME = 200
"""Characters in a task id or a queue: four bytes each, two of them and more must fit an index of 3,072 bytes."""
MAX_KEY = 255
"""Characters in a key."""


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
        Column("boot_id", name_type(64), primary_key=True),
        Column("clock_offset", BigInteger, nullable=False),
    )
    executors = Table(
        f"{prefix}executors",
        made,
        Column("id", name_type(36), primary_key=True),
        Column("name", name_type(255), nullable=False),
        Column("hostname", name_type(255), nullable=False),
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
        Column("id", name_type(36), primary_key=True),
        Column("task_id", name_type(MAX_NAME), nullable=False),
        # The topmost ancestor: whoever ends a member of its tree locks this row first. Null for a root.
        Column("root_id", name_type(36)),
        Column("parent_id", name_type(36)),
        # The place among the parent's children; null for its finalize.
        Column("child_index", Integer),
        # What the ends of its children mean to it, as JSON: see plans.Plan. Null until it has spawned.
        Column("plan", payload_type()),
        _counter("unfinished_children"),
        # The execution whose output is its input (of its parent: all that a finalize is given).
        Column("input_from", name_type(36)),
        # The execution whose output is its output.
        Column("output_from", name_type(36)),
        Column("status", name_type(24), nullable=False),
        Column("queue", name_type(MAX_NAME), nullable=False),
        Column("priority", Integer, nullable=False),
        # Null unless the row may be claimed now; otherwise how: see transitions.lane_of.
        Column("lane", SmallInteger),
        # When something is to happen to the row by itself; null if nothing is.
        Column("timer_at", BigInteger),
        Column("key", name_type(MAX_KEY)),
        # The key while the execution is active; null once it has finished, which frees the key.
        Column("active_key", name_type(MAX_KEY)),
        Column("executor_id", name_type(36)),
        Column("claim_token", BigInteger, nullable=False, server_default=text("0")),
        _counter("starts"),
        _counter("failures"),
        _counter("recoveries"),
        Column("max_recoveries", Integer, nullable=False),
        # Microseconds between its turn among its parent's children and being ready.
        Column("delay", BigInteger),
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
        Column("progress", payload_type()),
        Column("input", payload_type(), nullable=False),
        Column("run_output", payload_type()),
        Column("error", payload_type()),
    ]


def _add_indexes(executions: Table) -> None:
    c = executions.c
    prefix = f"ix_{executions.name}"
    partial_index(
        f"{prefix}_claim", c.lane, c.task_id, c.queue, c.priority.desc(), c.ready_at, where="lane IS NOT NULL"
    )
    partial_index(f"{prefix}_timer", c.timer_at, where="timer_at IS NOT NULL")
    partial_index(f"{prefix}_tree", c.root_id, c.parent_id, c.child_index, where="root_id IS NOT NULL")
    partial_index(f"{prefix}_active", c.status, c.task_id, where="finished_at IS NULL")
    partial_index(f"{prefix}_key", c.task_id, c.active_key, where="active_key IS NOT NULL", unique=True)
    partial_index(f"{prefix}_keys", c.key, c.task_id, where="key IS NOT NULL")
