"""Makes an Execution, typed where its task is known, from a stored row."""

from __future__ import annotations

from typing import Any

from durable_sync.clock import to_datetime
from durable_sync.errors import (
    ChildrenFailedError,
    FinalizeFailedError,
    TaskCancelledError,
    TaskError,
    TaskTimedOutError,
)
from durable_sync.execution import ErrorInfo, Execution, ExecutionStatus, Progress
from durable_sync.outputs import Outputs, child_of
from durable_sync.storage.records import OutputRow, StoredExecution
from durable_sync.task import Task

__all__ = ["error_of", "view"]


def view(stored: StoredExecution, task: Task[..., Any] | None, outputs: Outputs) -> Execution:
    """The execution as its readers see it. Values that no longer fit their types are shown as plain JSON."""
    row = OutputRow.of(stored)
    children = outputs.children([row], with_outputs=False)[row.execution_id] if row.plan is not None else []
    return Execution(
        task_id=stored.task_id,
        execution_id=stored.execution_id,
        status=stored.status,
        input=outputs.input(task, stored.input, stored.input_from),
        run_output=outputs.run_output(stored.task_id, stored.run_output),
        output=outputs.of([row])[row.execution_id],
        error=None if stored.error is None else ErrorInfo.from_json(stored.error),
        children=tuple(child_of(child) for child in children),
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
