"""Log lines: under `durable_sync`, silent by default, with the ids that an operator needs."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
import tenacity

from durable_sync import DurableExecutor
from tests.behaviour.conftest import NewExecutor, fall_silent
from tests.gates import Gate
from tests.paths import one_database
from tests.processes import ROOT
from tests.waiting import wait_until

SOON = 10.0

pytestmark = one_database


def lines_about(caplog: pytest.LogCaptureFixture, execution_id: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if execution_id in record.getMessage()]


def test_a_failure_and_a_retry_name_task_and_execution(
    executor: DurableExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines about an attempt carry the task's id and the execution's, on loggers under `durable_sync`."""
    caplog.set_level(logging.INFO)

    @executor.task(
        id="billing.charge", retry=tenacity.Retrying(wait=tenacity.wait_fixed(0), stop=tenacity.stop_after_attempt(2))
    )
    def charge() -> None:
        raise LookupError("no such card")

    handle = executor.enqueue(charge)
    handle.wait(timeout=SOON)

    lines = lines_about(caplog, handle.execution_id)
    assert [line for line in lines if "retried" in line.getMessage()]
    assert [line for line in lines if "failed: LookupError: no such card" in line.getMessage()]
    assert all("billing.charge" in line.getMessage() for line in lines)
    assert all(line.name.startswith("durable_sync.") for line in lines)
    assert all(line.levelno < logging.WARNING for line in lines)


def test_a_fenced_outcome_is_a_warning_that_says_what_to_do(
    new_executor: NewExecutor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """An outcome that comes after the execution was recovered is refused with a warning about the lease."""
    gone, alive = new_executor(lease=1), new_executor(lease=1)

    task = gone.task(id="work")(lambda: gate.pass_through())
    alive.task(id="work")(lambda: None)
    gone.start()
    handle = gone.enqueue(task)
    gate.wait_for_arrivals()
    fall_silent(gone)
    alive.start()
    handle.wait(timeout=SOON)
    gate.open()

    def fenced() -> list[logging.LogRecord]:
        return [line for line in lines_about(caplog, handle.execution_id) if "fenced" in line.getMessage()]

    (line,) = wait_until(fenced)
    assert line.levelno == logging.WARNING
    assert "task work" in line.getMessage()
    assert "lengthen `lease`" in line.getMessage()


def test_a_late_outcome_of_cancelled_work_is_no_warning(
    executor: DurableExecutor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """What a cancelled function still returns is expected, so nothing is warned of."""
    caplog.set_level(logging.INFO)

    @executor.task
    def work() -> None:
        gate.pass_through()

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    handle.cancel()
    gate.open()
    lines = wait_until(lambda: lines_about(caplog, handle.execution_id))

    assert {line.levelno for line in lines} == {logging.INFO}


def test_work_that_a_shutdown_gives_back_is_warned_of(
    new_executor: NewExecutor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown that can't wait for a task says which, as a warning."""
    executor = new_executor()
    executor.start()

    @executor.task
    def work() -> None:
        gate.pass_through()

    handle = executor.enqueue(work)
    gate.wait_for_arrivals()
    executor.shutdown(timeout=0)

    (line,) = lines_about(caplog, handle.execution_id)
    assert line.levelno == logging.WARNING
    assert "given back" in line.getMessage()


def test_threads_are_named_after_their_verb(executor: DurableExecutor) -> None:
    """Every thread of an executor says what it does and whose it is."""
    names = {thread.name for thread in threading.enumerate() if thread.name.endswith("-tested")}

    verbs = {name.removeprefix("durable_sync-").removesuffix("-tested") for name in names}
    assert {"claim", "record", "renew", "reap", "interrupt", "supervise", "watch"} <= verbs
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("durable_sync-"))


def test_an_orderly_life_is_silent(new_executor: NewExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """Starting, running work and shutting down logs nothing that an operator must read."""
    with new_executor() as executor:

        @executor.task
        def work(number: int) -> int:
            return number

        assert list(executor.map(work, range(20))) == list(range(20))

    assert [line for line in caplog.records if line.levelno >= logging.INFO] == []


SILENT = """
import sys, threading
from durable_sync import DurableExecutor
executor = DurableExecutor(sys.argv[1])
@executor.task
def work() -> None:
    raise LookupError
started = threading.Event()
@executor.task
def stuck() -> None:
    started.set()
    threading.Event().wait(1)
with executor:
    executor.enqueue(work).wait(timeout=10)
    executor.enqueue(stuck)
    started.wait(10)
    executor.shutdown(timeout=0)
"""


def test_nothing_is_printed_without_a_handler(url: str) -> None:
    """A program that configures no logging gets no output from the library: the user decides."""
    done = subprocess.run([sys.executable, "-c", SILENT, url], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
