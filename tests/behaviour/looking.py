"""Looks at trees from outside, while they run and after."""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy import Engine, Row, text

from durable_sync import ExecutionStatus, TaskContext, TaskHandle
from tests.waiting import wait_until


def wait_for(handle: TaskHandle[Any], status: ExecutionStatus) -> None:
    """Returns once the execution stands in this status."""
    wait_until(lambda: handle.get_execution().status is status, message=lambda: repr(handle.get_execution()))


def child_ids(handle: TaskHandle[Any]) -> list[str]:
    """The ids of the children, in the order in which they were spawned."""
    return [child.execution_id for child in handle.get_execution().children]


def run_until_stopped(ctx: TaskContext, stopped: threading.Event) -> None:
    """Called by a task: runs until it is told to stop, and says so."""
    try:
        ctx.cancel_signal.wait(10.0)
    finally:
        # Also if the exception that follows the signal came first.
        if ctx.cancel_signal.is_set():
            stopped.set()


def finalize_row(engine: Engine, parent_id: str) -> Row[Any]:
    """The row of a parent's finalize, which is there from the birth of the children on."""
    query = text("SELECT * FROM durable_executions WHERE parent_id = :id AND child_index IS NULL")
    with engine.connect() as connection:
        return connection.execute(query, {"id": parent_id}).one()


def active_tasks(engine: Engine) -> list[str]:
    """The task ids of all executions that have not finished."""
    with engine.connect() as connection:
        query = text("SELECT task_id FROM durable_executions WHERE finished_at IS NULL ORDER BY task_id")
        return list(connection.execute(query).scalars())
