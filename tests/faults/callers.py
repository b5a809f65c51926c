"""Somebody who enqueues all the time, and remembers what was acknowledged to him: what a fault must not lose."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Self

from attrs import evolve

from durable_sync import DurableExecutor
from tests.faults.checker import Account
from tests.faults.workload import one_of_each, registry
from tests.waiting import wait_until

__all__ = ["Caller", "accounted", "unacknowledged"]


class Caller:
    """A thread that enqueues one call after another while the block lasts, whatever happens to the database."""

    def __init__(self, url: str, *, pause: float = 0.05, seconds: float = 0.02) -> None:
        self.acknowledged: list[str] = []
        """The ids of what `enqueue` has returned."""
        self.errors: list[Exception] = []
        """What it raised instead: whether anything was written then is unknown."""
        self.slowest = 0.0
        """Seconds that the slowest `enqueue` took to return."""
        self._executor = DurableExecutor(url, tasks=registry, name="caller")
        self._pause = pause
        self._calls = cycle(one_of_each(seconds))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._enqueue, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self.stop()
        self._executor.shutdown(timeout=0)

    def stop(self) -> None:
        """Ends it, after the call that is under way."""
        self._ending.set()
        # A call waits an outage out for ten seconds, and for an answer for thirty.
        self._thread.join(60)
        assert not self._thread.is_alive(), "enqueue neither returned nor raised"

    def go_on(self, acknowledged: int) -> None:
        """Waits until so many more have been acknowledged."""
        wanted = len(self.acknowledged) + acknowledged
        wait_until(lambda: len(self.acknowledged) >= wanted, 60, lambda: f"{acknowledged} acknowledged: {self.errors}")

    def _enqueue(self) -> None:
        while not self._ending.wait(self._pause):
            call: Any = next(self._calls)
            asked_at = time.monotonic()
            try:
                (handle,) = self._executor.enqueue_many([call])
            except Exception as error:
                self.errors.append(error)
            else:
                self.acknowledged.append(handle.execution_id)
                self.slowest = max(self.slowest, time.monotonic() - asked_at)


def accounted(account: Account, callers: Sequence[Caller]) -> Account:
    """The account, with what was acknowledged to these callers.

    As many roots that nobody was told of are theirs too as they met errors: a COMMIT may take effect, and its answer
    be lost.
    """
    enqueued = [*account.enqueued, *(name for caller in callers for name in caller.acknowledged)]
    return _with_untold(evolve(account, enqueued=enqueued), sum(len(caller.errors) for caller in callers))


def unacknowledged(account: Account) -> Account:
    """The account, with what processes enqueued that died before they could note it."""
    told = account.history.told
    return _with_untold(account, len(told.get("enqueueing", [])) - len(told.get("enqueued", [])))


def _with_untold(account: Account, most: int) -> Account:
    told = set(account.enqueued)
    untold = [row.id for row in account.rows if row.parent_id is None and row.id not in told]
    return evolve(account, enqueued=[*account.enqueued, *untold[:most]])
