"""The tasks that are measured, and executors that run them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.raw import BATCH, Raw
from durable_sync import DurableExecutor, Spawn, TaskCall, TaskHandle, TaskRegistry, wait

__all__ = [
    "RAW",
    "RAW_BATCHED",
    "RAW_SINGLE",
    "WORKERS",
    "against_raw",
    "end_to_end",
    "family",
    "make_executor",
    "nap",
    "registry",
    "ripened",
    "rows_of",
    "sleeper",
    "small",
    "stamped",
    "started",
]

WORKERS = 8
RAW_BATCHED, RAW_SINGLE = f"raw, batches of {BATCH}", "raw, one by one"
RAW = (RAW_BATCHED, RAW_SINGLE)
_FEWER = 20
"""So many times fewer rows are enough for what is measured one by one."""
_WARMING = 200
_PATIENCE = 300.0

registry = TaskRegistry()


@registry.task
def small(number: int) -> int:
    """As little work as there can be."""
    return number


@registry.task
def nap(seconds: float) -> None:
    """Work that waits for something else."""
    time.sleep(seconds)


@registry.task
def stamped(seconds: float) -> list[float]:
    """The same, with what it takes to judge it: process, thread, start and end by a clock that processes share."""
    began = time.monotonic()
    time.sleep(seconds)
    return [os.getpid(), threading.get_native_id(), began, time.monotonic()]


@registry.parent_task
def family(children: int) -> Spawn[int]:
    """A parent of as many small tasks."""
    return Spawn(children, (small.bind(number) for number in range(children)))


sleeper = registry.sleeping_task("sleeper")


def make_executor(url: str, prefix: str = "durable_", workers: int = WORKERS) -> DurableExecutor:
    """An executor of these tasks that has not been started, on tables under this prefix."""
    return DurableExecutor(url, tasks=registry, max_workers=workers, table_prefix=prefix)


def rows_of(prefix: str) -> str:
    """The table of executions under this prefix."""
    return f"{prefix}executions"


@contextmanager
def started(url: str, prefix: str = "durable_", workers: int = WORKERS) -> Iterator[DurableExecutor]:
    """A started executor that has run a few tasks."""
    with make_executor(url, prefix, workers) as executor:
        end_to_end(executor, _WARMING)
        yield executor


def end_to_end(executor: DurableExecutor, number: int) -> float:
    """Small tasks a second, from `enqueue_many` to the end of all as the caller sees it."""
    began = time.perf_counter()
    _await(executor.enqueue_many(small.bind(place) for place in range(number)))
    return number / (time.perf_counter() - began)


def ripened(executor: DurableExecutor, calls: Iterable[TaskCall[Any]]) -> float:
    """Tasks a second, from the start of an executor to the end of all, which were enqueued before."""
    handles = executor.enqueue_many(calls)
    began = time.perf_counter()
    with executor:
        _await(handles)
        return len(handles) / (time.perf_counter() - began)


def _await(handles: Sequence[TaskHandle[Any]]) -> None:
    pending = wait(handles, timeout=_PATIENCE).not_done
    if pending:
        left = sorted(handle.get_execution().status for handle in pending)
        raise RuntimeError(f"{len(pending)} of {len(handles)} tasks did not end in {_PATIENCE:g} s: {left[:10]}")


def against_raw(raw: Raw, number: int) -> dict[str, Callable[[], float]]:
    """Rows a second of the bare program, which does the same in one thread: in batches, and of fewer one by one."""
    few = number // _FEWER
    return {
        RAW_BATCHED: lambda: number / raw.end_to_end(number, BATCH),
        RAW_SINGLE: lambda: few / sum(raw.three_commits(few)),
    }
