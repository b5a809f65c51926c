"""What a process tells and hears about executions, whether it runs any itself or not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from durable_sync.engine.bell import Napper, Ringer
from durable_sync.engine.changes import ChangeListener
from durable_sync.engine.loop import Loop
from durable_sync.engine.notifier import Listener, Notifier
from durable_sync.engine.watcher import Watcher
from durable_sync.storage.changes import Changes
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects

__all__ = ["Messenger"]


class Messenger:
    """Joins the watcher and those who tell and hear, as the database allows; their threads start when first needed."""

    def __init__(self, label: str, storage: Storage, *, poll_interval: float) -> None:
        self._watcher = Watcher(label, storage, poll_interval=poll_interval)
        self._notifier = Notifier(label, storage) if storage.database.dialect.notifies else None
        self._listener: Listener | None = None
        self._change_listener: ChangeListener | None = None
        if self._notifier is not None:
            self._listener = Listener(
                label,
                storage,
                sender=self._notifier.sender,
                ready=self._heard_ready,
                finished=self._watcher.finished,
                cancelled=self._heard_cancelled,
            )
        self._ringer: Ringer | None = None
        self._napper: Napper | None = None
        if storage.database.dialect.rings:
            self._ringer = Ringer(label, storage)
            self._napper = Napper(label, storage, rests=self._has_rest, rung=self._heard_ready)
        changes = Changes(storage.database)
        if changes.possible:
            self._change_listener = ChangeListener(label, changes, changed=self._heard_change)
        self.on_ready: Callable[[], None] = lambda: None
        """Called when another process says that there is work."""
        self.rests: Callable[[], bool] = lambda: True
        """Asked whether this process would do with more work."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when another process has committed something, or may have."""
        self.on_cancelled: Callable[[Sequence[str]], None] = lambda _ids: None
        """Called when another process has ended executions that may run here."""

    def _heard_ready(self) -> None:
        self.on_ready()

    def _has_rest(self) -> bool:
        return self.rests()

    def _heard_change(self) -> None:
        self.on_change()

    def _heard_cancelled(self, execution_ids: Sequence[str]) -> None:
        self.on_cancelled(execution_ids)

    @property
    def loops(self) -> list[Loop]:
        """The loops that a started executor keeps running."""
        loops = (
            self._watcher,
            self._notifier,
            self._listener,
            self._ringer,
            self._napper,
            self._change_listener,
        )
        return [loop for loop in loops if loop is not None]

    def watch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None:
        """Has `callback` called with the id of each of these once it has finished; see `attend`."""
        self._watcher.watch(execution_ids, callback)

    def attend(self) -> None:
        """Looks for what is watched, wherever it ends; until then only this process's own ends are heard of."""
        if self._listener is not None:
            self._listener.start()
        self._watcher.attend()

    def unwatch(self, execution_ids: Collection[str], callback: Callable[[str], None]) -> None:
        """Takes back `watch`."""
        self._watcher.unwatch(execution_ids, callback)

    def ready(self) -> None:
        """Work was enqueued or given back."""
        if self._notifier is not None:
            self._notifier.start()
            self._notifier.ready()
        if self._ringer is not None:
            self._ringer.start()
            self._ringer.ready()

    def finished(self, execution_ids: Sequence[str]) -> None:
        """These have finished, by what this process has committed."""
        self._watcher.finished(execution_ids)
        if self._notifier is not None and execution_ids:
            self._notifier.start()
            self._notifier.finished(execution_ids)

    def effected(self, effects: Effects) -> None:
        """This process has committed something that others want to hear of."""
        if self._notifier is not None and effects.stopped:
            self._notifier.start()
            self._notifier.cancelled(effects.stopped)
        self.finished(effects.finished)
        if effects.ready:
            self.ready()

    @property
    def idle(self) -> bool:
        """True if nobody waits."""
        return self._watcher.idle

    def hand_over(self, heir: Messenger) -> None:
        """Has another go on with what callers wait for."""
        for execution_id, callbacks in self._watcher.release().items():
            for callback in callbacks:
                heir.watch([execution_id], callback)
        if not heir.idle:
            heir.attend()

    def disown(self) -> None:
        """In a forked child: lets go of what the parent's threads wait with."""
        if self._change_listener is not None:
            self._change_listener.disown()

    def stop(self, timeout: float) -> None:
        """Ends the threads."""
        for loop in self.loops:
            loop.request_stop()
        for loop in self.loops:
            loop.stop(timeout)
