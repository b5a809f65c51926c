"""Interleaving 10: a process that forks after the executor was started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import ROOT

PROGRAM = """
import os, sys, time
from contextlib import suppress
mode, ending, url = sys.argv[1:]
if mode == "without hooks":
    # As a server does that forks without running them.
    os.register_at_fork = lambda **hooks: None

from durable_sync import DurableExecutor

executor = DurableExecutor(url, name="forking", max_workers=2, poll_interval=0.2, lease=2)

@executor.task
def add(a: int, b: int) -> list[int]:
    return [a + b, os.getpid()]

def watches() -> int:
    # The one with which this lists them is gone by then.
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum("inotify" in link for link in links)

executor.start()
assert executor.enqueue(add, 1, 2).result(10) == [3, os.getpid()]
# SQLite's are closed before the fork: its locks belong to the process.
keeps = not url.startswith("sqlite")
before = [id(raw) for raw in executor._desk.storage.database.connections.raw_connections()]
assert before

inherited = executor._desk.storage
pid = os.fork()
if pid == 0:
    handles = [executor.enqueue(add, n, n) for n in range(20)]
    assert [handle.result(20)[0] for handle in handles] == [n + n for n in range(20)]
    assert executor._desk.storage is not inherited, "the child uses the parent's connections"
    deadline = time.monotonic() + 20
    while os.getpid() not in [executor.enqueue(add, 1, 1).result(20)[1] for _ in range(4)]:
        assert time.monotonic() < deadline, "the child runs nothing itself"
    assert watches() <= 1, "the child keeps the parent's"
    if ending == "exit":
        sys.exit(0)
    os._exit(0)
handles = [executor.enqueue(add, n, 1) for n in range(20)]
assert [handle.result(20)[0] for handle in handles] == [n + 1 for n in range(20)]
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
# The child has gone, and has taken no connection of ours with it.
after = [id(raw) for raw in executor._desk.storage.database.connections.raw_connections()]
assert not keeps or set(before) <= set(after), "the parent lost a connection"
handles = [executor.enqueue(add, n, 2) for n in range(20)]
assert [handle.result(20) for handle in handles] == [[n + 2, os.getpid()] for n in range(20)]
executor.shutdown()
print("the parent is well")
"""


@pytest.mark.parametrize("mode", ["with hooks", "without hooks"])
@pytest.mark.parametrize("ending", ["exit", "_exit"])
def test_10_a_fork_after_start_works_in_parent_and_child(database_url: str, mode: str, ending: str) -> None:
    """Both go on working on connections of their own, however the child notices, and however it ends."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, mode, ending, database_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the parent is well" in done.stdout
    assert "Traceback" not in done.stderr
    assert "lost" not in done.stderr
