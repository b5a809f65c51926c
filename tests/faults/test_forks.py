"""Processes that fork: each lives on threads and connections of its own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.conftest import do_without
from tests.faults.figures import LENIENCE, database_of, note, size
from tests.faults.holdings import IS_KNOWN, connections
from tests.faults.laboratory import Laboratory
from tests.faults.webserver import WORKERS, Gunicorn
from tests.processes import Script
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _holdings() -> None:
    if not IS_KNOWN:
        do_without("what a process has open: this system doesn't tell")


OWN_LOOPS = {"claim", "record", "renew", "reap", "interrupt", "supervise"}
"""The threads, by their verbs, of an executor that is started."""


@pytest.mark.parametrize(
    ("preloads", "starts"),
    [(False, True), (True, True), (True, False)],
    ids=["each-worker-starts", "started-before-the-fork", "none-starts"],
)
def test_gunicorn(database_url: str, tmp_path: Path, preloads: bool, starts: bool) -> None:
    """Each worker process has live threads, or none if it doesn't start any, and connections that nobody shares."""
    with (
        Laboratory(database_url, tmp_path, lease=2.0) as laboratory,
        Gunicorn(database_url, tmp_path, laboratory.history, preloads=preloads, starts=starts) as server,
    ):
        if not starts:
            laboratory.start()
        visit(server, laboratory)
        laboratory.settle(30.0)
        runs = Counter(start.execution_id for start in laboratory.account().history.starts)
        judge(server, laboratory, starts=starts)
        killed = server.kill_worker()
        wait_until(lambda: killed not in server.workers() and len(server.workers()) == WORKERS, 20, lambda: server.log)
        visit(server, laboratory)
        judge(server, laboratory, starts=starts)
        laboratory.settle(30.0)
        threads = min(len(server.lives[pid]["threads"]) for pid in server.workers())
        assert server.stop() == 0, server.log
        left = alive(laboratory)
        problems = laboratory.problems()
        executions = len(laboratory.account().rows)
        assert "Traceback" not in server.log, server.log
    note(
        f"gunicorn{'_preload' * preloads}{'' if starts else '_enqueues_only'}",
        database_of(database_url),
        workers=WORKERS,
        threads=threads,
        executions=executions,
        run_twice=sum(number > 1 for number in runs.values()),
        problems=len(problems),
    )
    assert problems == []
    assert set(runs.values()) == {1}
    # Each has given its lease back, but the one that had no time to.
    assert {pid for pid, name in left.items() if name == "web"} <= {killed}


def visit(server: Gunicorn, laboratory: Laboratory) -> None:
    """Has every worker process enqueue, and wait for what another may have enqueued."""

    def come(_number: int) -> None:
        ids = server.ask("enqueue")
        laboratory.enqueued += ids
        for name in ids[-2:]:
            server.ask("wait", execution_id=name)

    def all_have_answered() -> bool:
        with ThreadPoolExecutor(8) as guests:
            list(guests.map(come, range(size(full=80, short=8))))
        return {(what, pid) for what in ("enqueue", "wait") for pid in server.workers()} <= server.answered

    wait_until(all_have_answered, 60, lambda: f"not everybody answers: {server.answered}\n{server.log}")


def judge(server: Gunicorn, laboratory: Laboratory, *, starts: bool) -> None:
    """Looks at threads, leases, sockets and files."""
    lives = {pid: server.lives[pid] for pid in server.workers()}
    for life in lives.values():
        loops = {name.split("-")[1] for name in life["threads"]} & OWN_LOOPS
        assert loops == (OWN_LOOPS if starts else set()), life
        assert life["inherited"] == []
    if starts:
        assert lives.keys() <= alive(laboratory).keys()
    else:
        assert "web" not in alive(laboratory).values()
    assert shared([server.pid, *lives], laboratory.url) == set()
    assert all(connections(pid, laboratory.url) for pid in lives), "somebody has no connection at all"


def shared(pids: Iterable[int], url: str) -> set[str]:
    """The sockets to the database that two of these processes have open. Of files, only the processes know."""
    held = [connections(pid, url) for pid in pids]
    return {name for one, other in combinations(held, 2) for name in one & other if name.startswith("socket:")}


def alive(laboratory: Laboratory) -> dict[int, str]:
    """The names of living incarnations by their process ids."""
    with laboratory.engine.connect() as connection:
        rows = connection.execute(text("SELECT pid, name FROM durable_executors WHERE dead_at IS NULL"))
        return {row.pid: row.name for row in rows}


PARENT = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from durable_sync import DurableExecutor
from tests.faults.holdings import connections

url = sys.argv[1]
executor = DurableExecutor(url, name="forking", max_workers=2, poll_interval=0.2, lease=2)

@executor.task
def add(a: int, b: int) -> int:
    return a + b

def say(**said):
    print(json.dumps({"pid": os.getpid(), **said}), flush=True)
    # Until the test closes the pipe.
    sys.stdin.read()

executor.start()
assert executor.enqueue(add, 1, 2).result(20) == 3
inherited = {id(raw) for raw in executor._desk.storage.database.connections.raw_connections()}
done, tell = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        found = sorted(connections(os.getpid(), url))
        assert executor.enqueue(add, 2, 2).result(20) == 4
        os.write(tell, b".")
        say(inherited=found)
        os._exit(0)
assert executor.enqueue(add, 3, 3).result(20) == 6
for _ in range(3):
    assert os.read(done, 1)
held = executor.enqueue(add.options(delay=3600), 4, 4).execution_id
taken = []
while True:
    lent = executor._desk.storage.database.connections.take("hold", reads=False)
    # SQLite's are closed before the fork.
    if url.startswith("sqlite") or id(lent.raw) in inherited:
        break
    taken.append(lent)
connection = lent.connection
with connection.begin():
    connection.exec_driver_sql(f"UPDATE durable_executions SET priority = 7 WHERE id = '{held}'")
    say(held=held)
"""


def test_a_killed_parent(database_url: str) -> None:
    """Children have nothing of their parent's; when it is killed, the locks that it held are gone, though they live."""
    engine = create_engine(database_url, poolclass=NullPool)
    with Script(PARENT, database_url) as script:
        said = [json.loads(script.hear() or "{}") for _ in range(4)]
        parent = next(one for one in said if "held" in one)
        children = [one for one in said if "inherited" in one]
        assert len(children) == 3
        assert [one["inherited"] for one in children] == [[]] * 3
        assert shared([one["pid"] for one in said], database_url) == set()
        os.kill(parent["pid"], signal.SIGKILL)
        script.wait()
        died_at = time.monotonic()
        with engine.begin() as connection:
            connection.execute(
                text("UPDATE durable_executions SET priority = 8 WHERE id = :id"), {"id": parent["held"]}
            )
        freed = time.monotonic() - died_at
        assert all(Path(f"/proc/{one['pid']}").exists() for one in children)
    note("forks", database_of(database_url), children=len(children), locks_freed=round(freed, 2))
    assert freed < 3.0 + LENIENCE


HASTY = """
import json, os, sys, threading, time, warnings
warnings.simplefilter("ignore")
from durable_sync import DurableExecutor
from tests.faults.holdings import connections

url = sys.argv[1]
executor = DurableExecutor(url)
executor.migrate()
engine = executor._desk.storage.database.engine
engine.dispose()
connect, arrived = engine.dialect.connect, threading.Event()

def slow(*args, **kwargs):
    raw = connect(*args, **kwargs)
    arrived.set()
    time.sleep(0.3)  # as a server does that is asked for a password
    return raw

engine.dialect.connect = slow
threading.Thread(target=engine.connect).start()
arrived.wait()
if os.fork() == 0:
    print(json.dumps(sorted(connections(os.getpid(), url))), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("server", ["postgres_url", "mariadb_url"])
def test_a_fork_while_a_connection_is_opened(request: pytest.FixtureRequest, server: str) -> None:
    """The child doesn't inherit that either."""
    with Script(HASTY, request.getfixturevalue(server)) as script:
        assert json.loads(script.hear()) == []
        assert script.wait() == 0
