"""Where this process runs what it has claimed: what both ways to claim ask, and what they fill."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from durable_sync.engine.attempts import Attempt, Attempts
from durable_sync.engine.lease import Lease
from durable_sync.engine.pool import WorkerPool
from durable_sync.registry import TaskRegistry
from durable_sync.storage.records import ClaimedExecution

__all__ = ["Workplace"]


@frozen
class Workplace:
    """For any thread."""

    registry: TaskRegistry
    """The tasks that are known here."""
    queues: frozenset[str] | None
    """Those served here; None: all."""
    lease: Lease
    pool: WorkerPool
    attempts: Attempts
    give_back: Callable[[Attempt], None]
    """Has a claim that no thread has begun on, and none will, taken back."""

    def serves(self, queue: str) -> bool:
        """True if what is in that queue may run here."""
        return self.queues is None or queue in self.queues

    def hold(self, claimed: ClaimedExecution, executor_id: str) -> Attempt:
        """Makes an attempt of what that incarnation has claimed, once that has committed."""
        task = self.registry.get(claimed.task_id)
        if task is None:
            raise AssertionError(f"claimed an execution of the unknown task {claimed.task_id!r}")
        return self.attempts.hold(claimed, task, executor_id)

    def decline(self, attempt: Attempt) -> None:
        """Gives it back, unless somebody has settled it before."""
        if attempt.unqueue():
            self.give_back(attempt)
