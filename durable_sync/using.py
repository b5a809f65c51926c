"""Enqueueing inside the caller's own transaction."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection

from durable_sync.engine.interrupt import shielded
from durable_sync.errors import ConfigurationError
from durable_sync.handle import TaskHandle
from durable_sync.storage.records import NewExecution
from durable_sync.task import Task, TaskCall

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session

    from durable_sync.desk import Desk
    from durable_sync.storage.storage import Storage

__all__ = ["Commits", "TransactionalExecutor"]

P = ParamSpec("P")
R = TypeVar("R")


class Commits:
    """Calls `announce` when a transaction commits in which something was enqueued. For any thread."""

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._expected: weakref.WeakSet[Session | Connection] = weakref.WeakSet()
        # One object, by which SQLAlchemy knows the listener again.
        self._listener = self._committed

    def expect(self, transaction: Session | Connection) -> None:
        """Something was enqueued in the transaction that this session or connection is in."""
        # A connection's event fires just before the commit; whoever is woken looks more than once.
        name = "commit" if isinstance(transaction, Connection) else "after_commit"
        if not event.contains(transaction, name, self._listener):
            event.listen(transaction, name, self._listener)
        self._expected.add(transaction)

    def _committed(self, transaction: Session | Connection) -> None:
        # The release of a savepoint fires the event, too.
        if not isinstance(transaction, Connection) and transaction.in_nested_transaction():
            return
        if transaction in self._expected:
            self._expected.discard(transaction)
            self._announce()


class TransactionalExecutor:
    """What `executor.using(...)` returns. To be used on the thread that has the transaction.

    Until the transaction commits, handles raise ExecutionNotFoundError; if it rolls back, they go on doing so.
    """

    def __init__(
        self,
        desk: Desk,
        storage: Storage,
        rows: Callable[[Sequence[TaskCall[Any]]], list[NewExecution]],
        commits: Commits,
        transaction: Session | scoped_session[Any] | Connection,
    ) -> None:
        self._desk = desk
        self._storage = storage
        self._rows = rows
        self._commits = commits
        self._transaction = transaction
        self._open()

    def enqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Like `DurableExecutor.enqueue`, in the caller's transaction."""
        return self.enqueue_many([task.bind(*args, **kwargs)])[0]

    def enqueue_many(self, calls: Iterable[TaskCall[R]]) -> list[TaskHandle[R]]:
        """Like `DurableExecutor.enqueue_many`, in the caller's transaction."""
        made = list(calls)
        with shielded():
            session, connection = self._open()
            stored = self._storage.enqueue_within(connection, self._rows(made))
            self._commits.expect(session or connection)
        return [
            TaskHandle(self._desk, call.task, enqueued.execution_id, created=enqueued.created)
            for call, enqueued in zip(made, stored, strict=True)
        ]

    def _open(self) -> tuple[Session | None, Connection]:
        # Anew for each enqueue: a session has another connection in its next transaction.
        session, connection = _opened(self._transaction)
        _refuse_other_database(connection.engine.url, self._storage.database.url)
        return session, connection


def _opened(transaction: object) -> tuple[Session | None, Connection]:
    # A third of what the library's import would take, for those who use it anyway.
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(transaction, scoped_session):
        session = cast(Session, transaction())
        return session, session.connection()
    if isinstance(transaction, Session):
        return transaction, transaction.connection()
    if isinstance(transaction, Connection):
        return None, transaction
    raise ConfigurationError(f"using takes a SQLAlchemy Session, scoped_session or Connection, not {transaction!r}")


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _refuse_other_database(theirs: URL, ours: URL) -> None:
    same = theirs.get_backend_name() == ours.get_backend_name()
    if same and theirs.database and ours.database:
        same = theirs.database == ours.database or _same_file(Path(theirs.database), Path(ours.database))
    if not same:
        raise ConfigurationError(
            f"the transaction is on {theirs.render_as_string()}, the executor on {ours.render_as_string()}: "
            "an execution can only be enqueued in a transaction of its own database"
        )
