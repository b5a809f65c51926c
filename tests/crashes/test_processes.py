"""How processes end, orderly and not, and what becomes of threads that die or never stop."""

from __future__ import annotations

import logging
import signal
import threading
import time

import pytest
from sqlalchemy import create_engine, text

from durable_sync import DurableExecutor, ExecutionStatus
from durable_sync.engine import interrupter, supervisor
from tests.gates import PATIENCE, Gate
from tests.processes import Script
from tests.waiting import wait_until

QUICK = 8.0
"""Seconds: far below the lease of the scripts, far above what ending takes."""

PROGRAM = """
import os, sys, threading, time
from pathlib import Path
from durable_sync import DurableExecutor

url, go = sys.argv[1:]
executor = DurableExecutor(url, lease=60, max_workers=2)

@executor.task
def cooperative() -> str:
    while not Path(go).exists():
        time.sleep(0.01)
    return "done"

@executor.task
def blocked() -> None:
    print("blocked", flush=True)
    time.sleep(600)

def running(number):
    deadline = time.monotonic() + 10
    while len(executor.running_execution_ids) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    print("running", flush=True)
"""


def statuses(url: str) -> list[tuple[str, int]]:
    """(status, recoveries) of each execution."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT status, recoveries FROM durable_executions ORDER BY id")).all()
    engine.dispose()
    return [tuple(row) for row in found]


def hear(script: Script, line: str) -> None:
    assert script.hear() == line


# Ending


@pytest.mark.parametrize("task", ["cooperative", "blocked"])
def test_a_script_that_forgets_shutdown_gives_its_work_back(database_url: str, tmp_path, task: str) -> None:
    """It ends at its last line, cleanly and quickly, and what it ran and had claimed is ready for others at once."""
    source = PROGRAM + f"\nexecutor.start()\nexecutor.enqueue_many([{task}.bind() for _ in range(6)])\n"
    if task == "blocked":
        source = source.replace('    print("blocked", flush=True)\n', "")
    source += 'running(2)\nprint("bye", flush=True)\n'
    with Script(source, database_url, str(tmp_path / "go")) as script:
        hear(script, "running")
        hear(script, "bye")
        began = time.monotonic()
        assert script.wait() == 0
        assert time.monotonic() - began < QUICK
    assert statuses(database_url) == [("ready", 0)] * 6


def test_all_threads_are_daemons(database_url: str, tmp_path) -> None:
    """No thread of the library keeps a script alive."""
    source = PROGRAM + (
        "\nexecutor.start()\nexecutor.enqueue(cooperative)\nrunning(1)\n"
        "print([thread.name for thread in threading.enumerate() if not thread.daemon], flush=True)\n"
    )
    with Script(source, database_url, str(tmp_path / "go")) as script:
        hear(script, "running")
        hear(script, "['MainThread']")
        assert script.wait() == 0


SERVE = (
    PROGRAM
    + """
executor.enqueue_many([cooperative.bind(), cooperative.bind(), cooperative.bind()])
threading.Thread(target=running, args=(2,), daemon=True).start()
executor.run_until_signalled()
print("drained", flush=True)
"""
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(sqlite_url: str, tmp_path, number: signal.Signals) -> None:
    """A worker that is told to end lets what runs end and records it, starts nothing more, and exits with 0."""
    with Script(SERVE, sqlite_url, str(tmp_path / "go")) as script:
        hear(script, "running")
        script._process.send_signal(number)
        # It has seen the signal once it has stopped claiming: with room for two, the third is never taken.
        wait_until(lambda: statuses(sqlite_url).count(("ready", 0)) == 1, PATIENCE)
        assert script._process.poll() is None
        (tmp_path / "go").touch()
        hear(script, "drained")
        assert script.wait() == 0
    found = statuses(sqlite_url)
    assert found.count(("completed", 0)) >= 2
    assert found.count(("running", 0)) == 0


def test_the_second_signal_exits(sqlite_url: str, tmp_path) -> None:
    """A worker that is told twice ends at once, with the signal's status, and gives its work back."""
    with Script(SERVE, sqlite_url, str(tmp_path / "go")) as script:
        hear(script, "running")
        # Signals that arrive together are one, so the second is repeated until it has been heard.
        began = time.monotonic()

        def told_again() -> bool:
            script._process.send_signal(signal.SIGTERM)
            return script._process.poll() is not None

        wait_until(told_again, QUICK, interval=0.3)
        assert script.wait() in {128 + signal.SIGTERM, -signal.SIGTERM}
        assert time.monotonic() - began < QUICK
    assert statuses(sqlite_url) == [("ready", 0)] * 3


# Loops

LOOPS = ["record", "interrupt", "renew", "reap", "watch", "claim"]


def loop_named(executor: DurableExecutor, name: str):
    return next(loop for loop in executor._desk.background.supervisor._loops if loop.name == name)


def break_once(monkeypatch: pytest.MonkeyPatch, loop, error: BaseException) -> threading.Event:
    """The loop's next step raises."""
    broken = threading.Event()
    step = loop.step

    def fail_once() -> float:
        if not broken.is_set():
            broken.set()
            raise error
        return step()

    monkeypatch.setattr(loop, "step", fail_once)
    loop.wake()
    return broken


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_raises_goes_on(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """An error in a loop is logged, with the verb, and the same thread goes on working."""
    executor = DurableExecutor(sqlite_url, poll_interval=0.1)

    @executor.task(timeout=30)
    def run() -> int:
        return 1

    with caplog.at_level(logging.INFO, "durable_sync"), executor:
        loop = loop_named(executor, name)
        thread = loop._thread
        assert break_once(monkeypatch, loop, ValueError("a bug")).wait(PATIENCE)
        assert executor.enqueue(run).result(timeout=PATIENCE) == 1
        wait_until(lambda: f"{name}: works again" in caplog.text, PATIENCE)
        assert f"{name}: failed 1 time(s) in a row" in caplog.text
        assert "ValueError: a bug" in caplog.text
        assert loop._thread is thread
        assert loop.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_whose_thread_dies_is_started_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The supervisor sees a dead thread, says so, and starts another that does the work."""
    monkeypatch.setattr(supervisor, "_CHECK_SECONDS", 0.05)
    executor = DurableExecutor(sqlite_url, poll_interval=0.1)

    @executor.task(timeout=30)
    def run() -> int:
        return 1

    with caplog.at_level(logging.INFO, "durable_sync"), executor:
        loop = loop_named(executor, name)
        # Let the supervisor's first check, of a second ago, pass.
        executor._desk.background.supervisor.wake()
        thread = loop._thread
        assert break_once(monkeypatch, loop, SystemExit()).wait(PATIENCE)
        wait_until(lambda: loop.alive and loop._thread is not thread, PATIENCE)
        assert f"the thread of '{name}' has died" in caplog.text
        assert executor.enqueue(run).result(timeout=PATIENCE) == 1


# Threads that never stop


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_thread_that_never_stops_is_replaced(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """After the grace period another takes its place, its execution has ended, and its late outcome is refused."""
    monkeypatch.setattr(interrupter, "GRACE_SECONDS", 0.2)
    executor = DurableExecutor(database_url, max_workers=1, poll_interval=0.1)
    stuck = threading.Lock()
    stuck.acquire()
    gate = Gate()
    gate.open()

    @executor.task(timeout=0.2 if how == "timeout" else None)
    def never_stops() -> str:
        gate.pass_through()
        # A lock is waited for in C, where no exception arrives.
        with stuck:
            return "late"

    @executor.task
    def other() -> str:
        return "done"

    with caplog.at_level(logging.WARNING, "durable_sync"), executor:
        handle = executor.enqueue(never_stops)
        gate.wait_for_arrivals()
        others = [executor.enqueue(other) for _ in range(3)]
        if how == "cancel":
            assert handle.cancel()
        assert [waiting.result(timeout=PATIENCE) for waiting in others] == ["done"] * 3
        expected = ExecutionStatus.TIMED_OUT if how == "timeout" else ExecutionStatus.CANCELLED
        ended = handle.wait(timeout=PATIENCE)
        assert ended.status is expected
        assert "was given up on; another took its place" in caplog.text
        pool = executor._desk.background.pool
        assert pool.abandoned == 1
        stuck.release()
        wait_until(lambda: pool.abandoned == 0, PATIENCE)
        wait_until(lambda: not len(executor._desk.background.attempts), PATIENCE)
        assert handle.get_execution() == ended
        assert executor.enqueue(other).result(timeout=PATIENCE) == "done"


def test_too_many_lost_threads_are_not_replaced(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process does not fill up with lost threads: beyond a cap it runs fewer at once, and says so."""
    monkeypatch.setattr(interrupter, "GRACE_SECONDS", 0.1)
    executor = DurableExecutor(sqlite_url, max_workers=2, poll_interval=0.1)
    stuck = threading.Event()

    @executor.task(timeout=0.1)
    def never_stops() -> None:
        while True:
            try:
                stuck.wait()
                return
            except BaseException:
                continue

    with caplog.at_level(logging.WARNING, "durable_sync"), executor:
        for handle in executor.enqueue_many([never_stops.bind() for _ in range(4)]):
            assert handle.wait(timeout=PATIENCE).status is ExecutionStatus.TIMED_OUT
        wait_until(lambda: "too many are lost already" in caplog.text, PATIENCE)
        assert executor._desk.background.pool.abandoned <= 4
        stuck.set()
