"""DurableExecutor, the facade: declare, enqueue, start, shut down."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.orm import Session, scoped_session

from durable_sync.clock import Clock, seconds
from durable_sync.engine.background import Background, Settings
from durable_sync.engine.callbacks import Callbacks
from durable_sync.engine.interrupt import shielded
from durable_sync.engine.messenger import Messenger
from durable_sync.errors import (
    ConfigurationError,
    ExecutionNotFoundError,
    ExecutorShutdownError,
    TaskCancelledError,
)
from durable_sync.execution import ErrorInfo, Execution
from durable_sync.forks import keep_for_ever, on_fork
from durable_sync.handle import TaskHandle
from durable_sync.ids import new_id
from durable_sync.intake import Intake
from durable_sync.options import checked_lease, checked_name, checked_queues, checked_tables, positive_int, registries
from durable_sync.serialization import Serializer
from durable_sync.storage.records import NewExecution, StoredExecution
from durable_sync.storage.storage import Storage
from durable_sync.task import Task, TaskCall, TaskDecorators, TaskRegistry
from durable_sync.using import Commits, TransactionalExecutor
from durable_sync.views import output_of, view

__all__ = ["DurableExecutor"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_CALLER_PATIENCE = 10.0
"""Seconds that a caller's own thread waits out an outage before it sees the error."""
_EXIT_SECONDS = 2.0


class _UnaryTask(Protocol[A_contra, R_co]):
    """A task of one positional argument. Not `Task[[A], R]`, which refuses tasks with further, defaulted ones."""

    @property
    def takes_context(self) -> bool: ...
    def __call__(self, argument: A_contra, /) -> R_co: ...


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
        self._settings = Settings(
            name=checked_name(name),
            max_workers=positive_int(
                "max_workers", min(32, (os.cpu_count() or 1) + 4) if max_workers is None else max_workers
            ),
            queues=checked_queues(queues),
            lease=checked_lease(lease),
            poll_interval=seconds(poll_interval, "poll_interval", positive=True),
            max_payload_bytes=positive_int("max_payload_bytes", max_payload_bytes),
            logger=logger,
        )
        self._max_children = positive_int("max_children", max_children)
        self._database = database
        self._tables = checked_tables(table_prefix, schema)
        self._clock = clock
        self._serializer = Serializer() if serializer is None else serializer
        self._migrates = migrate
        self._registry = TaskRegistry()
        for registry in registries(tasks):
            registry.subscribe(self._registry.add)
        self._intake = Intake(self._registry, self._serializer, max_payload_bytes=self._settings.max_payload_bytes)
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._storage = self._open_storage()
        self._messenger = self._make_messenger()
        self._callbacks = self._make_callbacks()
        self._background: Background | None = None
        self._prepared = False
        self._restarts_here = False
        self._is_shut_down = False
        self._cancel_exit: Callable[[], None] = lambda: None
        self._commits = Commits(self._announce)
        self._has_warned_of_waiting = False
        on_fork(self)

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
        with shielded():
            rows = self._rows(made)
            stored = self._prepared_storage().enqueue(rows, patience=_CALLER_PATIENCE) if rows else []
            self._announce()
        return [
            TaskHandle(self, call.task, enqueued.execution_id, created=enqueued.created)
            for call, enqueued in zip(made, stored, strict=True)
        ]

    def map(self, task: _UnaryTask[A, R], items: Iterable[A], /) -> Iterator[R]:
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
        self._refuse_shut_down()
        with shielded():
            storage = self._prepared_storage()
        return TransactionalExecutor(self, storage, self._rows, self._commits, transaction)

    def _rows(self, calls: Sequence[TaskCall[Any]]) -> list[NewExecution]:
        self._refuse_shut_down()
        return self._intake.rows(calls)

    def _announce(self) -> None:
        background = self._background
        if background is not None:
            background.enqueued()
        self._messenger.ready()

    # --- handles --------------------------------------------------------------------------------

    def get_handle(self, task: Task[P, R], execution_id: str) -> TaskHandle[R]:
        """A handle from an id, after a restart or in another process. Asks the database nothing yet."""
        self._intake.refuse_unregistered(task)
        return TaskHandle(self, task, execution_id, created=False)

    def get_execution(self, execution_id: str) -> Execution:
        """The execution, without its task: typed where the task is registered here, plain JSON values elsewhere."""
        stored = self.load(execution_id)
        return self.view(stored, self._registry.get(stored.task_id))

    def load(self, execution_id: str) -> StoredExecution:
        """The execution's row; ExecutionNotFoundError if there is none."""
        with shielded():
            found = self._prepared_storage().get([execution_id], patience=_CALLER_PATIENCE)
        if execution_id not in found:
            raise ExecutionNotFoundError(
                f"there is no execution {execution_id!r}, or the transaction that enqueued it has not committed"
            )
        return found[execution_id]

    def view(self, stored: StoredExecution, task: Task[..., Any] | None) -> Execution:
        """The execution as its readers see it."""
        return view(stored, task, self._serializer)

    def output(self, stored: StoredExecution, task: Task[..., Any]) -> Any:
        """The output of a completed execution, of the task's type."""
        return output_of(stored, task, self._serializer)

    def watch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None:
        """Has `callback` called with the id of each of these once it has finished."""
        with shielded():
            self._prepared_storage()
            with self._lock:
                self._messenger.watch(execution_ids, callback)

    def call_back(self, execution_id: str, function: Callable[[], object]) -> None:
        """Calls a user's function because this execution has finished: on a thread where it may block."""
        self._callbacks.call(execution_id, function)

    def unwatch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None:
        """Takes back `watch`."""
        with shielded(), self._lock:
            self._messenger.unwatch(execution_ids, callback)
            if self._is_shut_down and self._background is None and self._messenger.idle:
                self._renew_messenger(0.0)

    def finished(self, execution_ids: Collection[str]) -> set[str]:
        """Those of these that have finished or don't exist."""
        with shielded():
            return self._prepared_storage().finished(list(execution_ids), patience=_CALLER_PATIENCE)

    def cancel(self, execution_id: str) -> bool:
        """Ends an active execution; True if this call did. See `TaskHandle.cancel`."""
        error = ErrorInfo.of(TaskCancelledError(f"cancelled by a call in process {os.getpid()} ({new_id()})"))
        with shielded():
            ended = self._prepared_storage().cancel(execution_id, error.to_json(), patience=_CALLER_PATIENCE)
            if ended:
                background = self._background
                if background is not None:
                    background.cancelled(execution_id)
                self._messenger.cancelled(execution_id)
        if not ended:
            self.load(execution_id)
        return ended

    def waiting(self) -> AbstractContextManager[None]:
        """Entered by a thread that waits on a handle: if it is a worker of this executor, another takes its place."""
        background = self._background
        if background is None or not background.pool.is_worker():
            return nullcontext()
        if not self._has_warned_of_waiting:
            self._has_warned_of_waiting = True
            background.log.warning(
                "%s: waits on a handle, which keeps its thread from other work; the pool lends it one meanwhile. "
                "A parent task holds no thread while its children run",
                threading.current_thread().name,
            )
        return background.pool.lend()

    # --- the life of the executor ---------------------------------------------------------------

    def migrate(self) -> None:
        """Makes or upgrades the tables, safely from several processes at once.

        DatabaseVersionError if they are newer than this library, ConfigurationError if the database can't be used.
        """
        with self._lock:
            self._adopt_process()
            self._storage.migrate(patience=_CALLER_PATIENCE)
            self._prepared = True

    def start(self) -> None:
        """Starts the background threads; does nothing if they run."""
        with self._lock:
            self._refuse_shut_down()
            self._adopt_process()
            if self._background is None:
                self._start_background()

    def _start_background(self) -> None:
        storage = self._prepared_storage()
        background = Background(self._settings, storage, self._registry, self._serializer, self._messenger)
        background.start()
        self._background = background
        self._cancel_exit = _stop_at_exit(self)

    def shutdown(self, *, timeout: float | timedelta | None = None) -> None:
        """Stops claiming, lets running work end, gives back what is left after `timeout` seconds, ends the threads.

        May be called again, also from another thread or a signal handler's exit; None waits as long as it takes.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        with self._lock:
            self._adopt_process()
            self._is_shut_down = True
            background = self._background
        if background is not None:
            background.shutdown(limit)
        self._callbacks.finish(_EXIT_SECONDS if limit is None else min(limit, _EXIT_SECONDS))
        with self._lock:
            if self._background is background:
                self._background = None
                self._cancel_exit()
                # Handles can still be waited on, by threads that end when nobody does.
                self._renew_messenger(_EXIT_SECONDS)
                self._storage.database.dispose()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self.shutdown()

    def drain(self, timeout: float | timedelta | None = None) -> None:
        """Blocks until none of this executor's tasks is ready, running or waiting, in any process.

        TimeoutError after `timeout` seconds.
        """
        limit = float("inf") if timeout is None else seconds(timeout, "timeout")
        deadline = time.monotonic() + limit
        pause = 0.005
        while True:
            tasks = [task.id for task in self._registry]
            with shielded():
                active = bool(tasks) and self._prepared_storage().any_active(tasks, patience=_CALLER_PATIENCE)
            if not active:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"tasks of this executor were still active after {limit:g} s")
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
        background = self._background
        if background is None:
            return frozenset()
        return frozenset(attempt.claimed.execution_id for attempt in background.attempts.running())

    def _refuse_shut_down(self) -> None:
        if self._is_shut_down:
            raise ExecutorShutdownError

    # --- processes ------------------------------------------------------------------------------

    def _open_storage(self) -> Storage:
        return Storage.open(
            self._database,
            self._tables,
            self._clock,
            busy_seconds=min(5.0, self._settings.lease / 2),
            max_payload_bytes=self._settings.max_payload_bytes,
        )

    def _make_messenger(self) -> Messenger:
        return Messenger(self._settings.name, self._storage, poll_interval=self._settings.poll_interval)

    def _renew_messenger(self, timeout: float) -> None:
        """Ends the messenger's threads; another goes on, with threads once somebody waits."""
        ended, self._messenger = self._messenger, self._make_messenger()
        ended.stop(timeout)
        ended.hand_over(self._messenger)

    def _make_callbacks(self) -> Callbacks:
        callbacks = Callbacks(self._settings.name)
        callbacks.log = self._settings.logger or callbacks.log
        return callbacks

    def _prepared_storage(self) -> Storage:
        """The storage, its tables made or checked."""
        if self._prepared and self._pid == os.getpid() and not self._restarts_here:
            return self._storage
        with self._lock:
            self._adopt_process()
            if not self._prepared:
                prepare = self._storage.migrate if self._migrates else self._storage.check_version
                prepare(patience=_CALLER_PATIENCE)
                self._prepared = True
            if self._restarts_here:
                self._restarts_here = False
                self._start_background()
            return self._storage

    def _adopt_process(self) -> None:
        # Some servers fork without running the hooks.
        if self._pid != os.getpid():
            self.after_fork()

    def _storages(self) -> list[Storage]:
        background = self._background
        return [self._storage] if background is None else [self._storage, background.lifeline]

    def before_fork(self) -> None:
        """Brings to rest what a child must not inherit in the middle of something."""
        for storage in self._storages():
            storage.database.rest()

    def after_fork_in_parent(self) -> None:
        """Goes on."""
        for storage in self._storages():
            storage.database.resume()

    def after_fork(self) -> None:
        """In a forked child: lets go of the parent's connections, threads and locks, without touching them.

        If the executor was started, it starts anew here when it is next used.
        """
        background = self._background
        storages = self._storages()
        keep_for_ever([background, self._messenger, self._callbacks, *storages])
        keep_for_ever(raw for storage in storages for raw in storage.database.raw_connections())
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._background = None
        self._restarts_here = background is not None and not self._is_shut_down
        self._storage = self._open_storage()
        self._messenger = self._make_messenger()
        self._callbacks = self._make_callbacks()


def _stop_at_exit(executor: DurableExecutor) -> Callable[[], None]:
    """A script that forgets `shutdown` gives its work back when it ends, instead of letting the lease run out.

    Returns what takes this back.
    """
    reference = weakref.ref(executor)

    def stop() -> None:
        forgotten = reference()
        if forgotten is not None:
            forgotten.shutdown(timeout=0)

    atexit.register(stop)
    return lambda: atexit.unregister(stop)
