"""What goes into the tables and what comes out of them: frozen, with payloads still as JSON text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import frozen

from durable_sync.execution import ExecutionStatus

__all__ = ["ClaimedExecution", "Lineage", "NewExecution", "OutputRow", "StoredExecution", "TreeRow"]


@frozen(kw_only=True)
class Lineage:
    """Where an execution stands in its tree."""

    root_id: str
    """The topmost ancestor."""
    parent_id: str
    child_index: int | None
    """Its place among its parent's children; None for the finalize."""

    @classmethod
    def from_row(cls, row: Any) -> Lineage | None:
        """None for a root."""
        if row.parent_id is None:
            return None
        return cls(root_id=row.root_id, parent_id=row.parent_id, child_index=row.child_index)


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
    lineage: Lineage | None = None
    waits_turn: bool = False
    """It may start only once its turn among its parent's children has come; `delay` begins then."""
    input_from: str | None = None
    """The execution whose output is the value of the one name in `input`; its parent, if it is a finalize."""
    sleeps: bool = False
    """It waits to be woken, or for `timeout` to pass."""


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
    queue: str
    priority: int
    lineage: Lineage | None
    input: str
    input_from: str | None
    error: str | None

    COLUMNS: ClassVar = (
        "id",
        "task_id",
        "claim_token",
        "starts",
        "failures",
        "recoveries",
        "max_recoveries",
        "idle_for",
        "first_started_at",
        "started_at",
        "timeout",
        "max_retries",
        "queue",
        "priority",
        "root_id",
        "parent_id",
        "child_index",
        "input",
        "input_from",
        "error",
    )
    """What a claim reads."""

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> ClaimedExecution:
        """Reads the values of `COLUMNS`."""
        (
            execution_id,
            task_id,
            claim_token,
            starts,
            failures,
            recoveries,
            max_recoveries,
            idle_for,
            first_started_at,
            started_at,
            timeout,
            max_retries,
            queue,
            priority,
            root_id,
            parent_id,
            child_index,
            given,
            input_from,
            error,
        ) = values
        lineage = None
        if parent_id is not None:
            lineage = Lineage(root_id=root_id, parent_id=parent_id, child_index=child_index)
        return cls(
            execution_id=execution_id,
            task_id=task_id,
            claim_token=claim_token,
            starts=starts,
            failures=failures,
            recoveries=recoveries,
            max_recoveries=max_recoveries,
            idle_for=idle_for,
            first_started_at=first_started_at,
            started_at=started_at,
            timeout=timeout,
            max_retries=max_retries,
            queue=queue,
            priority=priority,
            lineage=lineage,
            input=given,
            input_from=input_from,
            error=error,
        )

    @classmethod
    def born(cls, row: NewExecution) -> ClaimedExecution:
        """What was inserted claimed: its first attempt."""
        return cls(
            execution_id=row.execution_id,
            task_id=row.task_id,
            claim_token=1,
            starts=1,
            failures=0,
            recoveries=0,
            max_recoveries=row.max_recoveries,
            idle_for=0,
            # Only their difference counts.
            first_started_at=0,
            started_at=0,
            timeout=row.timeout,
            max_retries=row.max_retries,
            queue=row.queue,
            priority=row.priority,
            lineage=None,
            input=row.input,
            input_from=None,
            error=None,
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
    plan: str | None
    input: str
    input_from: str | None
    run_output: str | None
    output_from: str | None
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
            plan=row.plan,
            input=row.input,
            input_from=row.input_from,
            run_output=row.run_output,
            output_from=row.output_from,
            error=row.error,
        )

    @property
    def tree_id(self) -> str:
        """The root of its tree: itself, if it has no parent."""
        return self.root_id or self.execution_id


@frozen(kw_only=True)
class OutputRow:
    """What of a row is needed to read its output, and to tell how it ended."""

    execution_id: str
    task_id: str
    tree_id: str
    parent_id: str | None
    status: ExecutionStatus
    plan: str | None
    run_output: str | None
    output_from: str | None
    error: str | None

    @classmethod
    def from_row(cls, row: Any) -> OutputRow:
        """Reads a row of the statements that select these columns."""
        return cls(
            execution_id=row.id,
            task_id=row.task_id,
            tree_id=row.root_id or row.id,
            parent_id=row.parent_id,
            status=ExecutionStatus(row.status),
            plan=row.plan,
            run_output=row.run_output,
            output_from=row.output_from,
            error=row.error,
        )

    @classmethod
    def of(cls, stored: StoredExecution) -> OutputRow:
        """The same of a row that is here already."""
        return cls(
            execution_id=stored.execution_id,
            task_id=stored.task_id,
            tree_id=stored.tree_id,
            parent_id=stored.parent_id,
            status=stored.status,
            plan=stored.plan,
            run_output=stored.run_output,
            output_from=stored.output_from,
            error=stored.error,
        )


@frozen(kw_only=True)
class TreeRow:
    """What of a row a picture of its tree needs."""

    execution_id: str
    task_id: str
    parent_id: str | None
    child_index: int | None
    status: ExecutionStatus
    starts: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    error: str | None

    @classmethod
    def from_row(cls, row: Any) -> TreeRow:
        """Reads a row of the statement that selects these columns."""
        return cls(
            execution_id=row.id,
            task_id=row.task_id,
            parent_id=row.parent_id,
            child_index=row.child_index,
            status=ExecutionStatus(row.status),
            starts=row.starts,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            error=row.error,
        )
