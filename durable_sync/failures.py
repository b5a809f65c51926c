"""The error of an execution that did not complete, as it is raised where its result is asked for."""

from __future__ import annotations

from durable_sync.errors import (
    ChildrenFailedError,
    FinalizeFailedError,
    TaskCancelledError,
    TaskError,
    TaskTimedOutError,
)
from durable_sync.execution import Execution, ExecutionStatus

__all__ = ["error_of"]

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
