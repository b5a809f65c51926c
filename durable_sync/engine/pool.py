"""The worker threads. Our own, because an exception that lands in an idle thread must not break the next task."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from durable_sync.engine.attempts import Attempt

__all__ = ["WorkerPool"]


class WorkerPool:
    """Runs attempts on up to `size` daemon threads, in the order of submission. For any thread."""

    def __init__(self, run: Callable[[Attempt], None], size: int, label: str) -> None:
        self.size = size
        """How many attempts may run at once."""
        self._run = run
        self.log = logging.getLogger(__name__)
        self._label = label
        self._queue: SimpleQueue[Attempt | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._load = 0
        self._lent = 0
        self._surplus = 0
        self._threads: set[threading.Thread] = set()
        self._abandoned: set[threading.Thread] = set()
        self._current: dict[threading.Thread, Attempt] = {}
        self._numbered = 0

    @property
    def room(self) -> int:
        """How many more attempts would start at once; negative while some wait."""
        return self.size + self._lent - self._load

    @property
    def load(self) -> int:
        """How many attempts are queued or running."""
        return self._load

    @property
    def abandoned(self) -> int:
        """How many threads were given up on and have not ended."""
        return len(self._abandoned)

    def is_worker(self) -> bool:
        """True on a thread of this pool."""
        return threading.current_thread() in self._threads

    def submit(self, attempt: Attempt) -> None:
        """Queues an attempt."""
        with self._lock:
            self._load += 1
            if len(self._threads) < min(self._load, self.size + self._lent):
                self._start_thread()
        self._queue.put(attempt)

    def take_back(self) -> list[Attempt]:
        """Removes and returns what is queued and not started."""
        taken: list[Attempt] = []
        while True:
            try:
                attempt = self._queue.get_nowait()
            except Empty:
                return taken
            if attempt is None:
                # A thread that is to end will see the next one.
                with self._lock:
                    self._surplus += 1
                continue
            with self._lock:
                self._load -= 1
            taken.append(attempt)

    @contextmanager
    def lend(self) -> Generator[None]:
        """Makes up for the calling worker thread while it waits for other work."""
        with self._lock:
            self._lent += 1
        try:
            yield
        finally:
            with self._lock:
                self._lent -= 1
                ending = len(self._threads) > self.size + self._lent
            if ending:
                self._queue.put(None)

    def abandon(self, attempt: Attempt) -> bool | None:
        """Gives up on the thread that runs the attempt, and replaces it.

        None if no thread is on it any more; False if too many are lost already, so that the pool shrinks.
        """
        with self._lock:
            thread = next((thread for thread, current in self._current.items() if current is attempt), None)
            if thread is None:
                return None
            self._threads.discard(thread)
            self._abandoned.add(thread)
            self._load -= 1
            replaced = len(self._abandoned) <= self.size
            if not replaced:
                self.size = max(self.size - 1, 0)
            elif self._load > len(self._threads):
                self._start_thread()
            return replaced

    def close(self) -> None:
        """Lets each thread end once it has nothing to run."""
        with self._lock:
            threads = len(self._threads)
        for _ in range(threads):
            self._queue.put(None)

    def _start_thread(self) -> None:
        self._numbered += 1
        thread = threading.Thread(
            target=self._work, name=f"durable_sync-run-{self._label}-{self._numbered}", daemon=True
        )
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while (attempt := self._queue.get()) is not None:
            self._current[me] = attempt
            try:
                self._run(attempt)
            except Exception:
                self.log.exception("run: %s: a worker thread's error", attempt)
            del attempt
            with self._lock:
                del self._current[me]
                if me in self._abandoned:
                    # Its place was taken and its load was written off when it was given up on.
                    self._abandoned.discard(me)
                    return
                self._load -= 1
                if self._surplus and len(self._threads) > self.size + self._lent:
                    self._surplus -= 1
                    self._threads.discard(me)
                    return
        with self._lock:
            self._threads.discard(me)
