"""Tells other processes, and hears from them, where the database passes messages on.

Always a hint: polling is the truth.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from durable_sync.engine.loop import Loop
from durable_sync.engine.standing import StandingLoop
from durable_sync.storage.notices import Ears, tell
from durable_sync.storage.storage import Storage

__all__ = ["Listener", "Notifier"]

_SPACING_SECONDS = 0.001
"""For so long, for each event that it tells of, a message is followed by none: a NOTIFY takes a lock that all senders
share. One after another, as of a caller who waits for each, go at once; of a busy process they go together."""
_LONGEST_SPACING = 0.025
_PROBE_SECONDS = 15.0
_IDS_IN_A_MESSAGE = 150
"""More than these, 37 bytes each, would not fit the 8,000 bytes of a message."""
_READY, _FINISHED, _CANCELLED = "ready", "finished", "cancelled"


class Notifier(Loop):
    """Sends what happened here, after it was committed, coalesced. For any thread."""

    name = "notify"

    def __init__(self, label: str, storage: Storage) -> None:
        super().__init__(label)
        self.sender = uuid.uuid4().hex[:8]
        self._storage = storage
        self._telling_lock = threading.Lock()
        self._telling: dict[str, list[str]] = {}
        self._events = 0

    def ready(self) -> None:
        """There is work to claim."""
        self._tell(_READY, ())

    def finished(self, execution_ids: Sequence[str]) -> None:
        """These have finished."""
        self._tell(_FINISHED, execution_ids)

    def cancelled(self, execution_ids: Sequence[str]) -> None:
        """These were ended while they were running somewhere."""
        self._tell(_CANCELLED, execution_ids)

    def _tell(self, what: str, execution_ids: Sequence[str]) -> None:
        with self._telling_lock:
            first = not self._telling
            self._telling.setdefault(what, []).extend(execution_ids)
            self._events += max(len(execution_ids), 1)
        if first:
            self.wake()

    def step(self) -> float:
        """Sends what has gathered."""
        with self._telling_lock:
            telling, self._telling = self._telling, {}
            events, self._events = self._events, 0
        if not telling:
            return float("inf")
        self._send(telling)
        # Not cut short by a wake: what comes within this time goes together.
        self._stopping.wait(min(events * _SPACING_SECONDS, _LONGEST_SPACING))
        return 0.0

    def end(self) -> None:
        """Sends what has gathered just before the end."""
        if self._telling:
            with suppress(Exception):
                self._send(self._telling)

    def _send(self, telling: Mapping[str, Sequence[str]]) -> None:
        tell(self._storage, [message for what, ids in telling.items() for message in self._messages(what, ids)])

    def _messages(self, what: str, ids: Sequence[str]) -> list[str]:
        starts = range(0, max(len(ids), 1), _IDS_IN_A_MESSAGE)
        return [f"{self.sender} {what} {','.join(ids[start : start + _IDS_IN_A_MESSAGE])}" for start in starts]


class Listener(StandingLoop[Ears]):
    """Hears what happened elsewhere."""

    name = "listen"

    def __init__(
        self,
        label: str,
        storage: Storage,
        *,
        sender: str,
        ready: Callable[[], None],
        finished: Callable[[Sequence[str]], None],
        cancelled: Callable[[Sequence[str]], None],
    ) -> None:
        super().__init__(label)
        self._storage = storage
        self._sender = sender
        self._hear: dict[str, Callable[[Sequence[str]], None]] = {
            _READY: lambda _ids: ready(),
            _FINISHED: finished,
            _CANCELLED: cancelled,
        }
        self._probed_at = 0.0

    def _open(self) -> Ears:
        return Ears(self._storage)

    def _opened(self) -> None:
        self._probed_at = time.monotonic()
        # What was said while nobody listened can be anything.
        self._hear[_READY](())

    def _wait(self, connection: Ears) -> None:
        if time.monotonic() - self._probed_at > _PROBE_SECONDS:
            connection.probe()
            self._probed_at = time.monotonic()
        for message in connection.hear(1.0):
            self._pass_on(message)

    def _pass_on(self, message: str) -> None:
        sender, _, rest = message.partition(" ")
        what, _, ids = rest.partition(" ")
        if sender != self._sender and what in self._hear:
            self._hear[what](ids.split(",") if ids else [])
