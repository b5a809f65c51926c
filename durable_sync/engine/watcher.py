"""All who wait for executions in this process, with one query as long as these are not very many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from durable_sync.engine.loop import Loop
from durable_sync.storage.storage import Storage

__all__ = ["Watcher"]

_QUICKEST_POLL = 0.01
_POLL_BY_COST = 10.0
"""How long a look took times this is the least time to the next: to look for very many costs much."""
_AT_ONCE = 1000
"""Executions in one query."""
_LOOK_SECONDS = 0.05
"""A look at more than these takes so long and no longer; the next one goes on where it ended."""
_POLL_BY_AGE = 0.25
"""The youngest wait's age times this is the time to the next look: who has waited long can wait a little longer."""


class Watcher(Loop):
    """Calls back, once, when an execution has finished or turns out not to exist. For any thread."""

    name = "watch"

    def __init__(self, label: str, storage: Storage, *, poll_interval: float) -> None:
        super().__init__(label)
        self._storage = storage
        self._poll_interval = poll_interval
        self._watched_lock = threading.Lock()
        self._watched: dict[str, tuple[Callable[[str], None], ...]] = {}
        self._turn: Iterator[str] = iter(())
        self._youngest = 0.0
        self._next_look = float("inf")

    def watch(self, execution_ids: Iterable[str], callback: Callable[[str], None]) -> None:
        """Has `callback` called with the id of each of these once it has finished, on some thread of ours.

        That the database is looked into for them begins with `attend`.
        """
        # Shared: a list for each of very many would keep Python's garbage collector busy.
        alone = (callback,)
        with self._watched_lock:
            for execution_id in execution_ids:
                others = self._watched.get(execution_id)
                self._watched[execution_id] = alone if others is None else (*others, callback)

    def attend(self) -> None:
        """Looks after what is watched: soon, and then less and less often."""
        now = time.monotonic()
        with self._watched_lock:
            self._youngest = now
            soon = self._next_look <= now + _QUICKEST_POLL
        self.start()
        if not soon:
            self.wake()

    def unwatch(self, execution_ids: Iterable[str], callback: Callable[[str], None]) -> None:
        """Takes back `watch`."""
        with self._watched_lock:
            for execution_id in execution_ids:
                left = list(self._watched.get(execution_id, ()))
                if callback in left:
                    left.remove(callback)
                if left:
                    self._watched[execution_id] = tuple(left)
                else:
                    self._watched.pop(execution_id, None)

    def release(self) -> dict[str, tuple[Callable[[str], None], ...]]:
        """Forgets all that is watched, and returns it."""
        with self._watched_lock:
            watched, self._watched = self._watched, {}
            return watched

    @property
    def idle(self) -> bool:
        """True if nobody waits."""
        return not self._watched

    def finished(self, execution_ids: Iterable[str]) -> None:
        """Tells that these have finished: seen in this process, or heard from another."""
        for execution_id in execution_ids:
            with self._watched_lock:
                callbacks = self._watched.pop(execution_id, ())
            for callback in callbacks:
                self._call(callback, execution_id)

    def step(self) -> float:
        """Looks after all that are watched; of very many at the oldest and the newest, and at the others in turn."""
        with self._watched_lock:
            first = self._first()
            # Who attends during the look wants another one.
            self._next_look = float("inf")
        if not first:
            return float("inf")
        began = time.monotonic()
        self.finished(self._storage.finished(first))
        while time.monotonic() - began < _LOOK_SECONDS and (others := self._next_in_turn()):
            self.finished(self._storage.finished(others))
        with self._watched_lock:
            now = time.monotonic()
            by_age = (now - self._youngest) * _POLL_BY_AGE
            delay = min(max(by_age, (now - began) * _POLL_BY_COST, _QUICKEST_POLL), self._poll_interval)
            self._next_look = now + delay
        return delay

    def _first(self) -> list[str]:
        """What was watched first should end first, and who has just come is in a hurry."""
        if len(self._watched) <= _AT_ONCE:
            return list(self._watched)
        half = _AT_ONCE // 2
        return [*islice(self._watched, half), *islice(reversed(self._watched), half)]

    def _next_in_turn(self) -> list[str]:
        """The next of all; none at the end of each turn."""
        with self._watched_lock:
            while some := list(islice(self._turn, _AT_ONCE)):
                if still_watched := [execution_id for execution_id in some if execution_id in self._watched]:
                    return still_watched
            self._turn = iter(list(self._watched) if len(self._watched) > _AT_ONCE else ())
            return []

    def _call(self, callback: Callable[[str], None], execution_id: str) -> None:
        try:
            callback(execution_id)
        except Exception:
            self.log.exception("watch: execution %s: a callback raised", execution_id)
