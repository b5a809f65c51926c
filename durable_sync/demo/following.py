"""Follows a run to its end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from durable_sync import DurableExecutor, ExecutionStatus, TaskHandle
from durable_sync.demo.finding import FoundFolder
from durable_sync.demo.report import Totals
from durable_sync.demo.screen import Bar
from durable_sync.demo.standing import Standing

__all__ = ["follow"]

PAUSE = 0.2
"""Seconds between two looks,"""
SHARE = 0.2
"""unless looking would take more than this share of the time, for a tree may be large,"""
LONGEST_PAUSE = 2.0
"""but no longer than this."""
IDLE = 0.5
"""Seconds without work here after which the bar says what it waits for."""
FEW = 50
"""How many executions to look at to find out."""


def follow(executor: DurableExecutor, handle: TaskHandle[Totals], folders: Sequence[FoundFolder], bar: Bar) -> None:
    """Block until the run has finished, here or in another process."""
    ended = threading.Event()
    handle.add_done_callback(lambda _handle: ended.set())
    done = 0
    busy = time.monotonic()
    while True:
        began = time.monotonic()
        busy = began if executor.running_execution_ids else busy
        try:
            standing = Standing.of(handle.tree(), folders)
            done = len(standing.done)
            bar.update(done, _note(executor, standing, is_idle=began - busy > IDLE))
            if standing.is_finished:
                return
        except SQLAlchemyError:
            bar.update(done, "the database does not answer; work goes on when it does")
        ended.wait(min(max(PAUSE, (time.monotonic() - began) / SHARE), LONGEST_PAUSE))


def _note(executor: DurableExecutor, standing: Standing, *, is_idle: bool) -> str:
    """What goes on, or why nothing does."""
    finalize = standing.finalize
    if finalize is not None and finalize.error is not None and not finalize.status.is_finished:
        return f"the report can't be written, and is tried again: {finalize.error.message}"
    left = standing.at_work
    if not is_idle or len(left) > FEW or any(node.status is not ExecutionStatus.RUNNING for node in left):
        return standing.latest
    held = [executor.get_execution(node.execution_id) for node in left]
    seconds = [_seconds_of_lease(execution.lease_expires_at) for execution in held if execution.lease_expires_at]
    if not seconds:
        return standing.latest
    return f"waiting for the lease of a process that was stopped, or still works: {max(seconds)} s"


def _seconds_of_lease(until: datetime) -> int:
    return max(0, math.ceil((until - datetime.now(UTC)).total_seconds()))
