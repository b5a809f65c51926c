"""The main of worker processes that run trees, and that can be held at a COMMIT until they are killed."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from durable_sync import DurableExecutor
from durable_sync.storage import recording
from durable_sync.storage.database import Database
from durable_sync.storage.statements import Fenced
from tests.crashes.tree_tasks import registry
from tests.crashes.worker import end_with, process_name


def hold(where: str) -> None:
    """Stops this process's recorder at the transaction that records a certain outcome.

    `where` is "before" or "after" (its COMMIT), the transition, the task, which of them in this process (1: the
    first), and a file that is made when it has come there, with colons between.
    """
    moment, transition, task, number, file = where.split(":", 4)
    seen = count(1)
    numbers: dict[tuple[str, int], int] = {}

    def is_it(outcome: Fenced) -> bool:
        if (outcome.transition.name, outcome.task_id) != (transition, task):
            return False
        if outcome.identity not in numbers:
            numbers[outcome.identity] = next(seen)
        return numbers[outcome.identity] == int(number)

    record, write_once = recording.record, Database._write_once
    arrived = threading.local()

    def stop() -> None:
        Path(file).touch()
        threading.Event().wait()

    def record_and_stop(*args: Any, **options: Any) -> Any:
        recorded = record(*args, **options)
        arrived.here = any(is_it(outcome) for outcome in args[2])
        if arrived.here and moment == "before":
            stop()
        return recorded

    def write_and_stop(*args: Any) -> Any:
        arrived.here = False
        result = write_once(*args)
        if arrived.here:
            stop()
        return result

    recording.record = record_and_stop
    Database._write_once = write_and_stop  # type: ignore[method-assign]


def main(arguments: Sequence[str]) -> None:
    """Works until it is told to end, or dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--lease", type=float, default=1.0)
    parser.add_argument("--hold")
    options = parser.parse_args(arguments)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    logging.basicConfig(filename=options.log, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    if options.hold:
        hold(options.hold)
    executor = DurableExecutor(
        options.url, tasks=registry, name=process_name(), lease=options.lease, max_workers=4, poll_interval=0.2
    )
    executor.run_until_signalled()
