"""Enqueues an execution claimed already, where a worker is free to begin on it.

An insert, a claim and a thread's hand-over between them are one insert then. Only while nothing else waits for a worker
here, so that nobody's turn is taken; everything else goes the ordinary way, through the database to any process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from durable_sync.engine.attempts import Attempt
from durable_sync.engine.quarantine import Quarantine
from durable_sync.engine.workplace import Workplace
from durable_sync.storage.newrows import begins_now
from durable_sync.storage.records import ClaimedExecution, NewExecution
from durable_sync.storage.storage import Storage

__all__ = ["DirectClaimer"]


class DirectClaimer:
    """For any thread."""

    def __init__(
        self,
        storage: Storage,
        workplace: Workplace,
        *,
        has_backlog: Callable[[], bool],
    ) -> None:
        self._storage = storage
        self._workplace = workplace
        self._pool = workplace.pool
        self._lease = workplace.lease
        self._has_backlog = has_backlog
        self._quarantine = Quarantine(workplace.attempts, workplace.pool)
        self._leaving = threading.Condition()
        self._inside = 0
        self._closed = False
        self.log = logging.getLogger(__name__)

    def enqueue(self, row: NewExecution, *, patience: float) -> bool:
        """Inserts the row and has it run here at once; False if that can't be, and nothing was inserted.

        `patience` as in Storage.
        """
        if not self._fits(row) or not self._enter():
            return False
        try:
            return self._pool.reserve() and self._enqueue(row, patience)
        finally:
            self._leave()

    def _fits(self, row: NewExecution) -> bool:
        return (
            row.key is None
            and row.lineage is None
            and begins_now(row)
            and self._pool.room > 0
            and not self._has_backlog()
            and self._workplace.serves(row.queue)
            and not self._quarantine.admits_nothing()
        )

    def _enqueue(self, row: NewExecution, patience: float) -> bool:
        """With a place in the pool, which is taken or given back."""
        attempt: Attempt | None = None
        try:
            with self._workplace.attempts.claiming():
                # Read before the lease is asked: should it change, nothing is inserted.
                executor_id = self._lease.executor_id
                # Asked again with a place in the pool, which the claimer sees before it lets work run by itself.
                if self._has_backlog() or not self._lease.may_start_work():
                    return False
                there, claimed = self._storage.enqueue_claimed(row, executor_id=executor_id, patience=patience)
                if claimed:
                    attempt = self._workplace.hold(ClaimedExecution.born(row), executor_id)
            return there
        finally:
            if attempt is None:
                self._pool.unreserve()
            elif self._closed:
                # A shutdown has given up waiting for this.
                self._pool.unreserve()
                self._workplace.decline(attempt)
            else:
                self._pool.submit_reserved(attempt)

    def _enter(self) -> bool:
        with self._leaving:
            if self._closed:
                return False
            self._inside += 1
            return True

    def _leave(self) -> None:
        with self._leaving:
            self._inside -= 1
            if self._closed:
                self._leaving.notify_all()

    def close(self, timeout: float) -> None:
        """Begins on nothing more, and waits up to `timeout` seconds for what is being inserted."""
        deadline = time.monotonic() + timeout
        with self._leaving:
            self._closed = True
            self._leaving.wait_for(lambda: not self._inside, max(deadline - time.monotonic(), 0.0))
