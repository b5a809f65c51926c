"""Shuts down the executors that a failed test leaves behind, before its database goes: others would suffer."""

from __future__ import annotations

import weakref

from durable_sync import DurableExecutor

_started: weakref.WeakSet[DurableExecutor] = weakref.WeakSet()
_start = DurableExecutor.start


def _start_and_remember(executor: DurableExecutor) -> None:
    _started.add(executor)
    _start(executor)


def watch() -> None:
    """Remembers from now on who was started."""
    DurableExecutor.start = _start_and_remember  # type: ignore[method-assign]


def shut_down() -> None:
    """Shuts down all that were started; those that are shut down already don't mind."""
    while _started:
        _started.pop().shutdown(timeout=0)
