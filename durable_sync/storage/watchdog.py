"""Cuts operations that the database does not answer: drivers wait for ever behind a peer that only acknowledges."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

__all__ = ["Watchdog"]

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_IDLE_LOOKS = 10
"""The thread ends after so many looks that found nothing to watch."""


class Watchdog:
    """Watches operations of one database, on a thread of its own while there are any. For any thread."""

    def __init__(self, limit: float, cut: Callable[[Any], None]) -> None:
        self.limit = limit
        """Seconds that an operation may last."""
        self._cut = cut
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[float, str, Any]] = {}
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._making = threading.local()

    def watch(self, verb: str, raw: Any) -> None:
        """Cuts the driver's connection if it is not `done` in time; `verb` names the operation in the log."""
        self._watched[id(raw)] = (time.monotonic(), verb, raw)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._start()

    def done(self, raw: Any) -> None:
        """Ends `watch`."""
        self._watched.pop(id(raw), None)

    @contextmanager
    def watching(self, verb: str, raw: Any) -> Generator[None]:
        """Cuts the driver's connection if the block lasts too long."""
        self.watch(verb, raw)
        try:
            yield
        finally:
            self.done(raw)

    @contextmanager
    def watching_new(self, verb: str) -> Generator[None]:
        """Watches the connections that this thread makes in the block, from when it has met them until its end."""
        with ExitStack() as met:
            self._making.met, self._making.verb = met, verb
            try:
                yield
            finally:
                self._making.met = None

    def meet(self, raw: Any) -> None:
        """A connection has been made, and is about to be set up."""
        met: ExitStack | None = getattr(self._making, "met", None)
        if met is not None:
            met.enter_context(self.watching(self._making.verb, raw))

    def cut_all(self) -> None:
        """Cuts everything under way, now."""
        self._cut_older_than(0.0)

    def rest(self) -> None:
        """Ends the thread, until there is something to watch again."""
        self._ending.set()

    def _start(self) -> None:
        self._ending.clear()
        thread = threading.Thread(target=self._run, name="durable_sync-watchdog", daemon=True)
        # An interpreter that is ending starts no more threads.
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        idle = 0
        while True:
            ending = self._ending.wait(_LOOK_SECONDS)
            if ending and self._watched:
                # What is under way now is watched to its end.
                self._ending.clear()
            self._cut_older_than(self.limit)
            idle = 0 if self._watched else idle + 1
            with self._lock:
                if not (ending or idle > _IDLE_LOOKS):
                    continue
                # In this order: whoever begins to watch first tells what, and then looks for the thread.
                thread, self._thread = self._thread, None
                if not self._watched:
                    return
                self._thread = thread

    def _cut_older_than(self, limit: float) -> None:
        now = time.monotonic()
        for since, verb, raw in list(self._watched.values()):
            if now - since > limit:
                _log.warning("%s: the database has not answered for %.1f s; its connection is cut", verb, now - since)
                with suppress(Exception):
                    self._cut(raw)
