"""A clock that stands still until a test moves it."""

import threading
from datetime import UTC, datetime, timedelta

START = datetime(2030, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ManualClock:
    """For `DurableExecutor(clock=...)`; executors that share a database share one. For any thread."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> int:
        """Microseconds since the epoch, as the library asks for."""
        return (self.time - _EPOCH) // timedelta(microseconds=1)

    @property
    def time(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += timedelta(seconds=seconds)
