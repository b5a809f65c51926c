"""What a running function sees of its execution."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from numbers import Integral, Real
from typing import TypeVar

from durable_sync.errors import TaskCancelledError
from durable_sync.execution import ErrorInfo, Progress

__all__ = ["ShutdownRequestedError", "Signal", "TaskContext"]

T = TypeVar("T")

Shield = Callable[[Callable[[], None]], AbstractContextManager[object]]
"""Keeps asynchronous exceptions out of a block; calls its argument when one is held back."""


class ShutdownRequestedError(TaskCancelledError):
    """The executor is shutting down; the execution is given back, to run again elsewhere."""


class Signal:
    """Something a task is told while it runs. For any thread; once set, it stays set."""

    def __init__(self, error: Callable[[], Exception], shield: Shield = nullcontext) -> None:
        self._error = error
        self._shield = shield
        self._lock = threading.Lock()
        self._is_set = False
        self._waiters: list[threading.Event] = []

    def is_set(self) -> bool:
        """True from the moment the signal was given."""
        return self._is_set

    def wait(self, timeout: float | timedelta | None = None) -> bool:
        """Blocks until the signal is given or `timeout` (seconds or timedelta) has passed; returns `is_set()`."""
        limit = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        woken = threading.Event()
        # An asynchronous exception in the middle of lock handling would leave a lock locked for ever.
        with self._shield(woken.set):
            with self._lock:
                if not self._is_set:
                    self._waiters.append(woken)
            if not self._is_set:
                woken.wait(limit)
            with self._lock:
                if woken in self._waiters:
                    self._waiters.remove(woken)
        return self._is_set

    def raise_if_set(self) -> None:
        """Raises the error that ends the attempt as the signal asks for, if it was given; a TaskError.

        TaskCancelledError for a cancel, TaskTimedOutError for a timeout. At a shutdown the execution is given back.
        """
        if self._is_set:
            raise self._error()

    def set(self) -> None:
        """Gives the signal."""
        with self._lock:
            self._is_set = True
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set()


class TaskContext:
    """Passed to a function whose first parameter is named `ctx`. To be used on the thread that runs it.

    A unit test that calls the plain function makes one with whatever of these it wants to see; `report` is called
    with each Progress, and `on_cancel` with each callback that the function registers.
    """

    def __init__(
        self,
        *,
        task_id: str = "",
        execution_id: str = "",
        attempt: int = 0,
        prev_error: ErrorInfo | None = None,
        cancel_signal: Signal | None = None,
        shutdown_signal: Signal | None = None,
        report: Callable[[Progress], None] = lambda _progress: None,
        on_cancel: Callable[[Callable[[], object]], None] = lambda _callback: None,
    ) -> None:
        self.task_id = task_id
        """The id of the task that runs."""
        self.execution_id = execution_id
        """The id of its execution, the same at every attempt: fit to be an idempotency key."""
        self.attempt = attempt
        """How often the execution was started before: 0 at first."""
        self.prev_error = prev_error
        """The error of the last attempt that had one."""
        self.cancel_signal = cancel_signal or Signal(TaskCancelledError)
        """Set when this attempt is to stop: by a cancel, its timeout, a lost lease, or a shutdown out of patience."""
        self.shutdown_signal = shutdown_signal or Signal(ShutdownRequestedError)
        """Set when the executor shuts down and waits for this attempt to end."""
        self._report = report
        self._on_cancel = on_cancel

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Has `callback` called, on another thread, when the attempt is to stop.

        It is meant to free a blocked driver, socket or subprocess: `connection.interrupt`, `popen.terminate`.
        Called at once if the attempt is to stop already; what it raises is logged.
        """
        self._on_cancel(callback)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tells how far the task is, in units of its own. Cheap: written about once a second, and at the end."""
        if message is not None and not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"progress: message must be a string, not {message!r}")
        self._report(Progress(_number("done", done), None if total is None else _number("total", total), message))

    def track(self, iterable: Iterable[T], total: float | None = None, message: str | None = None) -> Iterator[T]:
        """Iterates, and tells progress after each item; `total` is its length if it has one."""
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        done = 0
        self.progress(done, total, message)
        for item in iterable:
            yield item
            done += 1
            self.progress(done, total, message)


def _number(name: str, value: object) -> float:
    """A plain number, of one that may be numpy's."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    raise TypeError(f"progress: {name} must be a finite number, not {value!r}")
