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

    def __init__(
        self, run: Callable[[Attempt], None], size: int, label: str, *, on_free: Callable[[], None] = lambda: None
    ) -> None:
        self.size = size
        """How many attempts may run at once."""
        self._run = run
        self._on_free = on_free
        self.log = logging.getLogger(__name__)
        self._label = label
        # None wakes an idle thread, to see whether it is still wanted.
        self._queue: SimpleQueue[Attempt | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._load = 0
        self._lent = 0
        self._lost = 0
        self._threads: set[threading.Thread] = set()
        self._abandoned: set[threading.Thread] = set()
        self._current: dict[threading.Thread, Attempt] = {}
        self._numbered = 0
        self._closed = False

    @property
    def room(self) -> int:
        """How many more attempts would start at once; negative while some wait."""
        return self.size + self._lent - self._load

    @property
    def has_queued(self) -> bool:
        """True while more are queued or running than there are threads."""
        return self._load > len(self._threads)

    @property
    def load(self) -> int:
        """How many attempts are queued or running."""
        return self._load

    @property
    def lent(self) -> int:
        """How many workers wait for other executions, and are made up for."""
        return self._lent

    @property
    def abandoned(self) -> int:
        """How many threads were given up on and have not ended."""
        return len(self._abandoned)

    def is_worker(self) -> bool:
        """True on a thread of this pool."""
        return threading.current_thread() in self._threads

    def submit(self, attempt: Attempt) -> None:
        """Queues an attempt; RuntimeError if there is no thread, and the system starts none, to run it."""
        with self._lock:
            self._add_load()
        self._queue.put(attempt)

    def reserve(self) -> bool:
        """Keeps a place for one attempt that would start at once; False if there is none."""
        with self._lock:
            if self._closed or self._load >= self.size + self._lent:
                return False
            try:
                self._add_load()
            except RuntimeError:
                return False
            return True

    def submit_reserved(self, attempt: Attempt) -> None:
        """Starts an attempt in the place that was kept for it."""
        self._queue.put(attempt)

    def unreserve(self) -> None:
        """Gives back the place."""
        with self._lock:
            self._load -= 1
        self._on_free()

    def _add_load(self) -> None:
        if len(self._threads) <= min(self._load, self.size + self._lent - 1):
            self._start_thread()
        self._load += 1

    def take_back(self) -> list[Attempt]:
        """Removes and returns what is queued and not started."""
        taken: list[Attempt] = []
        while True:
            try:
                attempt = self._queue.get_nowait()
            except Empty:
                return taken
            if attempt is not None:
                with self._lock:
                    self._load -= 1
                taken.append(attempt)

    @contextmanager
    def lend(self) -> Generator[None]:
        """Makes up for the calling worker thread while it waits for other work."""
        with self._lock:
            self._lent += 1
            # What is queued here already may be what it waits for.
            self._start_missing_thread()
        self._on_free()
        try:
            yield
        finally:
            with self._lock:
                self._lent -= 1
                superfluous = self._superfluous()
            if superfluous:
                self._queue.put(None)

    def abandon(self, attempt: Attempt) -> bool | None:
        """Gives up on the thread that runs the attempt, and replaces it.

        None if no thread is on it any more, or it was given up on before; False if too many are lost already, so
        that the pool shrinks until one of them ends.
        """
        with self._lock:
            thread = next((thread for thread, current in self._current.items() if current is attempt), None)
            if thread is None or thread in self._abandoned:
                return None
            self._threads.discard(thread)
            self._abandoned.add(thread)
            self._load -= 1
            replaced = len(self._abandoned) <= self.size
            if not replaced:
                self.size -= 1
                self._lost += 1
            else:
                self._start_missing_thread()
        self._on_free()
        return replaced

    def close(self) -> None:
        """Lets each thread end once it has nothing to run."""
        with self._lock:
            self._closed = True
            threads = len(self._threads)
        for _ in range(threads):
            self._queue.put(None)

    def _superfluous(self) -> bool:
        return self._closed or len(self._threads) > self.size + self._lent

    def _start_missing_thread(self) -> None:
        """One for what is queued, once there may be one more than there are."""
        if not self._closed and len(self._threads) < min(self._load, self.size + self._lent):
            self._start_thread()

    def _start_thread(self) -> None:
        """Starts one more. If the system has no more threads to give, those that there are must do."""
        self._numbered += 1
        thread = threading.Thread(
            target=self._work, name=f"durable_sync-run-{self._label}-{self._numbered}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise
            self.log.warning("run: no further worker thread can be started, %d must do: %s", len(self._threads), error)
        else:
            self._threads.add(thread)

    def _work(self) -> None:
        while True:
            attempt = self._queue.get()
            goes_on = self._still_wanted() if attempt is None else self._work_on(attempt)
            del attempt
            if not goes_on:
                return

    def _still_wanted(self) -> bool:
        with self._lock:
            if not self._superfluous():
                return True
            self._threads.discard(threading.current_thread())
            return False

    def _work_on(self, attempt: Attempt) -> bool:
        me = threading.current_thread()
        with self._lock:
            self._current[me] = attempt
        try:
            self._run(attempt)
        except Exception:
            self.log.exception("run: %s: a worker thread's error", attempt)
        with self._lock:
            del self._current[me]
            if me in self._abandoned:
                goes_on = self._come_back(me)
            else:
                self._load -= 1
                goes_on = self._closed or not self._superfluous()
                if not goes_on:
                    self._threads.discard(me)
        self._on_free()
        return goes_on

    def _come_back(self, me: threading.Thread) -> bool:
        """A thread that was given up on has ended its work: its place was taken, unless the pool had to shrink."""
        self._abandoned.discard(me)
        if self._lost == 0:
            return False
        self._lost -= 1
        self.size += 1
        self._threads.add(me)
        return True
