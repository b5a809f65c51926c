"""Waiting for many executions at once."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from contextlib import ExitStack, suppress
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
            if arrived is None:
                raise TimeoutError(f"{len(waiting)} of {total} executions had not finished after {timeout} s")
            for handle in arrived & waiting:
                waiting.discard(handle)
                yield handle


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
    with _Arrivals(not_done) as arrivals:
        while not_done:
            arrived = arrivals.next(deadline)
            if arrived is None:
                break
            done |= arrived
            not_done -= arrived
            if return_when == FIRST_COMPLETED or (return_when == FIRST_EXCEPTION and _any_failed(arrived)):
                break
    return DoneAndNotDone(done, not_done)


def _any_failed(handles: Iterable[TaskHandle[Any]]) -> bool:
    return any(handle.get_execution().status is not ExecutionStatus.COMPLETED for handle in handles)


class _Arrivals(Generic[R]):
    """The handles of a set as they finish."""

    def __init__(self, handles: Iterable[TaskHandle[R]]) -> None:
        self._by_id: dict[str, set[TaskHandle[R]]] = {}
        self._desks: dict[Desk, list[str]] = {}
        for handle in handles:
            self._by_id.setdefault(handle.execution_id, set()).add(handle)
            self._desks.setdefault(handle.desk, []).append(handle.execution_id)
        self._finished: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> _Arrivals[R]:
        for desk, ids in self._desks.items():
            desk.watch(ids, self._finished.put)
            desk.attend()
            # The watch tells soon, but who comes with a timeout of zero wants to know now.
            for execution_id in desk.finished(ids):
                self._finished.put(execution_id)
        return self

    def __exit__(self, *_details: object) -> None:
        for desk, ids in self._desks.items():
            desk.unwatch(ids, self._finished.put)

    def next(self, deadline: float) -> set[TaskHandle[R]] | None:
        """The handles of one execution that has finished; None once the deadline has passed."""
        while True:
            left = min(max(deadline - time.monotonic(), 0.0), 3600.0)
            try:
                execution_id = self._get(left)
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return None
            else:
                if execution_id in self._by_id:
                    return self._by_id.pop(execution_id)

    def _get(self, timeout: float) -> str:
        """The next id; left early, by an exception, if the calling task is stopped."""
        if not self._finished.empty():
            with suppress(queue.Empty):
                return self._finished.get_nowait()
        with shielded(lambda: self._finished.put("")), ExitStack() as lent:
            for desk in self._desks:
                lent.enter_context(desk.waiting())
            return self._finished.get(timeout=timeout)
