"""The one base of all background loops: start, stop, wake, back-off."""

from __future__ import annotations

import logging
import random
import threading
from typing import ClassVar

__all__ = ["Loop"]

_FIRST_BACK_OFF = 0.05


class Loop:
    """A daemon thread that calls `step` again and again.

    `step` returns how many seconds later it wants to run next: 0 for at once, infinity for when it is woken. A
    step that raises is logged, and tried again after a back-off; the thread goes on. `start` and `stop` may
    be called from any thread and repeatedly; `stop` before `start` is legal, and complete on return.
    """

    name: ClassVar[str]
    """The verb, which also names the thread and the log lines."""
    longest_back_off: float = 2.0
    """Seconds."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failures = 0
        self.log = logging.getLogger(type(self).__module__)

    def step(self) -> float:
        """Does what there is to do; returns the seconds until it wants to run next."""
        raise NotImplementedError

    def end(self) -> None:
        """What the thread does last, once it was told to stop. Must not raise."""

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stopping.is_set()

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread, or one anew if the last has died."""
        with self._lock:
            if self.alive or self.stopping:
                return
            self._thread = threading.Thread(
                target=self._run, name=f"durable_sync-{self.name}-{self._label}", daemon=True
            )
            self._thread.start()

    def wake(self) -> None:
        """Has the next step run now."""
        # To ask costs a fifth of setting it, and each end of an attempt comes by here. If it is set, `step` has not
        # begun yet, and will see what the caller has done before: the interpreter's lock keeps that order.
        if not self._wake.is_set():
            self._wake.set()

    def request_stop(self) -> None:
        """Asks the thread to end after the present step; does not wait."""
        self._stopping.set()
        self._wake.set()

    def stop(self, timeout: float | None = None) -> bool:
        """Asks the thread to end and waits up to `timeout` seconds for it; True if it has ended."""
        self.request_stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return not self.alive

    def _run(self) -> None:
        while not self.stopping:
            self._wake.clear()
            delay = self._guarded_step()
            if delay > 0 and not self.stopping:
                self._wake.wait(None if delay == float("inf") else min(delay, threading.TIMEOUT_MAX))
        self.end()

    def _guarded_step(self) -> float:
        try:
            delay = self.step()
        except Exception as error:
            self._failures += 1
            delay = min(_FIRST_BACK_OFF * 2 ** min(self._failures - 1, 10), self.longest_back_off) * random.uniform(
                0.5, 1.0
            )
            self._complain(error, delay)
            # A back-off that any wake cuts short would be none.
            self._stopping.wait(delay)
            return 0.0
        if self._failures:
            self.log.info("%s: works again after %d failed tries", self.name, self._failures)
            self._failures = 0
        return delay

    def _complain(self, error: Exception, delay: float) -> None:
        if self._failures in {1, 10} or self._failures % 100 == 0:
            self.log.warning(
                "%s: failed %d time(s) in a row, trying again in %.2f s: %s: %s",
                self.name,
                self._failures,
                delay,
                type(error).__name__,
                error,
                exc_info=not _is_the_databases(error),
            )


def _is_the_databases(error: Exception) -> bool:
    return type(error).__module__.startswith("sqlalchemy")
