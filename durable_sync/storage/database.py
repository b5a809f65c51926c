"""Transactions that are retried as a whole, each with a deadline."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from typing import TypeVar

from attrs import frozen
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from durable_sync.errors import ConfigurationError, DurableError
from durable_sync.forks import ForkGate
from durable_sync.storage.connections import Connections
from durable_sync.storage.dialects import (
    PORTABLE_OPTION,
    Dialect,
    Fault,
    dialect_for,
    require_driver,
    settled,
    with_driver,
)

__all__ = ["Database", "Transaction", "UndoneError"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CONTENTION_SECONDS = 2.0
"""Contention is retried this long even for an impatient caller: it passes by itself."""


class UndoneError(Exception):
    """Raised by work that wants its transaction undone; nothing is wrong with the connection."""


class _WriterBusyError(TimeoutError):
    """Another thread of this process, which has the turn to write, waits itself."""


class _Writers:
    """The threads of this process that write, where they take turns."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.begun = 0
        self.commits = 0


@frozen
class Transaction:
    """One try at a transaction."""

    connection: Connection
    uncertain: bool
    """An earlier try at the same work may have committed: its COMMIT was never answered."""


class Database:
    """One database, through a pool of our own. Its methods may be called from any thread.

    A user's engine serves only to open connections: its pool is never drained by us, and its isolation
    level is not ours. `limit` is how many seconds one operation may last before its connection is cut.
    """

    def __init__(
        self, source: str | URL | Engine, *, pool_size: int = 5, busy_seconds: float = 5.0, limit: float = 30.0
    ) -> None:
        self.source = source
        self._pool_size = pool_size
        self._busy_seconds = busy_seconds
        self.url, portable = _checked(source)
        self.dialect: Dialect = dialect_for(self.url.get_backend_name(), portable=portable)
        problem = self.dialect.open_problem(self.url)
        if problem is not None:
            raise ConfigurationError(problem)
        self._writers = _Writers()
        self._gate = ForkGate() if self.dialect.in_process else None
        self.connections = Connections(
            source if isinstance(source, Engine) else self.url,
            self.url,
            self.dialect,
            pool_size=pool_size,
            busy_seconds=busy_seconds,
            limit=limit,
        )
        self.watchdog = self.connections.watchdog
        self.engine = self.connections.engine

    def sibling(self, *, pool_size: int, limit: float) -> Database:
        """The same database through another pool, taking turns with this one where writers must."""
        source = self.source if isinstance(self.source, Engine) else self.url
        made = Database(source, pool_size=pool_size, busy_seconds=self._busy_seconds, limit=limit)
        made._writers = self._writers
        return made

    @property
    def own_commits(self) -> tuple[int, int]:
        """How many transactions this and its siblings have begun, and committed; counted where writers take turns."""
        return self._writers.begun, self._writers.commits

    def transact(self, verb: str, work: Callable[[Transaction], T], *, patience: float = 0.0) -> T:
        """Runs `work` in a transaction and returns its result once COMMIT has returned.

        Contention and outages are retried as a whole for `patience` seconds, so `work` must be
        idempotent; the last error is raised. `verb` names the work in the SQL and in errors.
        """
        return self._retrying(verb, lambda uncertain: self._write_once(verb, work, uncertain), patience)

    def read(self, verb: str, work: Callable[[Connection], T], *, patience: float = 0.0) -> T:
        """Runs `work`, which only reads, and returns its result; retried like `transact`."""
        return self._retrying(verb, lambda _uncertain: self._read_once(verb, work), patience)

    def _write_once(self, verb: str, work: Callable[[Transaction], T], uncertain: bool) -> T:
        if not self.dialect.single_writer:
            return self._commit(verb, work, uncertain)
        if not self._writers.turn.acquire(timeout=self._busy_seconds):
            raise _WriterBusyError("this process's other threads have kept the database's write lock")
        try:
            # Counted before as well: others see what is written before it has been made durable.
            self._writers.begun += 1
            result = self._commit(verb, work, uncertain)
            self._writers.commits += 1
            return result
        finally:
            self._writers.turn.release()

    def _commit(self, verb: str, work: Callable[[Transaction], T], uncertain: bool) -> T:
        def in_transaction(connection: Connection) -> T:
            with connection.begin():
                return work(Transaction(connection, uncertain))

        return self._connected(verb, in_transaction, reads=False)

    def _read_once(self, verb: str, work: Callable[[Connection], T]) -> T:
        return self._connected(verb, work, reads=True)

    def _connected(self, verb: str, work: Callable[[Connection], T], *, reads: bool) -> T:
        """`work` on a connection, under the watchdog's eye."""
        lent = self.connections.take(verb, reads=reads)
        broken = True
        try:
            result = work(lent.connection)
            broken = False
            return result
        except Exception as error:
            # What isn't the database's doing may be the driver's, which has lost its way on this connection.
            broken = not isinstance(error, UndoneError) and self.dialect.fault(error) in {Fault.OUTAGE, None}
            raise
        finally:
            self.connections.give_back(lent, broken=broken)

    def _retrying(self, verb: str, attempt: Callable[[bool], T], patience: float) -> T:
        started = time.monotonic()
        uncertain = False
        for tries in count():
            try:
                with self._gate or nullcontext():
                    return attempt(uncertain)
            except Exception as error:
                fault = Fault.CONTENTION if isinstance(error, _WriterBusyError) else self.dialect.fault(error)
                if fault not in {Fault.CONTENTION, Fault.OUTAGE}:
                    raise
                contention = fault is Fault.CONTENTION
                if not contention:
                    self.connections.close_ready()
                uncertain = uncertain or not contention
                if time.monotonic() - started >= (max(patience, _CONTENTION_SECONDS) if contention else patience):
                    raise self._final(verb, error, contention) from error
                _log.debug("%s: %s; trying again", verb, fault.name.lower())
            ceiling = 0.1 if contention else 1.0
            time.sleep(min(0.002 * 2 ** min(tries, 10), ceiling) * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    def _final(self, verb: str, error: Exception, contention: bool) -> Exception:
        if not (contention and self.dialect.single_writer):
            return error
        return DurableError(
            f"{verb}: the database stayed locked by another transaction for {self._busy_seconds:g} s or more. "
            "If it is this thread's own session or connection that holds the lock, enqueue inside its "
            "transaction with executor.using(session)"
        )

    def rest(self) -> None:
        """Before a fork: waits for what must not be cut in two, closes what must not be inherited, until `resume`.

        SQLite forgets its locks on a file only once all connections to it are closed; with that memory a child would
        believe to hold locks that are its parent's.
        """
        if self._gate is not None and self._gate.close(self._busy_seconds + 1.0):
            self.connections.close_idle()
        self.connections.rest()

    def resume(self) -> None:
        """Ends `rest`."""
        self.connections.resume()
        if self._gate is not None:
            self._gate.open()

    def retire(self) -> None:
        """Closes connections; those in use, and any opened from now on, are closed after their use."""
        self.connections.retire()


def _checked(source: str | URL | Engine) -> tuple[URL, bool]:
    if isinstance(source, Engine):
        if source.dialect.is_async:
            raise ConfigurationError("durable_sync is synchronous: give it a plain Engine, not an async one's")
        return source.url, bool(source.get_execution_options().get(PORTABLE_OPTION))
    if not isinstance(source, str | URL):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"database must be a SQLAlchemy URL or Engine, not {source!r}")
    try:
        url = with_driver(make_url(source))
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            f"{source!r} is not a database URL, such as sqlite:///jobs.db or postgresql+psycopg://user@host/db: {error}"
        ) from error
    require_driver(url)
    if url.get_dialect().is_async:
        raise ConfigurationError(f"durable_sync is synchronous: {url.drivername!r} is an async driver")
    return settled(url), False
