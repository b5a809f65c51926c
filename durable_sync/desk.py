"""What an executor has in one process: its connections, its threads, and those who wait."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from durable_sync.clock import Clock, to_datetime
from durable_sync.engine.callbacks import Callbacks
from durable_sync.engine.interrupt import shielded
from durable_sync.engine.messenger import Messenger
from durable_sync.engine.recent import Recent
from durable_sync.engine.settings import Settings
from durable_sync.errors import ExecutionNotFoundError, ExecutorShutdownError, TaskCancelledError
from durable_sync.execution import ErrorInfo, Execution
from durable_sync.forks import keep_for_ever, on_fork
from durable_sync.ids import new_id
from durable_sync.intake import Intake
from durable_sync.outputs import Outputs
from durable_sync.registry import TaskRegistry
from durable_sync.serialization import Serializer
from durable_sync.storage.grouping import EnqueueGroup
from durable_sync.storage.keys import Enqueued
from durable_sync.storage.records import NewExecution, OutputRow, StoredExecution
from durable_sync.storage.sleepers import Awakening, FormerSleeper
from durable_sync.storage.storage import Storage
from durable_sync.storage.tables import Tables
from durable_sync.storage.trees import Effects
from durable_sync.task import Task
from durable_sync.transitions import Transition
from durable_sync.tree import ExecutionTree, grow
from durable_sync.views import view

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

    from durable_sync.engine.background import Background

__all__ = ["CALLER_PATIENCE", "Desk"]

CALLER_PATIENCE = 10.0
"""Seconds that a caller's own thread waits out an outage before it sees the error."""
_EXIT_SECONDS = 2.0


class Desk:
    """Serves the executor and its handles, on any thread; made anew, inside, in a forked child."""

    def __init__(
        self,
        database: str | URL | Engine,
        tables: Tables,
        clock: Clock | None,
        *,
        settings: Settings,
        registry: TaskRegistry,
        intake: Intake,
        serializer: Serializer,
        migrates: bool,
    ) -> None:
        self._database = database
        self._tables = tables
        self._clock = clock
        self._settings = settings
        self._registry = registry
        self._intake = intake
        self._serializer = serializer
        self._migrates = migrates
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self.storage = self._open_storage()
        self._group = EnqueueGroup(self.storage, lambda: CALLER_PATIENCE)
        self._messenger = self._make_messenger()
        self._callbacks = self._make_callbacks()
        self._recent = Recent()
        self.background: Background | None = None
        """The threads, while started in this process."""
        self._prepared = False
        self._restarts_here = False
        self._is_shut_down = False
        self._cancel_exit: Callable[[], None] = lambda: None
        self._has_warned_of_waiting = False
        on_fork(self)

    # --- for callers ----------------------------------------------------------------------------

    def enqueue(self, rows: Sequence[NewExecution]) -> list[Enqueued]:
        """Inserts all of the rows or none, but those whose key is taken."""
        with shielded():
            self.prepared_storage()
            background = self.background
            alone = rows[0] if len(rows) == 1 else None
            if alone and background and background.direct.enqueue(alone, patience=CALLER_PATIENCE):
                return [Enqueued(alone.execution_id, True)]
            stored = self._group.enqueue(rows) if rows else []
            self.announce()
        return stored

    def announce(self) -> None:
        """There is new work, committed or about to be."""
        with shielded():
            background = self.background
            if background is not None:
                background.enqueued()
            self._messenger.ready()

    def load(self, execution_id: str) -> StoredExecution:
        """The execution's row; ExecutionNotFoundError if there is none."""
        with shielded():
            found = self.prepared_storage().get([execution_id], patience=CALLER_PATIENCE)
        if execution_id not in found:
            raise ExecutionNotFoundError(
                f"there is no execution {execution_id!r}, or the transaction that enqueued it has not committed"
            )
        return found[execution_id]

    def view(self, stored: StoredExecution, task: Task[..., Any] | None) -> Execution:
        """The execution as its readers see it."""
        with shielded():
            return view(stored, task, self._outputs(strict=False))

    def output(self, stored: StoredExecution) -> Any:
        """The output of a completed execution; SerializationError if it doesn't fit the task's type."""
        with shielded():
            return self._outputs(strict=True).of([OutputRow.of(stored)])[stored.execution_id]

    def own_output(self, task_id: str, run_output: str) -> Any:
        """The same of an execution whose output is its own, given as JSON text."""
        with shielded():
            return self._outputs(strict=True).run_output(task_id, run_output)

    def tree(self, execution_id: str) -> ExecutionTree:
        """An execution with all that is below it, in three queries."""
        stored = self.load(execution_id)
        with shielded():
            now, rows = self.prepared_storage().tree(stored.tree_id, patience=CALLER_PATIENCE)
        return grow(execution_id, rows, now)

    def _outputs(self, *, strict: bool) -> Outputs:
        return Outputs(self.prepared_storage(), self._registry, self._serializer, strict=strict)

    def recent_output(self, execution_id: str) -> str | None:
        """The output, as JSON text, of an execution that this process has just seen complete; None says nothing."""
        return self._recent.get(execution_id)

    def holds(self, execution_id: str) -> bool:
        """True if it runs in this process, which will tell of its end."""
        background = self.background
        return background is not None and self._pid == os.getpid() and background.attempts.holds(execution_id)

    def watch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None:
        """Has `callback` called with the id of each of these once it has finished; see `attend`."""
        with shielded():
            self.prepared_storage()
            with self._lock:
                self._messenger.watch(execution_ids, callback)

    def attend(self) -> None:
        """Looks for what is watched, wherever it ends; until then only this process's own ends are heard of."""
        with shielded(), self._lock:
            self._messenger.attend()

    def call_back(self, execution_id: str, function: Callable[[], object]) -> None:
        """Calls a user's function because this execution has finished: on a thread where it may block."""
        self._callbacks.call(execution_id, function)

    def unwatch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None:
        """Takes back `watch`."""
        with shielded(), self._lock:
            self._messenger.unwatch(execution_ids, callback)
            if self._is_shut_down and self.background is None and self._messenger.idle:
                self._renew_messenger(0.0)
                self.storage.database.retire()

    def finished(self, execution_ids: Collection[str]) -> set[str]:
        """Those of these that have finished or don't exist."""
        with shielded():
            return self.prepared_storage().finished(list(execution_ids), patience=CALLER_PATIENCE)

    def cancel(self, execution_id: str) -> bool:
        """Ends an active execution; True if this call did. See `TaskHandle.cancel`."""
        error = ErrorInfo.of(TaskCancelledError(f"cancelled by a call in process {os.getpid()} ({new_id()})"))
        with shielded():
            effects = self.prepared_storage().cancel(execution_id, error.to_json(), patience=CALLER_PATIENCE)
            self._effected(effects)
        ended = execution_id in effects.finished
        if not ended:
            self.load(execution_id)
        return ended

    def wake(self, task_id: str, key: str, transition: Transition) -> None:
        """Ends the sleeping execution of a task and key; ExecutionNotFoundError if none sleeps."""
        awakening = Awakening(task_id, key, transition)
        with shielded():
            storage = self.prepared_storage()
            if storage.wake(awakening, patience=CALLER_PATIENCE):
                self._effected(awakening.effects)
                return
            former = storage.former_sleeper(task_id, key, patience=CALLER_PATIENCE)
        never = "none has been enqueued, or the transaction that enqueued it has not committed"
        raise ExecutionNotFoundError(
            f"no execution of task {task_id!r} sleeps under the key {key!r}: "
            + (never if former is None else _how_it_ended(former))
        )

    def _effected(self, effects: Effects) -> None:
        background = self.background
        if background is not None:
            background.effected(effects)
        else:
            self._messenger.effected(effects)

    def waiting(self) -> AbstractContextManager[None]:
        """Entered by a thread that waits on a handle: if it is a worker of this executor, another takes its place."""
        background = self.background
        if background is None or not background.pool.is_worker():
            return nullcontext()
        if not self._has_warned_of_waiting:
            self._has_warned_of_waiting = True
            background.log.warning(
                "%s: waits on a handle, which keeps its thread from other work; the pool lends it one meanwhile. "
                "Rather enqueue what comes next at the end of the task, and wait outside of it",
                threading.current_thread().name,
            )
        return background.pool.lend()

    def running_execution_ids(self) -> frozenset[str]:
        """The ids of what this process runs now."""
        background = self.background
        if background is None:
            return frozenset()
        return frozenset(attempt.claimed.execution_id for attempt in background.attempts.running())

    def any_active(self) -> bool:
        """True if a task registered here has an execution that is ready, running or waiting."""
        tasks = [task.id for task in self._registry]
        with shielded():
            return bool(tasks) and self.prepared_storage().any_active(tasks, patience=CALLER_PATIENCE)

    # --- started and shut down ------------------------------------------------------------------

    def migrate(self) -> None:
        """Makes or upgrades the tables."""
        with self._lock:
            self._adopt_process()
            self.storage.migrate(patience=CALLER_PATIENCE)
            self._prepared = True

    def start(self) -> None:
        """Starts the background threads; does nothing if they run."""
        with self._lock:
            self.refuse_shut_down()
            self._adopt_process()
            if self.background is None:
                self._start_background()

    def _start_background(self) -> None:
        # Half of the library, which a process that only enqueues does without.
        from durable_sync.engine.background import Background

        storage = self.prepared_storage()
        background = Background(
            self._settings, storage, self._registry, self._intake, self._serializer, self._messenger, self._recent
        )
        background.start()
        self.background = background
        self._cancel_exit = _stop_at_exit(self)

    def shutdown(self, timeout: float | None) -> None:
        """Stops claiming, lets running work end, gives back what is left after `timeout` seconds, ends the threads."""
        with self._lock:
            self._adopt_process()
            self._is_shut_down = True
            self._restarts_here = False
            background = self.background
        if background is not None:
            background.shutdown(timeout)
        self._callbacks.finish(_EXIT_SECONDS if timeout is None else min(timeout, _EXIT_SECONDS))
        with self._lock:
            if self.background is background:
                self.background = None
                self._cancel_exit()
                # Handles can still be waited on, by threads that end when nobody does.
                self._renew_messenger(_EXIT_SECONDS if background is None else 0.0)
                self.storage.database.retire()

    def refuse_shut_down(self) -> None:
        """Raises ExecutorShutdownError after a shutdown."""
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
        return Messenger(self._settings.name, self.storage, poll_interval=self._settings.poll_interval)

    def _renew_messenger(self, timeout: float) -> None:
        """Ends the messenger's threads; another goes on, with threads once somebody waits."""
        ended, self._messenger = self._messenger, self._make_messenger()
        ended.stop(timeout)
        ended.hand_over(self._messenger)

    def _make_callbacks(self) -> Callbacks:
        callbacks = Callbacks(self._settings.name)
        callbacks.log = self._settings.logger or callbacks.log
        return callbacks

    def prepared_storage(self) -> Storage:
        """The storage, its tables made or checked."""
        if self._prepared and self._pid == os.getpid() and not self._restarts_here:
            return self.storage
        with self._lock:
            self._adopt_process()
            if not self._prepared:
                prepare = self.storage.migrate if self._migrates else self.storage.check_version
                prepare(patience=CALLER_PATIENCE)
                self._prepared = True
            if self._restarts_here:
                self._restarts_here = False
                self._start_background()
            return self.storage

    def _adopt_process(self) -> None:
        # Some servers fork without running the hooks.
        if self._pid != os.getpid():
            self.after_fork()

    def _storages(self) -> list[Storage]:
        background = self.background
        return [self.storage] if background is None else [self.storage, background.lifeline]

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
        background = self.background
        storages = self._storages()
        keep_for_ever([background, self._messenger, self._callbacks, *storages])
        keep_for_ever(raw for storage in storages for raw in storage.database.connections.raw_connections())
        for storage in storages:
            storage.database.connections.disown()
        self._messenger.disown()
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self.background = None
        self._restarts_here = background is not None and not self._is_shut_down
        self.storage = self._open_storage()
        self._group = EnqueueGroup(self.storage, lambda: CALLER_PATIENCE)
        self._messenger = self._make_messenger()
        self._callbacks = self._make_callbacks()


def _stop_at_exit(desk: Desk) -> Callable[[], None]:
    """A script that forgets `shutdown` gives its work back when it ends, instead of letting the lease run out.

    Returns what takes this back.
    """
    reference = weakref.ref(desk)

    def stop() -> None:
        forgotten = reference()
        if forgotten is not None:
            forgotten.shutdown(timeout=0)

    atexit.register(stop)
    return lambda: atexit.unregister(stop)


def _how_it_ended(former: FormerSleeper) -> str:
    status = former.status.value.replace("_", " ")
    return f"the last one, {former.execution_id}, {status} at {to_datetime(former.finished_at).isoformat()}"
