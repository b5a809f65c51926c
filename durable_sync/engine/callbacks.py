"""Calls the functions that users gave to `add_done_callback`."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Callbacks"]


class Callbacks:
    """Calls one function after another, on a thread of their own that ends when there is nothing to call.

    Not on a loop's thread: what a user's function waits for may be what that loop is to do next. For any thread.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._thread: threading.Thread | None = None
        self.log = logging.getLogger(__name__)

    def call(self, execution_id: str, function: Callable[[], object]) -> None:
        """Has `function` called soon; what it raises is logged with the execution's id."""
        with self._lock:
            self._waiting.append((execution_id, function))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"durable_sync-call-{self._label}", daemon=True)
                self._thread.start()

    def finish(self, timeout: float) -> None:
        """Waits up to `timeout` seconds until all have been called, unless called by one of them."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                execution_id, function = self._waiting.popleft()
            try:
                function()
            except Exception:
                self.log.exception("call: execution %s: a done callback raised", execution_id)
