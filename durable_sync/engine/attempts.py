"""The attempts that this process holds: claimed, and not yet recorded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum, auto
from typing import Any, TypeVar

from attrs import frozen

from durable_sync.context import ShutdownRequestedError, Signal, TaskContext
from durable_sync.engine.interrupt import Interruptible, shielded
from durable_sync.errors import TaskCancelledError, TaskTimedOutError
from durable_sync.execution import ErrorInfo, Progress
from durable_sync.storage.records import ClaimedExecution, NewExecution
from durable_sync.task import Task
from durable_sync.transitions import Transition

__all__ = ["Attempt", "Attempts", "Outcome", "StopReason"]

T = TypeVar("T")


@frozen
class Outcome:
    """What an attempt came to."""

    transition: Transition
    births: tuple[NewExecution, ...] = ()
    """The children that are born with it."""
    is_done: bool = False
    """It returned Done, which ends a loop."""


class StopReason(Enum):
    """Why an attempt is to stop."""

    TIMEOUT = auto()
    """It overran its timeout; its end is ours to record."""
    REVOKED = auto()
    """The claim is gone (a cancel, or a recovery by others): no outcome of it will be accepted."""
    LEASE = auto()
    """The lease could not be renewed; others may start it. If it turns out to be still ours, it is given back."""
    SHUTDOWN = auto()
    """The executor shuts down; the execution is given back."""


class _State(Enum):
    QUEUED = auto()
    RUNNING = auto()
    SETTLED = auto()


class Attempt:
    """One claim of one execution, from the claim until its outcome is recorded or void.

    Many wait in a queue, and Python's garbage collector looks through all that lives: so an attempt consists of as few
    objects as may be, and has the rest made when it is first asked for. `lock` is one for all, held while a state
    changes and nothing is made. A task's thread takes it neither while it may be interrupted, nor for long.
    """

    def __init__(self, claimed: ClaimedExecution, task: Task[..., Any], owner: str, lock: threading.Lock) -> None:
        self.claimed = claimed
        self.task = task
        self.owner = owner
        """The incarnation that has claimed it."""
        self._lock = lock
        self._interruptible: Interruptible | None = None
        self._cancel_signal: Signal | None = None
        self._shutdown_signal: Signal | None = None
        self.reason: StopReason | None = None
        self._hooks: deque[Callable[[], object]] | None = None
        self.progress: Progress | None = None
        self.progress_saved: Progress | None = None
        """What of it the database has."""
        self.queued_at = time.monotonic()
        self.started_at = 0.0
        self.timeout: float | None = None
        """Seconds that it may run, once that is known."""
        self.returned = False
        """True once the function has returned: its thread is not stuck."""
        self._state = _State.QUEUED

    @property
    def interruptible(self) -> Interruptible:
        """What its function runs in."""
        return self._interruptible or self._keep("_interruptible", Interruptible())

    @property
    def cancel_signal(self) -> Signal:
        """Set when the attempt is to stop."""
        return self._cancel_signal or self._keep("_cancel_signal", Signal(self._why_stopped, _shield))

    @property
    def shutdown_signal(self) -> Signal:
        """Set when the executor shuts down."""
        return self._shutdown_signal or self._keep("_shutdown_signal", Signal(ShutdownRequestedError, _shield))

    def _keep(self, name: str, made: T) -> T:
        """Keeps what was made under that name, and returns what is kept: of several threads, the first one's."""
        with self._lock:
            kept: T = getattr(self, name) or made
            setattr(self, name, kept)
        return kept

    def leave(self) -> None:
        """Its thread has come back from the function, which nothing needs to stop any more."""
        self.returned = True
        self._interruptible = None

    @property
    def has_hooks(self) -> bool:
        """True while callbacks wait for it to be stopped."""
        return bool(self._hooks)

    @property
    def identity(self) -> tuple[str, int]:
        """(execution id, claim token): what the database knows this attempt by."""
        return (self.claimed.execution_id, self.claimed.claim_token)

    @property
    def run_seconds(self) -> float:
        """Seconds since a thread began on it."""
        return time.monotonic() - self.started_at

    @property
    def is_running(self) -> bool:
        """True while the outcome is still open and a thread is on it."""
        return self._state is _State.RUNNING

    @property
    def is_settled(self) -> bool:
        """True once somebody has taken it upon himself to say the outcome."""
        return self._state is _State.SETTLED

    def begin(self) -> bool:
        """Moves it from the queue to the calling thread; False if it was settled before."""
        with self._lock:
            if self._state is not _State.QUEUED:
                return False
            self._state = _State.RUNNING
        self.started_at = time.monotonic()
        return True

    def settle(self) -> bool:
        """True for the one caller who may say the outcome."""
        with self._lock:
            if self._state is _State.SETTLED:
                return False
            self._state = _State.SETTLED
            return True

    def unqueue(self) -> bool:
        """Settles it if it was not started; True for the one caller who did."""
        with self._lock:
            if self._state is not _State.QUEUED:
                return False
            self._state = _State.SETTLED
            return True

    def give_reason(self, reason: StopReason) -> bool:
        """Sets why it is to stop; False if there was a reason before, unless the new one overrules it."""
        with self._lock:
            overrules = reason is StopReason.REVOKED and self.reason is StopReason.LEASE
            if self.reason is not None and not overrules:
                return False
            self.reason = reason
            return True

    def context(self) -> TaskContext:
        """What the function sees; to be made before it may be interrupted."""
        self._hooks = deque()
        return TaskContext(
            task_id=self.claimed.task_id,
            execution_id=self.claimed.execution_id,
            attempt=self.claimed.starts - 1,
            prev_error=None if self.claimed.error is None else ErrorInfo.from_json(self.claimed.error),
            cancel_signal=self.cancel_signal,
            shutdown_signal=self.shutdown_signal,
            report=self._report,
            on_cancel=self._add_hook,
        )

    def run_hooks(self, complain: Callable[[Exception], None]) -> None:
        """Calls the hooks that are waiting, each once."""
        while self._hooks:
            try:
                hook = self._hooks.popleft()
            except IndexError:
                return
            try:
                hook()
            except Exception as error:
                complain(error)

    def _report(self, progress: Progress) -> None:
        self.progress = progress

    def _add_hook(self, hook: Callable[[], object]) -> None:
        assert self._hooks is not None
        self._hooks.append(hook)
        if self.cancel_signal.is_set():
            self.run_hooks(lambda _error: None)

    def _why_stopped(self) -> Exception:
        return TaskTimedOutError() if self.reason is StopReason.TIMEOUT else TaskCancelledError()

    def __str__(self) -> str:
        return f"task {self.claimed.task_id} execution {self.claimed.execution_id}"


def _shield(wake: Callable[[], None]) -> AbstractContextManager[object]:
    return shielded(wake)


class Attempts:
    """What is held in memory, by execution id and claim token. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts_lock = threading.Lock()
        self._held: dict[tuple[str, int], Attempt] = {}
        self._claiming: dict[object, float] = {}

    @contextmanager
    def claiming(self) -> Generator[None]:
        """A claim is under way until the end of the block, and what it wins is held by then."""
        token = object()
        self._claiming[token] = time.monotonic()
        try:
            yield
        finally:
            del self._claiming[token]

    @property
    def claiming_since(self) -> float | None:
        """Monotonic time at which the first of the claims now under way began; None if there is none."""
        return min(list(self._claiming.values()), default=None)

    def hold(self, claimed: ClaimedExecution, task: Task[..., Any], owner: str) -> Attempt:
        """Makes and holds an attempt of what `owner` has claimed, once that has committed."""
        attempt = Attempt(claimed, task, owner, self._attempts_lock)
        with self._lock:
            self._held[attempt.identity] = attempt
        return attempt

    def drop(self, attempt: Attempt) -> None:
        """Lets go of an attempt whose outcome is recorded or void."""
        with self._lock:
            self._held.pop(attempt.identity, None)

    def all(self) -> list[Attempt]:
        """A copy of what is held."""
        with self._lock:
            return list(self._held.values())

    def unsettled(self) -> list[Attempt]:
        """What has no outcome yet, whether a thread is on it or not."""
        return [attempt for attempt in self.all() if not attempt.is_settled]

    def running(self) -> list[Attempt]:
        """What a thread is on."""
        return [attempt for attempt in self.all() if attempt.is_running]

    def holds(self, execution_id: str) -> bool:
        """True if there is an attempt of this execution whose outcome is not recorded."""
        return any(held == execution_id for held, _ in list(self._held))

    def of_execution(self, execution_id: str) -> list[Attempt]:
        """The attempts of one execution: rarely more than one."""
        return [attempt for attempt in self.all() if attempt.claimed.execution_id == execution_id]

    def __len__(self) -> int:
        return len(self._held)
