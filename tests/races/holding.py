"""Ways to hold a race open: stop a thread at a certain point, see that another has come to one, lose an answer."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import pytest
from sqlalchemy import create_engine, event, text
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
from tests.waiting import wait_until

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


_TAKES_A_LOCK = re.compile(r"BEGIN IMMEDIATE|FOR UPDATE|^(/\*.*?\*/ )?(UPDATE|INSERT)")
TREE_LOCK = re.compile(r"SELECT durable_executions\.id\s+FROM durable_executions\s+WHERE .*FOR UPDATE", re.DOTALL)
"""The statement that locks trees, and no other."""


def held_before_lock(storage: Storage) -> Gate:
    """The first write of this storage waits at the gate when it is about to take its first lock."""
    gate = Gate()
    first = threading.Semaphore(1)

    def look(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if _TAKES_A_LOCK.search(statement) and first.acquire(blocking=False):
            gate.pass_through()

    event.listen(storage.database.engine, "before_cursor_execute", look)
    return gate


def held_before_commit(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> Gate:
    """The first write of this storage waits at the gate with all its work done and nothing committed."""
    gate = Gate()
    first = threading.Semaphore(1)
    commit = storage.database._commit

    def held(verb: str, work: Callable[[Any], Any], uncertain: bool) -> Any:
        def work_and_wait(transaction: Any) -> Any:
            result = work(transaction)
            if first.acquire(blocking=False):
                gate.pass_through()
            return result

        return commit(verb, work_and_wait, uncertain)

    monkeypatch.setattr(storage.database, "_commit", held)
    return gate


def after_each_commit(monkeypatch: pytest.MonkeyPatch, storage: Storage, look: Callable[[], None]) -> None:
    """Calls `look` when a COMMIT of this storage has returned, before anything else is done with it."""
    write_once = storage.database._write_once

    def write_and_look(verb: str, work: Callable[[Any], Any], uncertain: bool) -> Any:
        result = write_once(verb, work, uncertain)
        look()
        return result

    monkeypatch.setattr(storage.database, "_write_once", write_and_look)


class Blocked:
    """Shows that a storage's next transaction really waits for another's."""

    _WAITERS: ClassVar[dict[str, str]] = {
        "postgresql": (
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ),
        "mariadb": "SELECT trx_query FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    }

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._sent = sends(storage.database.engine, "BEGIN IMMEDIATE")
        self._begun = threading.Event()
        event.listen(storage.database.engine, "after_cursor_execute", lambda *_: self._begun.set())

    def wait(self) -> str:
        """Returns once it waits: the statement that is held up."""
        if self._storage.database.dialect.single_writer:
            wait_for(self._sent)
            assert not self._begun.is_set(), "two transactions write at once"
            return "BEGIN IMMEDIATE"
        url = self._storage.database.url
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        query = text(self._WAITERS["postgresql" if url.get_backend_name() == "postgresql" else "mariadb"])
        try:
            with engine.connect() as connection:
                waiting = wait_until(
                    lambda: connection.execute(query).scalars().all(),
                    PATIENCE,
                    "the second did not wait",
                    # Who asks InnoDB more often than ten times a second is told the same again and again.
                    interval=0.15,
                )
        finally:
            engine.dispose()
        assert len(waiting) == 1
        return str(waiting[0])


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


def _connection_lost() -> Exception:
    return OperationalError("COMMIT", {}, Exception("the connection was lost"), connection_invalidated=True)


class LostAnswers:
    """The connection is lost at the COMMIT of one verb: its answer never arrives, whether it took effect or not."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        verb: str,
        times: int = 1,
        *,
        takes_effect: bool = True,
        every_other: bool = False,
        error: Callable[[], Exception] = _connection_lost,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """`times`: so many tries in a row, or with `every_other` each time with one between them that is answered."""
        self.left = times
        self.seen_uncertain: list[bool] = []
        """For each try, whether it knew that an earlier one may have committed."""
        write_once = Database._write_once
        lost_last = False

        def commit_and_lose(database: Database, name: str, work: Any, uncertain: bool) -> Any:
            nonlocal lost_last
            if name != verb:
                return write_once(database, name, work, uncertain)
            self.seen_uncertain.append(uncertain)
            if self.left == 0 or (every_other and lost_last):
                lost_last = False
                return write_once(database, name, work, uncertain)
            self.left -= 1
            lost_last = True
            lost = error()

            def work_and_fail(transaction: Any) -> None:
                work(transaction)
                raise lost

            if takes_effect:
                write_once(database, name, work, uncertain)
            else:
                with suppress(type(lost)):
                    write_once(database, name, work_and_fail, uncertain)
            meanwhile()
            raise lost

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
