"""Work that is due later, and whether any of it was started early."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from attrs import field, frozen

from durable_sync import TaskCall
from durable_sync.clock import to_datetime
from tests.faults import audit
from tests.faults.checker import Account
from tests.faults.history import Start
from tests.faults.laboratory import Laboratory
from tests.faults.workload import RETRY_DELAY, approval, later, plain, unhurried

__all__ = ["Agenda"]

_INACCURACY = 0.02
"""Seconds: SQLite tells the time to the millisecond only."""


@frozen
class _Due:
    """The earliest moment, by both clocks that a test can trust."""

    database: float
    """Microseconds, in the database's time."""
    monotonic: float
    """Seconds."""


@frozen
class Agenda:
    """Enqueues delayed work, and remembers when it was due at the earliest."""

    laboratory: Laboratory
    _due: dict[str, _Due] = field(factory=dict)
    _spawning: dict[str, float] = field(factory=dict)
    """How long after their parent's end the children of each are due."""

    def __len__(self) -> int:
        return len(self._due)

    def enqueue(self, delay: float) -> None:
        """Work that is due after so many seconds: delayed, dated, as children, as a retry, as a sleeper's timeout."""
        monotonic = time.monotonic()
        database = audit.now(self.laboratory.engine)
        due = _Due(database + delay * 1e6, monotonic + delay)
        calls: list[TaskCall[Any]] = [
            plain.options(delay=delay).bind(0.01),
            plain.options(run_at=to_datetime(round(due.database))).bind(0.01),
            approval.options(timeout=delay, key=uuid.uuid4().hex).bind(),
            later.options(delay=delay).bind(2, delay, 0.01),
        ]
        dated = self.laboratory.enqueue(calls)
        self._due.update(dict.fromkeys(dated, due))
        at_once, _ = self.laboratory.enqueue([later.bind(2, delay, 0.01), unhurried.bind(0.01)])
        self._spawning.update({dated[-1]: delay, at_once: delay})

    def too_early(self, account: Account) -> list[str]:
        """What was started, or timed out, before its time, as sentences."""
        return [*self._roots(account), *self._children(account), *_retries(account)]

    def latest(self, account: Account) -> float:
        """Seconds by which the last of the roots was late."""
        first = _first_starts(account)
        return max((first[name].at - due.monotonic for name, due in self._due.items() if name in first), default=0.0)

    def _roots(self, account: Account) -> Iterator[str]:
        for move in account.moves:
            due = self._due.get(move.execution_id)
            if due is not None and move.at < due.database - _INACCURACY * 1e6:
                yield f"{move.execution_id}: became {move.new_status} {(due.database - move.at) / 1e6:.3f} s too early"
        for name, start in _first_starts(account).items():
            if name in self._due and start.at < self._due[name].monotonic - _INACCURACY:
                yield f"{name} ({start.task_id}): was started {self._due[name].monotonic - start.at:.3f} s too early"

    def _children(self, account: Account) -> Iterator[str]:
        returned = {end.uid: end.at for end in account.history.ends}
        first = _first_starts(account)
        spawned = {
            row.id: at
            for row in account.rows
            if row.id in self._spawning
            for uid, at in returned.items()
            if uid in (row.run_output or "")
        }
        for row in account.rows:
            if row.parent_id not in spawned or row.child_index is None or row.id not in first:
                continue
            waited = first[row.id].at - spawned[row.parent_id]
            if waited < self._spawning[row.parent_id] - _INACCURACY:
                yield f"{row.id}: was started {waited:.3f} s after its parent {row.parent_id} had spawned it"


def _first_starts(account: Account) -> dict[str, Start]:
    first: dict[str, Start] = {}
    for start in account.history.starts:
        first.setdefault(start.execution_id, start)
    return first


def _retries(account: Account) -> Iterator[str]:
    """`unhurried` waits between an attempt that failed and the next."""
    ends = {end.uid: end for end in account.history.ends}
    for row in account.rows:
        # One that died before its failure was recorded is started again at once.
        if row.task_id != "unhurried" or row.recoveries:
            continue
        attempts = [start for start in account.history.starts if start.execution_id == row.id]
        for one, other in pairwise(attempts):
            waited = other.at - ends[one.uid].at
            if waited < RETRY_DELAY - _INACCURACY:
                yield f"{row.id} ({row.task_id}): was tried again after {waited:.3f} s"
