"""Ways to hold a race open: stop a thread at a certain point, see that another has come to one, lose an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from durable_sync.clock import Clock
from durable_sync.ids import new_id
from durable_sync.storage.database import Database
from durable_sync.storage.leases import Incarnation
from durable_sync.storage.records import ClaimedExecution, NewExecution
from durable_sync.storage.storage import Storage
from durable_sync.storage.tables import build_tables
from tests.gates import PATIENCE, Gate

T = TypeVar("T")

opened: list[Storage] = []
"""To be closed when the test has ended."""


def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
    """Runs it on a daemon thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def held_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Gate:
    """The first thread that has called `owner.name` waits at the gate before it returns."""
    return _held(monkeypatch, owner, name, before=False)


def held_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Gate:
    """The first thread that calls `owner.name` waits at the gate first."""
    return _held(monkeypatch, owner, name, before=True)


def _held(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, before: bool) -> Gate:
    gate = Gate()
    original = getattr(owner, name)
    first = threading.Semaphore(1)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        mine = first.acquire(blocking=False)
        if mine and before:
            gate.pass_through()
        result = original(*args, **kwargs)
        if mine and not before:
            gate.pass_through()
        return result

    monkeypatch.setattr(owner, name, wrapper)
    return gate


def sends(engine: Engine, fragment: str) -> threading.Event:
    """Is set once a statement that contains the fragment is on its way."""
    sent = threading.Event()

    def look(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if fragment in statement:
            sent.set()

    event.listen(engine, "before_cursor_execute", look)
    return sent


def wait_for(happened: threading.Event) -> None:
    assert happened.wait(PATIENCE), "it did not happen"


class LostAnswers:
    """The connection is lost at the COMMIT of one verb: its answer never arrives, whether it took effect or not."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        verb: str,
        times: int = 1,
        *,
        takes_effect: bool = True,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.left = times
        self.seen_uncertain: list[bool] = []
        """For each try, whether it knew that an earlier one may have committed."""
        write_once = Database._write_once

        def commit_and_lose(database: Database, name: str, work: Any, uncertain: bool) -> Any:
            if name != verb:
                return write_once(database, name, work, uncertain)
            self.seen_uncertain.append(uncertain)
            if self.left == 0:
                return write_once(database, name, work, uncertain)
            self.left -= 1
            if takes_effect:
                write_once(database, name, work, uncertain)
            meanwhile()
            raise OperationalError("COMMIT", {}, Exception("the connection was lost"), connection_invalidated=True)

        monkeypatch.setattr(Database, "_write_once", commit_and_lose)


def open_storage(url: str, clock: Clock | None = None) -> Storage:
    """The storage of one pretended process."""
    storage = Storage.open(url, build_tables(), clock, busy_seconds=8.0, max_payload_bytes=1_000_000)
    storage.migrate()
    opened.append(storage)
    return storage


def incarnation(executor_id: str, *, lease: float = 60.0) -> Incarnation:
    """Of a pretended process; `lease` in seconds."""
    return Incarnation(executor_id=executor_id, name=executor_id, hostname="h", pid=1, lease=round(lease * 1e6))


LAPSED = 0.000001
"""A lease that has ended as soon as it is written."""


def enqueue(storage: Storage, number: int = 1, *, task: str = "t", input: str = "{}", recoveries: int = 3) -> list[str]:
    """Stores executions; their ids."""
    rows = [
        NewExecution(
            execution_id=new_id(), task_id=task, input=input, queue="default", priority=0, max_recoveries=recoveries
        )
        for _ in range(number)
    ]
    return [stored.execution_id for stored in storage.enqueue(rows, patience=0)]


def claim(storage: Storage, ids: list[str], owner: str) -> list[ClaimedExecution]:
    """Claims them."""
    return storage.claim(ids, limit=len(ids), executor_id=owner)
