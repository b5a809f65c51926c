"""Durable execution of plain, synchronous functions, over any database that SQLAlchemy speaks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from durable_sync._version import __version__
from durable_sync.clock import Clock
from durable_sync.context import Signal, TaskContext
from durable_sync.errors import (
    ChildrenFailedError,
    ConfigurationError,
    DatabaseVersionError,
    DurableError,
    ExecutionNotFoundError,
    ExecutorShutdownError,
    FinalizeFailedError,
    InvalidInputError,
    SerializationError,
    TaskCancelledError,
    TaskError,
    TaskNotRegisteredError,
    TaskTimedOutError,
)
from durable_sync.execution import ChildExecution, ErrorInfo, Execution, ExecutionStatus, Progress
from durable_sync.executor import DurableExecutor
from durable_sync.families import Done, LoopResult, ParentOutput, ParentResult, Spawn
from durable_sync.handle import TaskHandle
from durable_sync.registry import TaskRegistry
from durable_sync.task import ParentTask, SleepingTask, Task, TaskCall
from durable_sync.tree import ExecutionTree
from durable_sync.using import TransactionalExecutor
from durable_sync.waiting import DoneAndNotDone, as_completed, wait

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from durable_sync.serialization import OrjsonSerializer, Serializer, make_converter

    metadata: MetaData

logging.getLogger("durable_sync").addHandler(logging.NullHandler())

__all__ = [
    "ChildExecution",
    "ChildrenFailedError",
    "Clock",
    "ConfigurationError",
    "DatabaseVersionError",
    "Done",
    "DoneAndNotDone",
    "DurableError",
    "DurableExecutor",
    "ErrorInfo",
    "Execution",
    "ExecutionNotFoundError",
    "ExecutionStatus",
    "ExecutionTree",
    "ExecutorShutdownError",
    "FinalizeFailedError",
    "InvalidInputError",
    "LoopResult",
    "OrjsonSerializer",
    "ParentOutput",
    "ParentResult",
    "ParentTask",
    "Progress",
    "SerializationError",
    "Serializer",
    "Signal",
    "SleepingTask",
    "Spawn",
    "Task",
    "TaskCall",
    "TaskCancelledError",
    "TaskContext",
    "TaskError",
    "TaskHandle",
    "TaskNotRegisteredError",
    "TaskRegistry",
    "TaskTimedOutError",
    "TransactionalExecutor",
    "__version__",
    "as_completed",
    "make_converter",
    "metadata",
    "wait",
]


def __getattr__(name: str) -> Any:
    """What is made or imported when it is first asked for, because most programs never do.

    `metadata`: the tables under their default names, for users who run Alembic.
    """
    if name == "metadata":
        from durable_sync.storage.tables import build_tables

        return globals().setdefault(name, build_tables().metadata)
    if name in {"OrjsonSerializer", "Serializer", "make_converter"}:
        from durable_sync import serialization

        return globals().setdefault(name, getattr(serialization, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
