"""Renews this process's lease, and compares what the database says it holds with what is in memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from durable_sync.clock import steady_seconds
from durable_sync.engine.attempts import Attempt, Attempts, StopReason
from durable_sync.engine.lease import Lease
from durable_sync.engine.loop import Loop
from durable_sync.engine.recorder import save_progress
from durable_sync.storage.statements import Fenced
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects
from durable_sync.transitions import release

__all__ = ["Heartbeat"]

_COMPARE_SECONDS = 1.0


class Heartbeat(Loop):
    """Runs on a thread and a connection of its own, so that no other work holds it up."""

    name = "renew"

    def __init__(
        self,
        label: str,
        storage: Storage,
        *,
        lease: Lease,
        attempts: Attempts,
        stop_attempt: Callable[[Attempt, StopReason], bool],
        lost: Callable[[], None],
        effected: Callable[[Effects], None],
    ) -> None:
        super().__init__(label)
        self._storage = storage
        self._lease = lease
        self.longest_back_off = min(self.longest_back_off, lease.duration / 10)
        self._attempts = attempts
        self._stop_attempt = stop_attempt
        self._lost = lost
        self._effected = effected
        self._renewed_at = steady_seconds()
        self._strangers: dict[tuple[str, int], float] = {}
        self._warned = False
        self.resigns = False
        """Nothing is left that the lease would protect: it is given back when the thread ends."""

    def end(self) -> None:
        """Resigns, if that was asked."""
        if not self.resigns:
            return
        try:
            self._storage.resign(self._lease.executor_id)
        except Exception as error:
            self.log.warning("renew: could not resign, so the lease will have to end by itself: %s", error)

    def step(self) -> float:
        """Renews when due; compares then, and more often while anything runs."""
        # After a suspend the lease has ended too, but nobody has tried to renew it yet.
        if self._lease.remaining <= 0 and self._failures:
            self._signal_lapsed()
        renews = steady_seconds() - self._renewed_at >= self._lease.renewal_interval or self._lease.remaining <= 0
        if renews:
            self._renew()
        # Also while nothing runs: what never arrived may be all that there is.
        if renews or len(self._attempts) or self._strangers:
            self._compare()
            save_progress(self._storage, self._attempts.running())
        due = self._renewed_at + self._lease.renewal_interval - steady_seconds()
        return max(min(due, _COMPARE_SECONDS), 0.01)

    def _renew(self) -> None:
        asked_at = steady_seconds()
        if self._storage.renew(self._lease.incarnation):
            self._lease.renewed(asked_at)
            self._renewed_at = asked_at
            self._warned = False
            return
        if not self.stopping:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Somebody has declared this incarnation dead: what it held belongs to others."""
        dead = self._lease.executor_id
        held = self._attempts.all()
        incarnation = self._lease.reincarnate()
        self.log.warning(
            "renew: the lease of executor %s was lost, and its %d executions with it; going on as %s. If this process "
            "was not suspended or cut off, lengthen `lease`",
            dead,
            len(held),
            incarnation.executor_id,
        )
        self._lost()
        for attempt in held:
            self._stop_attempt(attempt, StopReason.REVOKED)
        asked_at = steady_seconds()
        self._storage.register(incarnation)
        self._lease.renewed(asked_at)
        self._renewed_at = asked_at

    def _signal_lapsed(self) -> None:
        """The lease has run out without an answer: others may be starting what runs here."""
        if not self._warned:
            self._warned = True
            self.log.warning(
                "renew: the lease of executor %s has ended without an answer from the database; "
                "%d running executions are told to stop, and nothing is started until it answers",
                self._lease.executor_id,
                len(self._attempts.running()),
            )
        for attempt in self._attempts.running():
            self._stop_attempt(attempt, StopReason.LEASE)

    def _compare(self) -> None:
        asked_at = time.monotonic()
        before = {attempt.identity: attempt for attempt in self._attempts.all()}
        executor_id = self._lease.executor_id
        owned = self._storage.owned(executor_id)
        for identity, attempt in before.items():
            if identity not in owned and attempt.is_running and self._stop_attempt(attempt, StopReason.REVOKED):
                self.log.info("renew: %s: no longer ours, so it is stopped", attempt)
            elif identity not in owned and attempt.unqueue():
                self._attempts.drop(attempt)
        # Asked before the look into memory: a claim that ends between the two has arrived there.
        claiming_since = self._attempts.claiming_since
        known = {attempt.identity for attempt in self._attempts.all()}
        self._release_strangers(owned - known, asked_at, claiming_since)

    def _release_strangers(self, unknown: set[tuple[str, int]], asked_at: float, claiming_since: float | None) -> None:
        """Releases what the database says is ours and memory doesn't know: a claim whose answer was lost."""
        first_seen = {identity: self._strangers.get(identity, asked_at) for identity in unknown}
        # A claim that was under way when a row was first seen may be about to hold it.
        settled = {
            identity
            for identity, seen in first_seen.items()
            if seen < asked_at and (claiming_since is None or claiming_since > seen)
        }
        if settled:
            self.log.warning("renew: releasing %d executions that were claimed here and never arrived", len(settled))
            released = [Fenced(*identity, release(started=False)) for identity in settled]
            self._effected(self._storage.record(released, uncertain=False).effects)
        self._strangers = {identity: seen for identity, seen in first_seen.items() if identity not in settled}
