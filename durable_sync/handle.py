"""Handles: what a caller holds of an execution, and how it waits for many."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from durable_sync.engine.interrupt import shielded
from durable_sync.errors import ConfigurationError, TaskError
from durable_sync.execution import Execution, ExecutionStatus, Progress
from durable_sync.storage.records import StoredExecution
from durable_sync.task import Task
from durable_sync.views import error_of

__all__ = ["DoneAndNotDone", "TaskHandle", "as_completed", "wait"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Desk(Protocol):
    """What a handle asks of its executor."""

    def load(self, execution_id: str) -> StoredExecution: ...
    def view(self, stored: StoredExecution, task: Task[..., Any] | None) -> Execution: ...
    def output(self, stored: StoredExecution, task: Task[..., Any]) -> Any: ...
    def watch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None: ...
    def unwatch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None: ...
    def call_back(self, execution_id: str, function: Callable[[], object]) -> None: ...
    def finished(self, execution_ids: Collection[str]) -> set[str]: ...
    def cancel(self, execution_id: str) -> bool: ...
    def waiting(self) -> AbstractContextManager[None]: ...


class TaskHandle(Generic[R_co]):
    """One execution, seen from any process. Cheap, and for any thread; it may outlive its executor's shutdown."""

    def __init__(self, desk: Desk, task: Task[..., R_co], execution_id: str, *, created: bool = True) -> None:
        self.desk = desk
        self._task = task
        self.task_id = task.id
        self.execution_id = execution_id
        self.created = created
        """False if the enqueue that returned this handle found an active execution with its key."""

    def get_execution(self) -> Execution:
        """The execution as the database has it now; ExecutionNotFoundError if it has none."""
        return self.desk.view(self.desk.load(self.execution_id), self._task)

    def wait(self, timeout: float | None = None) -> Execution:
        """Blocks until the execution has finished, and returns it, whatever it ended with.

        `timeout` in seconds; TimeoutError once it has passed. ExecutionNotFoundError if there is no such
        execution, or the transaction that enqueued it has not committed.
        """
        return self.desk.view(self._await(timeout), self._task)

    def result(self, timeout: float | None = None) -> R_co:
        """Blocks like `wait`; returns the output, or raises the TaskError that fits, with `execution` set.

        SerializationError if the stored output no longer fits the task's type.
        """
        stored = self._await(timeout)
        error = error_of(self.desk.view(stored, self._task))
        if error is not None:
            raise error
        return cast(R_co, self.desk.output(stored, self._task))

    def exception(self, timeout: float | None = None) -> TaskError | None:
        """Blocks like `wait`; returns the TaskError that `result` would raise, or None."""
        return error_of(self.wait(timeout))

    def done(self) -> bool:
        """True if the execution has finished."""
        return self.desk.load(self.execution_id).status.is_finished

    def running(self) -> bool:
        """True if an executor runs it now."""
        return self.desk.load(self.execution_id).status is ExecutionStatus.RUNNING

    def cancelled(self) -> bool:
        """True if it ended as cancelled."""
        return self.desk.load(self.execution_id).status is ExecutionStatus.CANCELLED

    def cancel(self) -> bool:
        """Ends the execution, unless it has finished; True if this call ended it.

        Once it has returned, no claim and no outcome of it will be accepted. A running attempt is told to stop; it
        may take a moment to do so. ExecutionNotFoundError if there is no such execution.
        """
        return self.desk.cancel(self.execution_id)

    def progress(self) -> Progress | None:
        """How far the task last said it was; None if it has not said."""
        stored = self.desk.load(self.execution_id).progress
        return None if stored is None else Progress.from_json(stored)

    def add_done_callback(self, function: Callable[[TaskHandle[R_co]], object]) -> None:
        """Calls `function(handle)` once the execution has finished, on a thread of the library's; errors are logged.

        It may block, which holds up only other callbacks of its executor. ExecutionNotFoundError if there is no such
        execution, or the transaction that enqueued it has not committed.
        """

        def call(execution_id: str) -> None:
            self.desk.call_back(execution_id, lambda: function(self))

        self.desk.load(self.execution_id)
        self.desk.watch([self.execution_id], call)

    def _await(self, timeout: float | None) -> StoredExecution:
        deadline = None if timeout is None else time.monotonic() + timeout
        finished = threading.Event()

        def tell(_execution_id: str) -> None:
            finished.set()

        self.desk.watch([self.execution_id], tell)
        try:
            with self.desk.waiting():
                while True:
                    stored = self.desk.load(self.execution_id)
                    if stored.status.is_finished:
                        return stored
                    if not _wait_for(finished, deadline):
                        raise TimeoutError(
                            f"task {self.task_id!r} execution {self.execution_id} is {stored.status.value} "
                            f"after {timeout:g} s"
                        )
                    finished.clear()
        finally:
            self.desk.unwatch([self.execution_id], tell)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id} {self.execution_id}>"


def _wait_for(event: threading.Event, deadline: float | None) -> bool:
    """Waits on an event until the deadline; left early, by an exception, if the calling task is stopped."""
    # Slices, because a wait without end can't be left by Ctrl-C on Windows.
    while True:
        left = 3600.0 if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return event.is_set()
        with shielded(event.set):
            event.wait(min(left, 3600.0))
        if event.is_set():
            return True


class DoneAndNotDone(NamedTuple, Generic[R]):
    """What `wait` returns."""

    done: set[TaskHandle[R]]
    not_done: set[TaskHandle[R]]


def as_completed(handles: Iterable[TaskHandle[R]], timeout: float | None = None) -> Iterator[TaskHandle[R]]:
    """Yields the handles as their executions finish; TimeoutError `timeout` seconds after the call."""
    waiting = set(handles)
    deadline = None if timeout is None else time.monotonic() + timeout
    return _as_completed(waiting, deadline, timeout)


def _as_completed(
    waiting: set[TaskHandle[R]], deadline: float | None, timeout: float | None
) -> Iterator[TaskHandle[R]]:
    total = len(waiting)
    with _Arrivals(waiting) as arrivals:
        while waiting:
            arrived = arrivals.next(deadline)
            if arrived is None:
                raise TimeoutError(f"{len(waiting)} of {total} executions had not finished after {timeout:g} s")
            for handle in arrived & waiting:
                waiting.discard(handle)
                yield handle


def wait(
    handles: Iterable[TaskHandle[R]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[R]:
    """Blocks until executions have finished, as `concurrent.futures.wait` does; no error when `timeout` has passed.

    `return_when`: "ALL_COMPLETED", "FIRST_COMPLETED", or "FIRST_EXCEPTION" (the first that did not complete).
    """
    if return_when not in {ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION}:
        raise ConfigurationError(
            f"return_when must be ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION, not {return_when!r}"
        )
    not_done = set(handles)
    done: set[TaskHandle[R]] = set()
    deadline = None if timeout is None else time.monotonic() + timeout
    with _Arrivals(not_done) as arrivals:
        while not_done:
            arrived = arrivals.next(deadline)
            if arrived is None:
                break
            done |= arrived
            not_done -= arrived
            if return_when == FIRST_COMPLETED or (return_when == FIRST_EXCEPTION and _any_failed(arrived)):
                break
    return DoneAndNotDone(done, not_done)


def _any_failed(handles: Iterable[TaskHandle[Any]]) -> bool:
    return any(handle.get_execution().status is not ExecutionStatus.COMPLETED for handle in handles)


class _Arrivals(Generic[R]):
    """The handles of a set as they finish."""

    def __init__(self, handles: Iterable[TaskHandle[R]]) -> None:
        self._by_id: dict[str, set[TaskHandle[R]]] = {}
        self._desks: dict[Desk, list[str]] = {}
        for handle in handles:
            self._by_id.setdefault(handle.execution_id, set()).add(handle)
            self._desks.setdefault(handle.desk, []).append(handle.execution_id)
        self._finished: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> _Arrivals[R]:
        for desk, ids in self._desks.items():
            desk.watch(ids, self._finished.put)
            # The watch tells soon, but who comes with a timeout of zero wants to know now.
            for execution_id in desk.finished(ids):
                self._finished.put(execution_id)
        return self

    def __exit__(self, *_details: object) -> None:
        for desk, ids in self._desks.items():
            desk.unwatch(ids, self._finished.put)

    def next(self, deadline: float | None) -> set[TaskHandle[R]] | None:
        """The handles of one execution that has finished; None once the deadline has passed."""
        while True:
            left = 3600.0 if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                execution_id = self._get(left)
            except queue.Empty:
                if deadline is not None:
                    return None
            else:
                if execution_id in self._by_id:
                    return self._by_id.pop(execution_id)

    def _get(self, timeout: float) -> str:
        """The next id; left early, by an exception, if the calling task is stopped."""
        with shielded(lambda: self._finished.put("")), ExitStack() as lent:
            for desk in self._desks:
                lent.enter_context(desk.waiting())
            return self._finished.get(timeout=timeout)
