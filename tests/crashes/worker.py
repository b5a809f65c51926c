"""The tasks and the main of worker processes that tests kill.

The tests import the tasks, and enqueue them. What each attempt does is appended to the file that HISTORY names
in the environment. The processes themselves come from `tests.crashes.nursery`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from durable_sync import DurableExecutor, TaskContext, TaskRegistry

registry = TaskRegistry()


def process_name() -> str:
    """Names this process, and no other ever."""
    return os.environ.get("WORKER", f"pid-{os.getpid()}")


def note(**entry: object) -> None:
    """Appends one line by one write, so that processes can't mix theirs."""
    descriptor = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(entry) + "\n").encode())
    finally:
        os.close(descriptor)


@contextmanager
def attempt_noted(ctx: TaskContext) -> Iterator[str]:
    """Notes the start of an attempt, and its end unless it raises; the value is the attempt's own id."""
    uid = uuid.uuid4().hex
    entry = {"execution_id": ctx.execution_id, "uid": uid}
    note(event="start", **entry, attempt=ctx.attempt, process=process_name(), at=time.monotonic())
    yield uid
    note(event="end", **entry, at=time.monotonic())


@registry.task(max_recoveries=20)
def work(ctx: TaskContext, seconds: float) -> str:
    with attempt_noted(ctx) as uid:
        time.sleep(seconds)
    return uid


@registry.task
def innocent(ctx: TaskContext, seconds: float) -> str:
    with attempt_noted(ctx) as uid:
        time.sleep(seconds)
    return uid


@registry.task
def poison(ctx: TaskContext) -> str:
    with attempt_noted(ctx):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@registry.task(max_recoveries=1)
def strong_poison(ctx: TaskContext) -> str:
    with attempt_noted(ctx):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@registry.task
def first_waits_for(ctx: TaskContext, path: str) -> str:
    """The first attempt waits until the file is there; later ones end at once."""
    with attempt_noted(ctx) as uid:
        while ctx.attempt == 0 and not Path(path).exists():
            time.sleep(0.01)
    return uid


def hold_heartbeat(gate: str) -> None:
    """Keeps the heartbeat from doing anything while the file `gate` is there."""
    from durable_sync.engine.heartbeat import Heartbeat

    step = Heartbeat.step

    def held(self: Heartbeat) -> float:
        return 0.02 if Path(gate).exists() else step(self)

    Heartbeat.step = held  # type: ignore[method-assign]


def end_with(parent: int) -> None:
    """Ends this process soon after its parent has ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """Works until it is told to end, or dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--queues")
    parser.add_argument("--heartbeat-gate")
    options = parser.parse_args(arguments)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    logging.basicConfig(filename=options.log, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    if options.heartbeat_gate:
        hold_heartbeat(options.heartbeat_gate)
    executor = DurableExecutor(
        options.url,
        tasks=registry,
        name=process_name(),
        lease=options.lease,
        max_workers=options.workers,
        queues=options.queues.split(",") if options.queues else None,
    )
    executor.run_until_signalled()
