"""Makes an Execution, typed where its task is known, from a stored row."""

from __future__ import annotations

from typing import Any

from durable_sync.clock import to_datetime
from durable_sync.execution import ErrorInfo, Execution, ExecutionStatus, Progress
from durable_sync.outputs import Outputs, child_of
from durable_sync.storage.records import OutputRow, StoredExecution
from durable_sync.task import Task

__all__ = ["view"]


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
