"""Makes an Execution, typed where its task is known, from a stored row."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from durable_sync.clock import to_datetime
from durable_sync.errors import (
    ChildrenFailedError,
    FinalizeFailedError,
    SerializationError,
    TaskCancelledError,
    TaskError,
    TaskTimedOutError,
)
from durable_sync.execution import ErrorInfo, Execution, ExecutionStatus, Progress
from durable_sync.serialization import Serializer
from durable_sync.storage.records import StoredExecution
from durable_sync.task import Task

__all__ = ["error_of", "output_of", "view"]


def view(stored: StoredExecution, task: Task[..., Any] | None, serializer: Serializer) -> Execution:
    """The execution as its readers see it. Values that no longer fit their types are shown as plain JSON."""
    annotation = Any if task is None else task.schema.output_annotation
    run_output = _lenient(serializer, stored.run_output, annotation)
    return Execution(
        task_id=stored.task_id,
        execution_id=stored.execution_id,
        status=stored.status,
        input=_input(stored, task, serializer),
        run_output=run_output,
        output=run_output if stored.status is ExecutionStatus.COMPLETED else None,
        error=None if stored.error is None else ErrorInfo.from_json(stored.error),
        root=stored.root_id,
        parent=stored.parent_id,
        attempt=stored.starts if stored.status is ExecutionStatus.READY else max(stored.starts - 1, 0),
        queue=stored.queue,
        priority=stored.priority,
        executor_id=stored.executor_id,
        created_at=to_datetime(stored.created_at),
        ready_at=to_datetime(stored.ready_at),
        started_at=None if stored.started_at is None else to_datetime(stored.started_at),
        finished_at=None if stored.finished_at is None else to_datetime(stored.finished_at),
        lease_expires_at=None if stored.lease_expires_at is None else to_datetime(stored.lease_expires_at),
        updated_at=to_datetime(stored.updated_at),
        progress=None if stored.progress is None else Progress.from_json(stored.progress),
    )


def _input(stored: StoredExecution, task: Task[..., Any] | None, serializer: Serializer) -> dict[str, Any]:
    if task is not None:
        with suppress(SerializationError):
            return task.schema.loads(serializer, stored.input)
    plain: dict[str, Any] = json.loads(stored.input)
    return plain


def _lenient(serializer: Serializer, text: str | None, annotation: Any) -> Any:
    if text is None:
        return None
    with suppress(SerializationError):
        return serializer.loads(text, annotation)
    return json.loads(text)


def output_of(stored: StoredExecution, task: Task[..., Any], serializer: Serializer) -> Any:
    """The output of a completed execution; SerializationError if it doesn't fit the task's type."""
    return None if stored.run_output is None else serializer.loads(stored.run_output, task.schema.output_annotation)


_ERRORS: dict[ExecutionStatus, type[TaskError]] = {
    ExecutionStatus.FAILED: TaskError,
    ExecutionStatus.TIMED_OUT: TaskTimedOutError,
    ExecutionStatus.CANCELLED: TaskCancelledError,
    ExecutionStatus.CHILDREN_FAILED: ChildrenFailedError,
    ExecutionStatus.FINALIZE_FAILED: FinalizeFailedError,
}


def error_of(execution: Execution) -> TaskError | None:
    """What `result` raises for a finished execution, with the remote traceback shown; None if it completed."""
    kind = _ERRORS.get(execution.status)
    if kind is None:
        return None
    info = execution.error
    if info is None:
        error = kind()
    else:
        own = info.type in {cls.__name__ for cls in _ERRORS.values()}
        error = kind(info.message if own else f"{info.type}: {info.message}", retryable=info.retryable)
        if info.traceback:
            error.add_note(f"The traceback of the attempt that failed:\n{info.traceback}")
    error.execution = execution
    return error
