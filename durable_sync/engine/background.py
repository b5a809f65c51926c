"""Puts the loops of one executor together, and takes them down in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from durable_sync.clock import steady_seconds
from durable_sync.engine.attempts import Attempt, Attempts, Outcome, StopReason
from durable_sync.engine.claimer import Claimer
from durable_sync.engine.direct import DirectClaimer
from durable_sync.engine.heartbeat import Heartbeat
from durable_sync.engine.interrupter import Interrupter
from durable_sync.engine.lease import Lease
from durable_sync.engine.loop import Loop
from durable_sync.engine.messenger import Messenger
from durable_sync.engine.pool import WorkerPool
from durable_sync.engine.prefetch import Prefetch
from durable_sync.engine.reaper import Reaper
from durable_sync.engine.recent import Recent
from durable_sync.engine.recorder import Recorder
from durable_sync.engine.runner import Runner
from durable_sync.engine.settings import Settings
from durable_sync.engine.spawner import Spawner
from durable_sync.engine.supervisor import Supervisor
from durable_sync.engine.workplace import Workplace
from durable_sync.intake import Intake
from durable_sync.outputs import Outputs
from durable_sync.registry import TaskRegistry
from durable_sync.serialization import Serializer
from durable_sync.storage.dialects import Fault
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects
from durable_sync.transitions import release

__all__ = ["Background"]

_LAST_WRITES_SECONDS = 5.0
"""How long a shutdown waits, beyond its own timeout, for the database to take what is left to say."""
_LAST_CLAIM_SECONDS = 1.0
"""Of these, those for a claim that is under way: if it comes later, it is given back."""


class Background:
    """The threads of one started executor."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        registry: TaskRegistry,
        intake: Intake,
        serializer: Serializer,
        messenger: Messenger,
        recent: Recent,
    ) -> None:
        self.settings = settings
        self.log = settings.logger or logging.getLogger(__name__)
        self._storage = storage
        # Half a lease, so that a renewal can be tried again before the lease ends.
        self.lifeline = storage.sibling(limit=settings.lease / 2)
        self._messenger = messenger
        self.lease = Lease(settings.name, settings.lease)
        self.attempts = Attempts()
        self._ended = threading.Event()
        label = settings.name
        self.pool = WorkerPool(self._run, settings.max_workers, label, on_free=self._freed)
        self.interrupter = Interrupter(label, self.pool, given_up=self._given_up)
        self.recorder = Recorder(label, storage, self.attempts, recent=recent, recorded=self.effected)
        workplace = Workplace(registry, settings.queues, self.lease, self.pool, self.attempts, self._give_back)
        self._prefetch = Prefetch(self.pool)
        self.claimer = Claimer(
            label,
            storage,
            workplace,
            prefetch=self._prefetch,
            poll_interval=settings.poll_interval,
            effected=self.effected,
        )
        self.direct = DirectClaimer(storage, workplace, has_backlog=lambda: self.claimer.backlog)
        self._runner = Runner(
            Outputs(storage, registry, serializer),
            Spawner(intake, serializer, settings.max_children, settings.max_payload_bytes),
            is_outage=lambda error: storage.database.dialect.fault(error) in {Fault.OUTAGE, Fault.CONTENTION},
            may_start=lambda attempt: self.lease.covers(attempt.owner),
            watch=self.interrupter.watch,
            put=self._put,
            ended=lambda _attempt, run_seconds: self._prefetch.ran(run_seconds),
        )
        self.heartbeat = Heartbeat(
            label,
            self.lifeline,
            lease=self.lease,
            attempts=self.attempts,
            stop_attempt=self.interrupter.stop_attempt,
            lost=self._drop_queued,
            effected=self.effected,
        )
        self.reaper = Reaper(label, storage, lease=self.lease, effected=self.effected)
        messenger.on_ready = self.claimer.wake
        messenger.rests = lambda: not self.claimer.backlog
        messenger.on_change = self.claimer.look
        messenger.on_cancelled = self._stop_revoked
        loops: list[Loop] = [
            self.recorder,
            self.interrupter,
            self.heartbeat,
            self.reaper,
            *messenger.loops,
            self.claimer,
        ]
        self.supervisor = Supervisor(label, loops)
        if settings.logger is not None:
            for loop in (*loops, self.supervisor):
                loop.log = settings.logger
            self.pool.log = self._runner.log = settings.logger

    def start(self) -> None:
        """Registers this incarnation, then starts the loops."""
        asked_at = steady_seconds()
        self._storage.register(self.lease.incarnation, patience=10.0)
        self.lease.renewed(asked_at)
        self.supervisor.start_all()

    # --- what callers tell ----------------------------------------------------------------------

    def enqueued(self) -> None:
        """There is new work, committed or about to be."""
        self.claimer.wake()

    def effected(self, effects: Effects) -> None:
        """This process has committed something that others want to hear of."""
        self._stop_revoked(effects.stopped)
        self._messenger.effected(effects)
        if effects.ready:
            self.claimer.wake()

    # --- what loops tell ------------------------------------------------------------------------

    def _run(self, attempt: Attempt) -> None:
        self._runner.run(attempt)

    def _put(self, attempt: Attempt, outcome: Outcome) -> None:
        # A worker that has something else to run leaves the writing to a thread that writes for all.
        if self.pool.room < 0 or self.claimer.backlog:
            self.recorder.put(attempt, outcome)
        else:
            self.recorder.record(attempt, outcome)

    def _give_back(self, attempt: Attempt) -> None:
        """Of what no thread has begun on."""
        self.recorder.put(attempt, Outcome(release(started=False)))

    def _freed(self) -> None:
        if self.claimer.backlog and self.pool.room >= self._prefetch.refill_at:
            self.claimer.wake()
        if not self._ended.is_set():
            self._ended.set()

    def _given_up(self, attempt: Attempt) -> None:
        self.recorder.put(attempt, Outcome(self._runner.judge_given_up(attempt)))

    def _stop_revoked(self, execution_ids: Sequence[str]) -> None:
        for execution_id in execution_ids:
            for attempt in self.attempts.of_execution(execution_id):
                if attempt.is_running:
                    self.interrupter.stop_attempt(attempt, StopReason.REVOKED)
                elif attempt.unqueue():
                    self.attempts.drop(attempt)
                else:
                    # Its outcome, on its way to the recorder, will be refused, and it is known why.
                    attempt.give_reason(StopReason.REVOKED)

    def _drop_queued(self) -> None:
        for attempt in self.pool.take_back():
            if attempt.unqueue():
                self.attempts.drop(attempt)

    # --- stopping -------------------------------------------------------------------------------

    def shutdown(self, timeout: float | None) -> None:
        """Stops claiming, lets running work end for up to `timeout` seconds, then gives back what is left."""
        deadline = None if timeout is None else time.monotonic() + timeout
        began = time.monotonic()
        self.claimer.request_stop()
        self.direct.close(_LAST_CLAIM_SECONDS)
        self.claimer.stop(max(began + _LAST_CLAIM_SECONDS - time.monotonic(), 0.0))
        claiming = time.monotonic() - began
        self.claimer.give_back_queued()
        for attempt in self.attempts.running():
            attempt.shutdown_signal.set()
        self._await_running(deadline)
        last = time.monotonic() + _LAST_WRITES_SECONDS - claiming
        for attempt in self.attempts.unsettled():
            self._release_unsettled(attempt)
        self._await(self._holds_nothing, last - 2.0)
        self.heartbeat.resigns = self._holds_nothing()
        self._stop_loops(last)
        self.pool.close()
        self.lifeline.database.retire()

    def _holds_nothing(self) -> bool:
        # What is settled and not yet handed to the recorder is still among the attempts.
        claims = self.claimer.alive or self.attempts.claiming_since is not None
        return not claims and self.recorder.idle and not len(self.attempts)

    def _stop_loops(self, last: float) -> None:
        unfinished = self.supervisor.stop_all(max(last - 1.0 - time.monotonic(), 0.1))
        if not unfinished:
            return
        # What still waits for the database's answer is not worth more time.
        for storage in (self.lifeline, self._storage):
            storage.database.watchdog.cut_all()
        unfinished = self.supervisor.stop_all(max(last - 0.5 - time.monotonic(), 0.1))
        if unfinished:
            self.log.warning("shutdown: threads that have not ended: %s", ", ".join(unfinished))

    def _await_running(self, deadline: float | None) -> None:
        # Not only what runs: a worker may hold one that it has not begun.
        self._await(lambda: not self.attempts.unsettled(), deadline)

    def _await(self, condition: Callable[[], bool], deadline: float | None) -> None:
        while not condition():
            left = 0.05 if deadline is None else min(deadline - time.monotonic(), 0.05)
            if left <= 0:
                return
            self._ended.clear()
            self._ended.wait(left)

    def _release_unsettled(self, attempt: Attempt) -> None:
        if attempt.unqueue():
            self._give_back(attempt)
            return
        self.interrupter.stop_attempt(attempt, StopReason.SHUTDOWN)
        if attempt.settle():
            self.log.warning(
                "shutdown: %s: still running after the timeout; given back, to run again elsewhere from its beginning",
                attempt,
            )
            self.recorder.put(attempt, Outcome(release(started=True)))
