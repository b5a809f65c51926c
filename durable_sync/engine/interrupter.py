"""Stops attempts: watches their timeouts, and escalates from a signal to giving up on the thread."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count

from durable_sync.engine.attempts import Attempt, StopReason
from durable_sync.engine.loop import Loop
from durable_sync.engine.pool import WorkerPool

__all__ = ["Interrupter"]

COOPERATION_SECONDS = 0.25
"""How long a function that takes `ctx` may look at its signal before an exception is raised in it."""
GRACE_SECONDS = 5.0
"""How long after that exception a thread is given up on."""
_CROWDED = 64
"""Entries after which those of attempts that have ended are cleared out."""


class Interrupter(Loop):
    """The order of things: signal, hooks, exception, give up. For any thread."""

    name = "interrupt"

    def __init__(self, label: str, pool: WorkerPool, *, given_up: Callable[[Attempt], None]) -> None:
        super().__init__(label)
        self._pool = pool
        self._given_up = given_up
        self._heap: list[tuple[float, int, Callable[[Attempt], None], Attempt]] = []
        self._heap_lock = threading.Lock()
        self._sequence = count()
        self._crowded = _CROWDED

    def watch(self, attempt: Attempt, timeout: float) -> None:
        """Stops the attempt `timeout` seconds after it was started, if it still runs."""
        self._at(attempt.started_at + timeout, self._time_out, attempt)

    def stop_attempt(self, attempt: Attempt, reason: StopReason) -> bool:
        """Begins to stop a running attempt, and returns at once; False if it was stopped already."""
        if attempt.is_settled or not attempt.give_reason(reason):
            return False
        attempt.cancel_signal.set()
        self._call_hooks(attempt)
        now = time.monotonic()
        # At a shutdown it has seen a signal for as long as was waited for it, and this loop is about to end.
        if attempt.task.takes_context and reason is not StopReason.SHUTDOWN:
            self._at(now + COOPERATION_SECONDS, self._raise_in, attempt)
        else:
            self._raise_in(attempt)
        return True

    def step(self) -> float:
        """Does what is due; sleeps until what is due next."""
        while True:
            with self._heap_lock:
                if not self._heap:
                    return float("inf")
                wait = self._heap[0][0] - time.monotonic()
                if wait > 0:
                    return wait
                _, _, action, attempt = heapq.heappop(self._heap)
            if not attempt.returned:
                action(attempt)

    def _at(self, when: float, action: Callable[[Attempt], None], attempt: Attempt) -> None:
        with self._heap_lock:
            if len(self._heap) > self._crowded:
                self._heap = [entry for entry in self._heap if not entry[3].returned]
                heapq.heapify(self._heap)
                self._crowded = max(_CROWDED, 2 * len(self._heap))
            heapq.heappush(self._heap, (when, next(self._sequence), action, attempt))
            first = self._heap[0][0] >= when
        if first:
            self.wake()

    def _time_out(self, attempt: Attempt) -> None:
        if attempt.is_running:
            self.stop_attempt(attempt, StopReason.TIMEOUT)

    def _raise_in(self, attempt: Attempt) -> None:
        attempt.interruptible.interrupt()
        self._at(time.monotonic() + GRACE_SECONDS, self._give_up, attempt)

    def _call_hooks(self, attempt: Attempt) -> None:
        if not attempt.has_hooks:
            return

        def complain(error: Exception) -> None:
            self.log.warning("interrupt: %s: an on_cancel callback raised %r", attempt, error)

        # On a thread of their own: a hook that blocks must not hold up other attempts' timeouts.
        hooks = threading.Thread(
            target=attempt.run_hooks,
            args=(complain,),
            name=f"durable_sync-interrupt-{attempt.claimed.execution_id}",
            daemon=True,
        )
        try:
            hooks.start()
        except RuntimeError:
            # The interpreter is ending, and starts no more threads.
            attempt.run_hooks(complain)

    def _give_up(self, attempt: Attempt) -> None:
        replaced = self._pool.abandon(attempt)
        if replaced is None:
            return
        self.log.warning(
            "interrupt: %s: its thread did not stop within %g s and was given up on; %s. Register an on_cancel "
            "callback that frees what it is blocked in",
            attempt,
            GRACE_SECONDS,
            self._told(replaced),
        )
        if attempt.settle():
            self._given_up(attempt)

    def _told(self, replaced: bool) -> str:
        """What the loss of a thread means for this process."""
        if replaced:
            return "another took its place"
        consequence = "now runs fewer at once" if self._pool.size else "runs nothing until one of them ends"
        return f"too many are lost already, so this process {consequence}"
