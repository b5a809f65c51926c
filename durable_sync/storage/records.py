"""What goes into the tables and what comes out of them: frozen, with payloads still as JSON text."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from durable_sync.execution import ExecutionStatus

__all__ = ["ClaimedExecution", "NewExecution", "StoredExecution"]


@frozen(kw_only=True)
class NewExecution:
    """An execution to be enqueued. Its id is made by the client, so that an insert can be repeated."""

    execution_id: str
    task_id: str
    input: str
    queue: str
    priority: int
    max_recoveries: int
    delay: int = 0
    """Microseconds after the database's present."""
    run_at: int | None = None
    """Microseconds since the epoch; goes before `delay`."""
    key: str | None = None
    timeout: int | None = None
    """Microseconds."""
    max_retries: int | None = None


@frozen(kw_only=True)
class ClaimedExecution:
    """An execution that this executor has claimed, with what its attempt needs."""

    execution_id: str
    task_id: str
    claim_token: int
    starts: int
    """The present one included."""
    failures: int
    recoveries: int
    max_recoveries: int
    idle_for: int
    first_started_at: int
    started_at: int
    timeout: int | None
    """Microseconds."""
    max_retries: int | None
    input: str
    error: str | None

    @classmethod
    def from_row(cls, row: Any) -> ClaimedExecution:
        """Reads a row of the claiming statement."""
        return cls(
            execution_id=row.id,
            task_id=row.task_id,
            claim_token=row.claim_token,
            starts=row.starts,
            failures=row.failures,
            recoveries=row.recoveries,
            max_recoveries=row.max_recoveries,
            idle_for=row.idle_for,
            first_started_at=row.first_started_at,
            started_at=row.started_at,
            timeout=row.timeout,
            max_retries=row.max_retries,
            input=row.input,
            error=row.error,
        )


@frozen(kw_only=True)
class StoredExecution:
    """A whole row of executions, with its owner's lease."""

    execution_id: str
    task_id: str
    status: ExecutionStatus
    root_id: str | None
    parent_id: str | None
    queue: str
    priority: int
    executor_id: str | None
    starts: int
    created_at: int
    ready_at: int
    started_at: int | None
    finished_at: int | None
    updated_at: int
    lease_expires_at: int | None
    progress: str | None
    input: str
    run_output: str | None
    output: str | None
    error: str | None

    @classmethod
    def from_row(cls, row: Any) -> StoredExecution:
        """Reads a row of the reading statement."""
        return cls(
            execution_id=row.id,
            task_id=row.task_id,
            status=ExecutionStatus(row.status),
            root_id=row.root_id,
            parent_id=row.parent_id,
            queue=row.queue,
            priority=row.priority,
            executor_id=row.executor_id,
            starts=row.starts,
            created_at=row.created_at,
            ready_at=row.ready_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            updated_at=row.updated_at,
            lease_expires_at=row.lease_expires_at,
            progress=row.progress,
            input=row.input,
            run_output=row.run_output,
            output=row.output,
            error=row.error,
        )
