"""A place where a task stops until the test has seen it there."""

import threading

PATIENCE = 10.0


class Gate:
    """Who comes to it waits until it is opened. For any thread."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._arrivals = threading.Semaphore(0)

    def pass_through(self) -> None:
        """Called by the task."""
        self._arrivals.release()
        assert self._open.wait(PATIENCE), "the gate was never opened"

    def wait_for_arrivals(self, number: int = 1) -> None:
        """Returns once so many more have come than were waited for before."""
        for _ in range(number):
            assert self._arrivals.acquire(timeout=PATIENCE), "nobody came to the gate"

    def nobody_came(self) -> bool:
        """True if all who have come were waited for."""
        if not self._arrivals.acquire(blocking=False):
            return True
        self._arrivals.release()
        return False

    def open(self) -> None:
        self._open.set()
