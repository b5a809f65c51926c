"""This process's view of its own lease: for how long it may start work, and as whom."""

from __future__ import annotations

import os
import socket
import threading
import uuid

from durable_sync.clock import steady_seconds
from durable_sync.storage.leases import Incarnation

__all__ = ["Lease"]

RENEWALS_A_LEASE = 3
"""A renewal is due after this fraction of a lease, so that a few may fail."""
_SAFETY = 0.1
"""Work stops being started this fraction of the lease before its end."""


class Lease:
    """The incarnation that this executor lives as, and until when. For any thread.

    Measured from *before* a renewal was sent, so it ends here no later than in the database, and on a clock that also
    counts while the machine is suspended, as the database's may.
    """

    def __init__(self, name: str, duration: float) -> None:
        self.name = name
        self.duration = duration
        self._lock = threading.Lock()
        self._valid_until = 0.0
        self._disturbed_at = float("-inf")
        self.incarnation = self._incarnate()

    def _incarnate(self) -> Incarnation:
        return Incarnation(
            executor_id=str(uuid.uuid4()),
            name=self.name,
            hostname=socket.gethostname()[:255],
            pid=os.getpid(),
            lease=round(self.duration * 1_000_000),
        )

    @property
    def renewal_interval(self) -> float:
        """Seconds between renewals."""
        return self.duration / RENEWALS_A_LEASE

    @property
    def executor_id(self) -> str:
        """The id of the present incarnation."""
        return self.incarnation.executor_id

    @property
    def remaining(self) -> float:
        """Seconds until the lease ends; negative when it has."""
        return self._valid_until - steady_seconds()

    def may_start_work(self) -> bool:
        """False once the lease is about to end without a renewal."""
        return self.remaining > self.duration * _SAFETY

    def covers(self, executor_id: str) -> bool:
        """True if work may be started that this incarnation has claimed: not a former one, to which it is lost."""
        return self.may_start_work() and executor_id == self.executor_id

    def renewed(self, asked_at: float) -> None:
        """A renewal sent at `asked_at` (steady seconds) has succeeded."""
        now = steady_seconds()
        with self._lock:
            late = self._valid_until > 0 and asked_at + self.duration - self._valid_until > 2 * self.renewal_interval
            if late or now - asked_at > self.renewal_interval:
                self._disturbed_at = now
            self._valid_until = asked_at + self.duration

    def may_reap(self) -> bool:
        """False while renewals are held up here and for a while after: others may be held up too, and aren't dead."""
        overdue = self.remaining < self.duration - 2 * self.renewal_interval
        return not overdue and steady_seconds() - self._disturbed_at > self.renewal_interval * 1.5

    def reincarnate(self) -> Incarnation:
        """The present incarnation is dead: goes on as another, without a lease until it is registered."""
        with self._lock:
            self._valid_until = 0.0
            self.incarnation = self._incarnate()
            return self.incarnation
