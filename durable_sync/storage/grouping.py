"""One COMMIT for what several threads enqueue at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from attrs import define

from durable_sync.storage.dialects import MAX_PACKET, Fault
from durable_sync.storage.keys import Enqueued
from durable_sync.storage.newrows import MAX_ROWS
from durable_sync.storage.records import NewExecution
from durable_sync.storage.storage import Storage

__all__ = ["EnqueueGroup"]


@define(eq=False)
class _Entry:
    rows: Sequence[NewExecution]
    stored: list[Enqueued] | None = None
    error: Exception | None = None
    alone: bool = False
    """It has to be written by itself; whether it was written already is unknown."""

    @property
    def is_settled(self) -> bool:
        """True once there is nothing more that others will do for it."""
        return self.stored is not None or self.error is not None or self.alone


class EnqueueGroup:
    """Whoever finds nobody writing writes for all that wait. For any thread."""

    def __init__(self, storage: Storage, patience: Callable[[], float]) -> None:
        self._storage = storage
        self._patience = patience
        self._waiting: deque[_Entry] = deque()
        self._turn = threading.Lock()

    def enqueue(self, rows: Sequence[NewExecution]) -> list[Enqueued]:
        """As `Storage.enqueue`."""
        if len(rows) > MAX_ROWS or any(row.key is not None for row in rows):
            # A taken key is waited for, which must hold up nobody else.
            return self._storage.enqueue(rows, patience=self._patience())
        entry = _Entry(rows)
        self._waiting.append(entry)
        with self._turn:
            # More may wait before it than fits one batch.
            while not entry.is_settled:
                self._lead()
        if entry.error is not None:
            raise entry.error
        if entry.stored is None:
            return self._storage.enqueue(rows, patience=self._patience(), uncertain=True)
        return entry.stored

    def _lead(self) -> None:
        batch = self._gather()
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
