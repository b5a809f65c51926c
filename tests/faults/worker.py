"""The main of the processes that the laboratory starts, stops and kills."""

from __future__ import annotations

import argparse
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from durable_sync import DurableExecutor
from durable_sync.engine import interrupter
from tests.faults import borrowers, clocks, history, mutants, scenario, stopping, sweep
from tests.faults.workload import plain, registry
from tests.waiting import wait_until

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Works until it is told to end, or dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--options", default="{}", help="of DurableExecutor, as JSON")
    parser.add_argument("--mutant", help="a way in which the library is broken")
    parser.add_argument("--spoil", help="PLACE:MODE:FILE, see tests.faults.sweep")
    parser.add_argument("--scenario", help="live through tests.faults.scenario, under this name, instead of serving")
    parser.add_argument("--clock-skew", type=float, default=0.0, help="seconds by which its wall clock is ahead")
    parser.add_argument("--clock-step", action="append", default=[], help="SECONDS:AFTER, see tests.faults.clocks")
    parser.add_argument("--clock-believed", action="store_true", help="the library goes by that wall clock")
    parser.add_argument("--stop-in-write", type=Path, help="FILE, see tests.faults.stopping")
    parser.add_argument("--engine", help="of create_engine, as JSON: the executor gets an engine, not a URL")
    parser.add_argument("--grace", type=float, help="seconds after which a thread that doesn't stop is given up on")
    parser.add_argument("--enqueues", type=int, default=0, help="so many executions, one by one, while it works")
    options = parser.parse_args(arguments)
    name = os.environ.get("WORKER", f"pid-{os.getpid()}")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    logging.basicConfig(filename=options.log, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    history.instrument(Path(os.environ["HISTORY"]), name)
    if options.mutant:
        mutants.apply(options.mutant)
    if options.spoil:
        place, mode, reached = options.spoil.split(":", 2)
        sweep.arrange(int(place), mode, reached)
    if options.clock_skew or options.clock_step:
        steps = [step.split(":") for step in options.clock_step]
        clocks.set_wrong(options.clock_skew, [(float(step), float(after)) for step, after in steps])
    if options.clock_believed:
        clocks.believe()
    if options.stop_in_write:
        stopping.arrange(options.stop_in_write)
    if options.grace is not None:
        interrupter.GRACE_SECONDS = options.grace
    database = borrowers.make_engine(options.url, options.engine) if options.engine else options.url
    tasks = [registry, borrowers.registry] if options.engine else registry
    executor = DurableExecutor(database, tasks=tasks, name=name, **json.loads(options.options))
    if options.enqueues:
        threading.Thread(target=_enqueue, args=(executor, options.enqueues), daemon=True).start()
    if options.scenario:
        scenario.live(executor, Path(os.environ["HISTORY"]), options.scenario)
    else:
        executor.run_until_signalled()


def _enqueue(executor: DurableExecutor, number: int) -> None:
    """Enqueues where the work is done, so that an execution may be claimed as it is enqueued; notes what it is told."""
    path = Path(os.environ["HISTORY"])
    wait_until(lambda: executor._desk.background, 20, "the executor is started")
    for _ in range(number):
        history.append(path, event="enqueueing", execution_id="")
        handle = executor.enqueue(plain, 0.02)
        history.append(path, event="enqueued", execution_id=handle.execution_id)
        # Or there would soon be more than there are free workers.
        handle.result(60)


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent has ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
