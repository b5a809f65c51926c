"""What the library tells about an execution: frozen records, safe to hand to any thread."""

from __future__ import annotations

import json
import traceback
from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import asdict, frozen

__all__ = ["ACTIVE", "FINISHED", "ChildExecution", "ErrorInfo", "Execution", "ExecutionStatus", "Progress"]


class ExecutionStatus(StrEnum):
    """Where an execution stands. The moves between statuses are in `durable_sync.transitions`."""

    READY = "ready"
    """Waits for an executor, or for its `ready_at`; as a step of a sequence or as a finalize, for its turn.

    Entered by enqueue, as a child, by retry, release and recovery."""
    RUNNING = "running"
    """Claimed by an executor, which alone may write its outcome."""
    WAITING_FOR_CHILDREN = "waiting_for_children"
    """Its function has returned; its children have not all finished."""
    WAITING_FOR_FINALIZE = "waiting_for_finalize"
    """Its children have finished; its finalize task has not."""
    SLEEPING = "sleeping"
    """Holds no thread; waits to be woken or for its timeout. A sleeping task is enqueued in it."""
    COMPLETED = "completed"
    """Ended with an output."""
    FAILED = "failed"
    """Ended with an error that its retry policy did not retry, or lost its process too often."""
    TIMED_OUT = "timed_out"
    """Overran its timeout on its last attempt."""
    CHILDREN_FAILED = "children_failed"
    """A child did not complete; a step of a sequence or an iteration of a loop is a child."""
    FINALIZE_FAILED = "finalize_failed"
    """Its finalize task did not complete."""
    CANCELLED = "cancelled"
    """Ended by `TaskHandle.cancel`, by its own TaskCancelledError, or with its parent."""

    @property
    def is_finished(self) -> bool:
        """True for a status that is never left."""
        return self in FINISHED


ACTIVE = frozenset(
    {
        ExecutionStatus.READY,
        ExecutionStatus.RUNNING,
        ExecutionStatus.WAITING_FOR_CHILDREN,
        ExecutionStatus.WAITING_FOR_FINALIZE,
        ExecutionStatus.SLEEPING,
    }
)
FINISHED = frozenset(ExecutionStatus) - ACTIVE


@frozen
class ErrorInfo:
    """What is kept of an exception: data, never a pickle."""

    type: str
    """The exception's class name, with its module unless that is `builtins` or ours."""
    message: str
    traceback: str = ""
    """The formatted traceback, as text; empty when there was none."""
    retryable: bool = True

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """What is kept of an exception. One whose own `__str__` fails is kept without a message."""
        kind = type(error)
        own = kind.__module__ in {"builtins", "durable_sync.errors"}
        try:
            message = str(error)
        except Exception:
            message = f"<the message of this {kind.__qualname__} can't be shown>"
        return cls(
            type=kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}",
            message=message,
            traceback="".join(traceback.format_exception(error)),
            retryable=bool(getattr(error, "retryable", True)),
        )

    def to_json(self) -> str:
        """JSON text, in ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ErrorInfo:
        """What `to_json` wrote; fields of later versions are passed over."""
        stored: dict[str, Any] = json.loads(text)
        return cls(**{name: stored[name] for name in ("type", "message", "traceback", "retryable") if name in stored})


@frozen
class Progress:
    """How far a running task says it is, in units of its own."""

    done: float
    total: float | None = None
    message: str | None = None

    def to_json(self) -> str:
        """JSON text, in ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """What `to_json` wrote."""
        stored: dict[str, Any] = json.loads(text)
        return cls(stored["done"], stored.get("total"), stored.get("message"))


@frozen
class ChildExecution:
    """What a parent's readers see of one of its children."""

    task_id: str
    execution_id: str
    status: ExecutionStatus
    error: ErrorInfo | None = None
    """What it ended with, if it did not complete."""


@frozen(kw_only=True)
class Execution:
    """One durable run of a task, as the database had it at one moment."""

    task_id: str
    execution_id: str
    status: ExecutionStatus
    input: dict[str, Any]
    """The arguments by parameter name, as the caller passed them; defaults are not filled in."""
    run_output: Any = None
    """What the function returned; of a parent task, the output in its `Spawn`."""
    output: Any = None
    """What `TaskHandle.result` returns: of a parent task, put together of what its children and finalize returned."""
    error: ErrorInfo | None = None
    """The error of the last attempt that had one; a later success clears it."""
    children: tuple[ChildExecution, ...] = ()
    """In the order in which they were spawned: of a sequence its steps, of a loop its iterations so far."""
    root: str | None = None
    """The execution id of the topmost ancestor; None for a root."""
    parent: str | None = None
    """The execution id of the parent; None for a root."""
    attempt: int = 0
    """How often it was started before the present (or last) attempt; 0 at first."""
    queue: str
    priority: int
    executor_id: str | None = None
    """The executor incarnation that runs it, or ran it last."""
    created_at: datetime
    ready_at: datetime
    """When it may start, or might have first started."""
    started_at: datetime | None = None
    """When the present (or last) attempt was claimed."""
    finished_at: datetime | None = None
    lease_expires_at: datetime | None = None
    """While running: when its executor's lease ends unless renewed."""
    updated_at: datetime
    progress: Progress | None = None

    @property
    def is_finished(self) -> bool:
        """True once the status is final."""
        return self.status.is_finished
