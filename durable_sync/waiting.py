"""Waiting for many executions at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from durable_sync.clock import deadline_after
from durable_sync.engine.interrupt import shielded
from durable_sync.errors import ConfigurationError
from durable_sync.execution import ExecutionStatus
from durable_sync.handle import TaskHandle

if TYPE_CHECKING:
    from durable_sync.desk import Desk

__all__ = ["DoneAndNotDone", "as_completed", "wait"]

R = TypeVar("R")


class DoneAndNotDone(NamedTuple, Generic[R]):
    """What `wait` returns."""

    done: set[TaskHandle[R]]
    not_done: set[TaskHandle[R]]


def as_completed(handles: Iterable[TaskHandle[R]], timeout: float | timedelta | None = None) -> Iterator[TaskHandle[R]]:
    """Yields the handles as their executions finish; TimeoutError `timeout` seconds after the call."""
    waiting = set(handles)
    deadline = deadline_after(timeout)
    return _as_completed(waiting, deadline, timeout)


def _as_completed(
    waiting: set[TaskHandle[R]], deadline: float, timeout: float | timedelta | None
) -> Iterator[TaskHandle[R]]:
    total = len(waiting)
    with _Arrivals(waiting) as arrivals:
        while waiting:
            arrived = arrivals.next(deadline)
            if not arrived:
                raise TimeoutError(f"{len(waiting)} of {total} executions had not finished after {timeout} s")
            waiting.difference_update(arrived)
            yield from arrived


def wait(
    handles: Iterable[TaskHandle[R]], timeout: float | timedelta | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDone[R]:
    """Blocks until executions have finished, as `concurrent.futures.wait` does; no error when `timeout` has passed.

    `return_when`: "ALL_COMPLETED", "FIRST_COMPLETED", or "FIRST_EXCEPTION" (the first that did not complete).
    """
    if return_when not in {ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION}:
        raise ConfigurationError(
            f"return_when must be ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION, not {return_when!r}"
        )
    not_done = set(handles)
    done: set[TaskHandle[R]] = set()
    deadline = deadline_after(timeout)
    with _Arrivals(not_done, all_at_once=return_when == ALL_COMPLETED) as arrivals:
        while not_done:
            arrived = arrivals.next(deadline)
            if not arrived:
                break
            done.update(arrived)
            not_done.difference_update(arrived)
            if return_when == FIRST_COMPLETED or (return_when == FIRST_EXCEPTION and _any_failed(arrived)):
                break
    return DoneAndNotDone(done, not_done)


def _any_failed(handles: Iterable[TaskHandle[Any]]) -> bool:
    return any(handle.get_execution().status is not ExecutionStatus.COMPLETED for handle in handles)


class _Arrivals(Generic[R]):
    """The handles of a set as they finish. `all_at_once`: nobody is woken before all have."""

    def __init__(self, handles: Set[TaskHandle[R]], *, all_at_once: bool = False) -> None:
        self._by_id = {handle.execution_id: handle for handle in handles}
        self._desks: dict[Desk, list[str]] = {}
        for handle in handles:
            self._desks.setdefault(handle.desk, []).append(handle.execution_id)
        self._all_at_once = all_at_once
        self._missing = set(self._by_id)
        self._finished: deque[str] = deque()
        self._enough = threading.Event()

    def __enter__(self) -> _Arrivals[R]:
        for desk, ids in self._desks.items():
            desk.watch(ids, self._arrive)
            desk.attend()
            # The watch tells soon, but who comes with a timeout of zero wants to know now.
            for execution_id in desk.finished(ids):
                self._arrive(execution_id)
        return self

    def __exit__(self, *_details: object) -> None:
        for desk, ids in self._desks.items():
            desk.unwatch(ids, self._arrive)

    def _arrive(self, execution_id: str) -> None:
        """On any thread."""
        self._finished.append(execution_id)
        self._missing.discard(execution_id)
        if not self._all_at_once or not self._missing:
            self._enough.set()

    def next(self, deadline: float) -> list[TaskHandle[R]]:
        """The handles whose executions have finished since, at least one; none once the deadline has passed."""
        arrived: list[TaskHandle[R]] = []
        while True:
            self._enough.clear()
            while self._finished:
                handle = self._by_id.pop(self._finished.popleft(), None)
                if handle is not None:
                    arrived.append(handle)
            left = min(deadline - time.monotonic(), 3600.0)
            if not self._by_id or (arrived and not self._all_at_once) or left <= 0:
                return arrived
            self._block(left)

    def _block(self, timeout: float) -> None:
        """Until enough have finished; left early, by an exception, if the calling task is stopped."""
        with shielded(self._enough.set), ExitStack() as lent:
            for desk in self._desks:
                lent.enter_context(desk.waiting())
            self._enough.wait(timeout)
