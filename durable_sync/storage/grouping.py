"""One COMMIT for what several threads enqueue at the same time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from durable_sync.storage.dialects import MAX_PACKET, Fault
from durable_sync.storage.keys import Enqueued
from durable_sync.storage.newrows import MAX_ROWS
from durable_sync.storage.records import NewExecution
from durable_sync.storage.storage import Storage

__all__ = ["EnqueueGroup"]


class _Entry:
    """What one thread wants written. It waits for its signal, which comes with the answer or with the lead."""

    def __init__(self, rows: Sequence[NewExecution], patience: float) -> None:
        self.rows = rows
        self.deadline = time.monotonic() + patience
        self.stored: list[Enqueued] | None = None
        self.error: Exception | None = None
        self.alone = False
        """It has to be written by itself; whether it was written already is unknown."""
        self.leads = False
        self._signal = threading.Lock()
        self._signal.acquire()

    @property
    def is_settled(self) -> bool:
        """True once there is nothing more that others will do for it."""
        return self.stored is not None or self.error is not None or self.alone

    @property
    def patience(self) -> float:
        """Seconds that are left of it."""
        return max(self.deadline - time.monotonic(), 0.0)

    def wait(self) -> None:
        """Until `wake`."""
        self._signal.acquire()

    def wake(self) -> None:
        """Once or more often."""
        with suppress(RuntimeError):
            self._signal.release()


class EnqueueGroup:
    """Whoever finds nobody writing leads: he writes for all that wait, and hands the lead on. For any thread.

    Those who wait do so each by himself: at one lock they would have to pass through it one after another, and
    meanwhile nobody would write.
    """

    def __init__(self, storage: Storage, patience: Callable[[], float]) -> None:
        self._storage = storage
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: deque[_Entry] = deque()
        self._batch: list[_Entry] = []
        """What the leader is writing."""
        self._has_leader = False

    def enqueue(self, rows: Sequence[NewExecution]) -> list[Enqueued]:
        """As `Storage.enqueue`."""
        entry = _Entry(rows, self._patience())
        if len(rows) > MAX_ROWS or any(row.key is not None for row in rows):
            # A taken key is waited for, which must hold up nobody else.
            return self._storage.enqueue(rows, patience=entry.patience)
        try:
            self._take_part(entry)
        except BaseException:
            # Ctrl-C, say. Nobody must be left waiting for this thread.
            self._leave(entry)
            raise
        if entry.error is not None:
            raise entry.error
        if entry.stored is None:
            return self._storage.enqueue(rows, patience=entry.patience, uncertain=True)
        return entry.stored

    def _take_part(self, entry: _Entry) -> None:
        with self._lock:
            self._waiting.append(entry)
            follows = self._has_leader
            self._has_leader = True
            entry.leads = not follows
        if follows:
            entry.wait()
        # More may wait before it than fits one batch.
        while entry.leads:
            with self._lock:
                self._batch = self._gather()
            self._write(self._batch)
            with self._lock:
                if entry in self._batch:
                    self._hand_on(entry)
                self._dismiss()

    def _leave(self, entry: _Entry) -> None:
        with self._lock:
            with suppress(ValueError):
                self._waiting.remove(entry)
            if entry.leads:
                for other in self._batch:
                    other.alone = not other.is_settled
                self._hand_on(entry)
                self._dismiss()

    def _hand_on(self, leader: _Entry) -> None:
        """Has the first of those who wait lead; with the lock."""
        leader.leads = False
        self._has_leader = bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].wake()

    def _dismiss(self) -> None:
        """Those whose rows were written go on; with the lock."""
        for entry in self._batch:
            entry.wake()
        self._batch = []

    def _write(self, batch: Sequence[_Entry]) -> None:
        try:
            patience = max(entry.patience for entry in batch)
            stored = self._storage.enqueue([row for entry in batch for row in entry.rows], patience=patience)
        except Exception as error:
            # An outage has been waited out for all of them; anything else is the fault of one.
            is_shared = len(batch) == 1 or self._storage.database.dialect.fault(error) is Fault.OUTAGE
            for entry in batch:
                entry.error, entry.alone = (error, False) if is_shared else (None, True)
        else:
            written = iter(stored)
            for entry in batch:
                entry.stored = [next(written) for _ in entry.rows]

    def _gather(self) -> list[_Entry]:
        batch: list[_Entry] = []
        rows = size = 0
        while self._waiting:
            entry = self._waiting[0]
            rows += len(entry.rows)
            size += sum(len(row.input) for row in entry.rows)
            if batch and (rows > MAX_ROWS or size > MAX_PACKET):
                break
            batch.append(self._waiting.popleft())
        return batch
