"""What gunicorn serves in the laboratory: it enqueues, reads, and tells how its process lives."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from durable_sync import DurableExecutor, TaskCall
from tests.faults import history
from tests.faults.holdings import connections
from tests.faults.workload import family, plain, registry

__all__ = ["application"]

history.instrument(Path(os.environ["HISTORY"]), "web")
url = os.environ["DATABASE"]
executor = DurableExecutor(url, tasks=registry, name="web", max_workers=2, lease=5.0, poll_interval=0.2)
if os.environ["STARTS"] == "yes":
    executor.start()
else:
    # So that a fork finds connections here all the same.
    executor.migrate()

_inherited: list[str] = []


def _look_around() -> None:
    _inherited[:] = sorted(connections(os.getpid(), url))


# After the library's own, because it was imported first.
os.register_at_fork(after_in_child=_look_around)


def enqueue() -> list[str]:
    """Enqueues a little, and returns the ids."""
    calls: list[TaskCall[Any]] = [*[plain.bind(0.02)] * 3, family.bind(2, 0.01)]
    return [handle.execution_id for handle in executor.enqueue_many(calls)]


def wait(execution_id: str) -> str:
    """Waits for one, whichever process enqueued it; its status."""
    return str(executor.get_handle(plain, execution_id).wait(30).status.value)


def live() -> dict[str, list[str]]:
    """The library's threads that run here, and what of the database was open here right after the fork."""
    running = {entry.name for entry in Path("/proc/self/task").iterdir()}
    names = [thread.name for thread in threading.enumerate() if str(thread.native_id) in running]
    return {"threads": [name for name in names if name.startswith("durable_sync")], "inherited": _inherited}


_ROUTES: dict[str, Callable[..., object]] = {"/enqueue": enqueue, "/wait": wait}


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answers as JSON, and tells who does, and how he lives."""
    found = _ROUTES[environ["PATH_INFO"]](**dict(parse_qsl(environ["QUERY_STRING"])))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "life": live(), "answer": found}).encode()]
