"""Follows executions to their end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from queue import Empty, SimpleQueue

from attrs import frozen
from sqlalchemy.exc import SQLAlchemyError

from durable_sync import DurableExecutor, Execution, ExecutionStatus, TaskHandle, wait
from durable_sync.demo.ledger import Assignment, Job
from durable_sync.demo.reading import FileReport
from durable_sync.demo.screen import Bar

__all__ = ["Standing", "follow"]

IDLE = 0.5
"""Seconds without news after which the bar says what it waits for."""
FEW = 50
"""How many executions to look at to find out."""


@frozen
class Standing:
    """How far the run was when this process joined it."""

    jobs: tuple[Job, ...]
    """All of them, in the order of their files."""
    finished: frozenset[str]
    """Execution ids; so are the keys of `started`, and `new`."""
    started: dict[str, int]
    """What was running elsewhere, with its attempt: that process has died, or still works."""
    new: frozenset[str]

    @classmethod
    def of(cls, assignment: Assignment) -> Standing:
        """Read it from the database, before this process takes part."""
        handles = [job.handle for job in assignment.old]
        executions = [handle.get_execution() for handle in active_handles(handles)]
        active = {execution.execution_id: execution for execution in executions if not execution.is_finished}
        return cls(
            jobs=tuple(sorted(assignment.old + assignment.new, key=lambda job: job.file.name)),
            finished=frozenset(job.id for job in assignment.old if job.id not in active),
            started={
                id: execution.attempt for id, execution in active.items() if execution.status is ExecutionStatus.RUNNING
            },
            new=frozenset(job.id for job in assignment.new),
        )

    @property
    def pending(self) -> list[Job]:
        """What is left to do."""
        return [job for job in self.jobs if job.id not in self.finished]

    @property
    def total(self) -> int:
        """How many files there are."""
        return len(self.jobs)


def active_handles(handles: Sequence[TaskHandle[FileReport]]) -> list[TaskHandle[FileReport]]:
    """Those that may not have finished, without a query for each."""
    return list(wait(handles, timeout=0).not_done)


def cancel_active(handles: Sequence[TaskHandle[FileReport]]) -> None:
    """Cancel those that have not finished."""
    for handle in active_handles(handles):
        handle.cancel()


def follow(executor: DurableExecutor, pending: Sequence[Job], bar: Bar, *, done: int) -> None:
    """Block until every one of `pending` has finished, here or in another process."""
    ended: SimpleQueue[TaskHandle[FileReport]] = SimpleQueue()
    left = {job.id: job for job in pending}
    name = ""
    bar.update(done, name)
    for job in pending:
        job.handle.add_done_callback(ended.put)
    while left:
        try:
            handle = ended.get(timeout=IDLE)
        except Empty:
            bar.update(done, _obstacle(executor, left.values()) or name)
            continue
        name = left.pop(handle.execution_id).file.name
        done += 1
        bar.update(done, name)


def _obstacle(executor: DurableExecutor, jobs: Iterable[Job]) -> str:
    """What to say when all that is left belongs to another process, or the database is away; else nothing."""
    left = list(jobs)
    if executor.running_execution_ids or len(left) > FEW:
        return ""
    try:
        executions = [job.handle.get_execution() for job in left]
    except SQLAlchemyError:
        return "the database does not answer; work goes on when it does"
    held = [execution for execution in executions if execution.status is ExecutionStatus.RUNNING]
    if len(held) < len(executions):
        return ""
    seconds = max((_seconds_of_lease(execution) for execution in held), default=0)
    return f"waiting for the lease of a process that was stopped, or still works: {seconds} s"


def _seconds_of_lease(execution: Execution) -> int:
    if execution.lease_expires_at is None:
        return 0
    return max(0, math.ceil((execution.lease_expires_at - datetime.now(UTC)).total_seconds()))
