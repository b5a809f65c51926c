"""One COMMIT for what several threads enqueue at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from durable_sync.storage.dialects import MAX_PACKET, Fault
from durable_sync.storage.keys import Enqueued
from durable_sync.storage.newrows import MAX_ROWS
from durable_sync.storage.records import NewExecution
from durable_sync.storage.storage import Storage

__all__ = ["EnqueueGroup"]


class _Entry:
    """What one thread wants written. It waits for its signal, which comes with the answer or with the lead."""

    def __init__(self, rows: Sequence[NewExecution]) -> None:
        self.rows = rows
        self.stored: list[Enqueued] | None = None
        self.error: Exception | None = None
        self.alone = False
        """It has to be written by itself; whether it was written already is unknown."""
        self.leads = False
        self.left = False
        """Its thread waits no more."""
        self.signal = threading.Lock()
        self.signal.acquire()

    @property
    def is_settled(self) -> bool:
        """True once there is nothing more that others will do for it."""
        return self.stored is not None or self.error is not None or self.alone


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
        self._has_leader = False

    def enqueue(self, rows: Sequence[NewExecution]) -> list[Enqueued]:
        """As `Storage.enqueue`."""
        if len(rows) > MAX_ROWS or any(row.key is not None for row in rows):
            # A taken key is waited for, which must hold up nobody else.
            return self._storage.enqueue(rows, patience=self._patience())
        entry = _Entry(rows)
        with self._lock:
            self._waiting.append(entry)
            if not self._has_leader:
                self._has_leader = entry.leads = True
        if not entry.leads:
            self._wait(entry)
        # More may wait before it than fits one batch.
        while entry.leads and not entry.is_settled:
            self._lead(entry)
        if entry.error is not None:
            raise entry.error
        if entry.stored is None:
            return self._storage.enqueue(rows, patience=self._patience(), uncertain=True)
        return entry.stored

    def _wait(self, entry: _Entry) -> None:
        try:
            entry.signal.acquire()
        except BaseException:
            with self._lock:
                entry.left = True
                if entry.leads:
                    self._hand_on()
            raise

    def _lead(self, leader: _Entry) -> None:
        batch = self._gather()
        try:
            self._write(batch)
        finally:
            if leader.is_settled:
                with self._lock:
                    self._hand_on()
            for entry in batch:
                if entry is not leader:
                    entry.signal.release()

    def _hand_on(self) -> None:
        """Has the first of those who wait lead; with the lock."""
        heir = next((entry for entry in self._waiting if not entry.left), None)
        self._has_leader = heir is not None
        if heir is not None:
            heir.leads = True
            heir.signal.release()

    def _write(self, batch: Sequence[_Entry]) -> None:
        try:
            stored = self._storage.enqueue([row for entry in batch for row in entry.rows], patience=self._patience())
        except Exception as error:
            # An outage has been waited out for all of them; anything else is the fault of one.
            is_shared = len(batch) == 1 or self._storage.database.dialect.fault(error) is Fault.OUTAGE
            for entry in batch:
                entry.error, entry.alone = (error, False) if is_shared else (None, True)
        except BaseException:
            for entry in batch:
                entry.alone = True
            raise
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
