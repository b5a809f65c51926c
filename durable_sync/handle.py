"""Handles: what a caller holds of an execution."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from durable_sync.clock import deadline_after
from durable_sync.engine.interrupt import is_interrupted, shielded
from durable_sync.errors import TaskError
from durable_sync.execution import Execution, ExecutionStatus, Progress
from durable_sync.failures import error_of
from durable_sync.storage.records import StoredExecution
from durable_sync.task import Task
from durable_sync.tree import ExecutionTree

if TYPE_CHECKING:
    from durable_sync.desk import Desk

__all__ = ["TaskHandle"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_SOON = 0.01
"""Seconds within which what is waited for may well end; only after them it is looked for in the database."""


class TaskHandle(Generic[R_co]):
    """One execution, seen from any process. Cheap, and for any thread; it may outlive its executor's shutdown.

    Handles of the same execution are equal. Time-outs are seconds or timedelta.
    """

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

    def wait(self, timeout: float | timedelta | None = None) -> Execution:
        """Blocks until the execution has finished, and returns it, whatever it ended with.

        `timeout` in seconds; TimeoutError once it has passed. ExecutionNotFoundError if there is no such
        execution, or the transaction that enqueued it has not committed.
        """
        return self.desk.view(cast(StoredExecution, self._await(timeout, self._finished)), self._task)

    def result(self, timeout: float | timedelta | None = None) -> R_co:
        """Blocks like `wait`; returns the output, or raises the TaskError that fits, with `execution` set.

        SerializationError if the stored output no longer fits the task's type.
        """
        output = self.desk.recent_output(self.execution_id)
        if output is None:
            ended = self._await(timeout, self._finished_or_output)
            if isinstance(ended, StoredExecution):
                return self._result_of(ended)
            output = ended
        return cast(R_co, self.desk.own_output(self.task_id, output))

    def _result_of(self, stored: StoredExecution) -> R_co:
        error = error_of(self.desk.view(stored, self._task))
        if error is not None:
            raise error
        return cast(R_co, self.desk.output(stored))

    def exception(self, timeout: float | timedelta | None = None) -> TaskError | None:
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
        """Ends the execution with all that is below it, unless it has finished; True if this call ended it.

        Once it has returned, no claim and no outcome of any of them will be accepted. Running attempts are told to
        stop, and may take a moment to do so. ExecutionNotFoundError if there is no such execution.
        """
        return self.desk.cancel(self.execution_id)

    def progress(self) -> Progress | None:
        """How far the task last said it was; None if it has not said."""
        stored = self.desk.load(self.execution_id).progress
        return None if stored is None else Progress.from_json(stored)

    def tree(self) -> ExecutionTree:
        """The execution with all that is below it, as the database has it now; `print` shows it as an indented text.

        Of a whole tree of any size it takes three queries. ExecutionNotFoundError if there is no such execution.
        """
        return self.desk.tree(self.execution_id)

    def add_done_callback(self, function: Callable[[TaskHandle[R_co]], object]) -> None:
        """Calls `function(handle)` once the execution has finished, on a thread of the library's; errors are logged.

        It may block, which holds up only other callbacks of its executor. ExecutionNotFoundError if there is no such
        execution, or the transaction that enqueued it has not committed.
        """

        def call(execution_id: str) -> None:
            self.desk.call_back(execution_id, lambda: function(self))

        self.desk.load(self.execution_id)
        self.desk.watch([self.execution_id], call)
        self.desk.attend()

    def _finished(self) -> StoredExecution | None:
        stored = self.desk.load(self.execution_id)
        return stored if stored.status.is_finished else None

    def _finished_or_output(self) -> StoredExecution | str | None:
        output = self.desk.recent_output(self.execution_id)
        return self._finished() if output is None else output

    def _await(
        self, timeout: float | timedelta | None, look: Callable[[], StoredExecution | str | None]
    ) -> StoredExecution | str:
        """What `look` finds once the execution has finished."""
        deadline = deadline_after(timeout)
        finished = threading.Event()

        def tell(_execution_id: str) -> None:
            finished.set()

        # An interrupted task does not leave before the thread that it was lent is given back.
        with shielded(finished.set):
            self.desk.watch([self.execution_id], tell)
            try:
                with self.desk.waiting():
                    # Of the end of what runs here we are told, so there is no need to look before.
                    found = None if self.desk.holds(self.execution_id) else look()
                    if found is None and not _wait_for(finished, min(deadline, time.monotonic() + _SOON)):
                        self.desk.attend()
                    while found is None and not is_interrupted():
                        is_late = not _wait_for(finished, deadline)
                        finished.clear()
                        found = look()
                        if found is None and is_late:
                            self._refuse_unfinished(timeout)
            finally:
                self.desk.unwatch([self.execution_id], tell)
        assert found is not None, "an interrupted task does not get here"
        return found

    def _refuse_unfinished(self, timeout: float | timedelta | None) -> None:
        status = self.desk.load(self.execution_id).status
        if not status.is_finished:
            raise TimeoutError(
                f"task {self.task_id!r} execution {self.execution_id} is {status.value} after {timeout} s"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskHandle) and self.execution_id == other.execution_id

    def __hash__(self) -> int:
        return hash(self.execution_id)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id} {self.execution_id}>"


def _wait_for(event: threading.Event, deadline: float) -> bool:
    """Waits on an event until the deadline; True if it is set."""
    # Slices, because a wait without end can't be left by Ctrl-C on Windows.
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return event.is_set()
        if event.wait(min(left, 3600.0)):
            return True
