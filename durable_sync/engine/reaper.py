"""Recovers what dead executors held."""

from __future__ import annotations

import time
from collections.abc import Callable

from durable_sync.engine.lease import Lease
from durable_sync.engine.loop import Loop
from durable_sync.execution import ErrorInfo
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects

__all__ = ["Reaper"]

_BURY_SECONDS = 300.0
_GAVE_UP = ErrorInfo(
    "TaskError",
    "the process that ran it died, and it has been recovered max_recoveries times before: perhaps it is this task that "
    "kills its process",
    "",
    False,
)


class Reaper(Loop):
    """Looks when the next lease of anybody would end, and at least twice a lease."""

    name = "reap"

    def __init__(self, label: str, storage: Storage, *, lease: Lease, effected: Callable[[Effects], None]) -> None:
        super().__init__(label)
        self._storage = storage
        self._lease = lease
        self._effected = effected
        self._buried_at = time.monotonic()

    def step(self) -> float:
        """Sweeps if a look shows that there is reason to."""
        survey = self._storage.look_for_dead(spare=self._lease.executor_id)
        if survey.work:
            if not self._lease.may_reap():
                return min(self._lease.renewal_interval, 0.25)
            if self._sweep():
                return 0.0
        elif time.monotonic() - self._buried_at > _BURY_SECONDS:
            self._storage.bury()
            self._buried_at = time.monotonic()
        until_expiry = float("inf") if survey.next_expiry is None else max(survey.next_expiry / 1_000_000, 0.0) + 0.05
        return min(until_expiry, self._lease.duration / 2)

    def _sweep(self) -> bool:
        # Asked again, because the sweep may have waited itself for its turn to write.
        reaped = self._storage.reap(
            gave_up=_GAVE_UP.to_json(), may_mark=self._lease.may_reap, spare=self._lease.executor_id
        )
        for executor_id in reaped.dead:
            self.log.warning("reap: executor %s has not renewed its lease; what it ran is recovered", executor_id)
        for task_id, execution_id, executor_id in reaped.recovered:
            self.log.info("reap: task %s execution %s: recovered from executor %s", task_id, execution_id, executor_id)
        for task_id, execution_id, executor_id in reaped.given_up:
            self.log.error(
                "reap: task %s execution %s: failed, because its process (executor %s) died once too often",
                task_id,
                execution_id,
                executor_id,
            )
        self._effected(reaped.effects)
        return bool(reaped.recovered or reaped.given_up)
