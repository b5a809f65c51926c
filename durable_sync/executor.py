"""DurableExecutor, the facade: declare, enqueue, start, shut down."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, overload

from sqlalchemy.engine import URL, Connection, Engine

from durable_sync.clock import Clock, deadline_after, seconds
from durable_sync.declarations import checked_key
from durable_sync.engine.interrupt import shielded
from durable_sync.engine.settings import Settings
from durable_sync.errors import (
    ConfigurationError,
)
from durable_sync.execution import Execution
from durable_sync.handle import TaskHandle
from durable_sync.options import checked_lease, checked_name, checked_queues, checked_tables, positive_int, registries
from durable_sync.registry import Fed, TaskDecorators, TaskRegistry
from durable_sync.task import SleepingTask, Task, TaskCall
from durable_sync.using import Commits, TransactionalExecutor

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session

    from durable_sync.serialization import Serializer
    from durable_sync.storage.records import NewExecution

__all__ = ["DurableExecutor"]

_ABSENT: Final = object()

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class DurableExecutor(TaskDecorators):
    """Runs durable tasks on a database. Its methods may be called from any thread.

    Args:
        database: A SQLAlchemy URL or Engine. An engine only opens connections; its pool is left alone.
        tasks: A TaskRegistry, or several.
        serializer: Writes and reads values; the default does so by the functions' annotations.
        logger: Takes the log lines of this executor's background, instead of `logging.getLogger("durable_sync...")`.
        name: Shown in logs, thread names and the table of executors; the host's name by default.
        max_workers: How many tasks run at once in this process; as many as `concurrent.futures` by default.
        queues: The queues that it serves; None serves every queue.
        lease: Seconds or timedelta after which a silent process counts as dead.
        poll_interval: Seconds between looks into the database while nothing happens.
        migrate: False: the tables must be there already, at this library's version.
        max_payload_bytes: The largest input or output, in bytes of JSON.
        max_children: The most children that a parent may have.
        table_prefix: What the tables' names begin with.
        schema: Where the tables are, in databases with schemas.
        clock: Tells the time instead of the database; for tests.

    Raises:
        ConfigurationError: An option makes no sense, or the database's driver is missing. Nothing is
            connected to yet.

    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        tasks: TaskRegistry | Iterable[TaskRegistry] | None = None,
        serializer: Serializer | None = None,
        logger: logging.Logger | None = None,
        name: str | None = None,
        max_workers: int | None = None,
        queues: Iterable[str] | None = None,
        lease: float | timedelta = 10.0,
        poll_interval: float | timedelta = 1.0,
        migrate: bool = True,
        max_payload_bytes: int = 8 * 1024 * 1024,
        max_children: int = 50_000,
        table_prefix: str = "durable_",
        schema: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        settings = Settings(
            name=checked_name(name),
            max_workers=positive_int(
                "max_workers", min(32, (os.cpu_count() or 1) + 4) if max_workers is None else max_workers
            ),
            queues=checked_queues(queues),
            lease=checked_lease(lease),
            poll_interval=seconds(poll_interval, "poll_interval", positive=True),
            max_payload_bytes=positive_int("max_payload_bytes", max_payload_bytes),
            max_children=positive_int("max_children", max_children),
            logger=logger,
        )
        self._registry = TaskRegistry()
        for registry in registries(tasks):
            registry.subscribe(self._registry.add)
        # What works with values and the database takes longest to import, and who only declares tasks needs neither.
        from durable_sync.desk import Desk
        from durable_sync.intake import Intake
        from durable_sync.serialization import Serializer

        chosen = Serializer() if serializer is None else serializer
        self._intake = Intake(self._registry, chosen, max_payload_bytes=settings.max_payload_bytes)
        self._desk = Desk(
            database,
            checked_tables(table_prefix, schema),
            clock,
            settings=settings,
            registry=self._registry,
            intake=self._intake,
            serializer=chosen,
            migrates=migrate,
        )
        self._commits = Commits(self._desk.announce)

    # --- declaring ------------------------------------------------------------------------------

    def _add(self, task: Task[..., Any]) -> None:
        self._registry.add(task)

    # --- enqueueing -----------------------------------------------------------------------------

    def enqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Stores an execution of the task in one durable commit, then returns its handle.

        InvalidInputError if the arguments don't fit, TaskNotRegisteredError, ExecutorShutdownError: then nothing was
        written. An outage of the database is waited out for ten seconds; then its error is raised, and
        whether the execution was stored is unknown unless it had a `key`.
        """
        return self.enqueue_many([task.bind(*args, **kwargs)])[0]

    def enqueue_many(self, calls: Iterable[TaskCall[R]]) -> list[TaskHandle[R]]:
        """Stores many `task.bind(...)` in one transaction, all or none; their handles, in order."""
        made = list(calls)
        stored = self._desk.enqueue(self._rows(made))
        return [
            TaskHandle(self._desk, call.task, enqueued.execution_id, created=enqueued.created)
            for call, enqueued in zip(made, stored, strict=True)
        ]

    def map(self, task: Fed[A, R], items: Iterable[A], /) -> Iterator[R]:
        """Enqueues the task for every item, in one transaction; yields the outputs in order, as `result` gives them."""
        if not isinstance(task, Task):
            raise ConfigurationError(f"map takes a task, not {task!r}")
        bind: Callable[[A], TaskCall[R]] = task.bind
        handles = self.enqueue_many([bind(item) for item in items])
        return (handle.result() for handle in handles)

    def using(self, transaction: Session | scoped_session[Any] | Connection) -> TransactionalExecutor:
        """The same `enqueue` and `enqueue_many` inside the caller's own transaction on the same database.

        The execution exists exactly if that transaction commits. ConfigurationError if it is another database.
        """
        self._desk.refuse_shut_down()
        with shielded():
            storage = self._desk.prepared_storage()
        return TransactionalExecutor(self._desk, storage, self._rows, self._commits, transaction)

    def _rows(self, calls: Sequence[TaskCall[Any]]) -> list[NewExecution]:
        self._desk.refuse_shut_down()
        return self._intake.rows(calls)

    @overload
    def wake(self, task: SleepingTask[R], key: str, *, output: R) -> None: ...
    @overload
    def wake(self, task: SleepingTask[Any], key: str, *, error: str | BaseException) -> None: ...
    def wake(self, task: SleepingTask[Any], key: str, *, output: Any = _ABSENT, error: Any = _ABSENT) -> None:
        """Ends the execution of a sleeping task that sleeps under this key: `completed` with `output`, or `failed`.

        `error`: a message or an exception. ExecutionNotFoundError if none sleeps: there is none yet, or it has ended,
        which the message says. InvalidInputError if the output is not of the task's type, and ConfigurationError if
        the task is of another kind: then nothing was written.
        """
        self._desk.refuse_shut_down()
        self._intake.refuse_unregistered(task)
        if (output is _ABSENT) == (error is _ABSENT):
            raise ConfigurationError("wake takes an output or an error, and exactly one of them")
        waking = self._intake.waking(task, output) if error is _ABSENT else self._intake.waking_with_error(task, error)
        self._desk.wake(task.id, checked_key(task.id, key), waking)

    # --- handles --------------------------------------------------------------------------------

    def get_handle(self, task: Task[P, R], execution_id: str) -> TaskHandle[R]:
        """A handle from an id, after a restart or in another process. Asks the database nothing yet."""
        self._intake.refuse_unregistered(task)
        return TaskHandle(self._desk, task, execution_id, created=False)

    def get_execution(self, execution_id: str) -> Execution:
        """The execution, without its task: typed where the task is registered here, plain JSON values elsewhere."""
        stored = self._desk.load(execution_id)
        return self._desk.view(stored, self._registry.get(stored.task_id))

    # --- the life of the executor ---------------------------------------------------------------

    def migrate(self) -> None:
        """Makes or upgrades the tables, safely from several processes at once.

        DatabaseVersionError if they are newer than this library, ConfigurationError if the database can't be used.
        """
        self._desk.migrate()

    def start(self) -> None:
        """Starts the background threads; does nothing if they run."""
        self._desk.start()

    def shutdown(self, *, timeout: float | timedelta | None = None) -> None:
        """Stops claiming, lets running work end, gives back what is left after `timeout`, ends the threads.

        `timeout` is seconds or timedelta; None waits as long as it takes. May be called again, and from any thread.
        """
        self._desk.shutdown(None if timeout is None else seconds(timeout, "timeout"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self.shutdown()

    def drain(self, timeout: float | timedelta | None = None) -> None:
        """Blocks until none of this executor's tasks is ready, running or waiting, in any process.

        Work that is not due yet counts as ready. TimeoutError after `timeout` (seconds or timedelta).
        """
        deadline = deadline_after(None if timeout is None else seconds(timeout, "timeout"))
        pause = 0.005
        while self._desk.any_active():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"tasks of this executor were still active after {timeout} s")
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.25)

    def run_until_signalled(self) -> None:
        """A worker process's main: starts, and runs until SIGTERM or SIGINT. Called on the main thread.

        The first signal lets running work end and returns; a second exits at once, with status 128 + the signal.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("run_until_signalled must be called on the main thread: only there come signals")
        received = threading.Event()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if received.is_set():
                raise SystemExit(128 + number)
            received.set()

        kept = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            # Slices, because a wait without end keeps signals out on Windows.
            while not received.wait(1.0):
                pass
            self.shutdown()
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    @property
    def running_execution_ids(self) -> frozenset[str]:
        """The ids of what this process runs now."""
        return self._desk.running_execution_ids()
