"""The library's own connections: transactions that are retried as a whole, each with a deadline."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from typing import Any, TypeVar

from attrs import frozen
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from durable_sync.errors import ConfigurationError, DurableError
from durable_sync.forks import ForkGate, OpenSocket
from durable_sync.storage.borrowing import Opener
from durable_sync.storage.dialects import (
    PORTABLE_OPTION,
    Dialect,
    Fault,
    dialect_for,
    require_driver,
    settled,
    with_driver,
)
from durable_sync.storage.watchdog import Watchdog

__all__ = ["Database", "Transaction"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CONTENTION_SECONDS = 2.0
"""Contention is retried this long even for an impatient caller: it passes by itself."""

_CONNECTING_SECONDS = 1.0
"""A fork waits this long for connections that are being opened: a server that is away must not hold it up."""


class _WriterBusyError(TimeoutError):
    """Another thread of this process, which has the turn to write, waits itself."""


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
        self._writer = threading.Lock()
        self._gate = ForkGate() if self.dialect.in_process else None
        self._connecting = ForkGate()
        self.watchdog = Watchdog(limit, self.dialect.cut)
        self._raw: dict[int, Any] = {}
        self._sockets: dict[int, OpenSocket] = {}
        self._retired = False
        self.engine = self._make_engine()
        options: dict[str, Any] = {"durable_sync_read": True}
        if self.dialect.autocommit_is_free and not self.dialect.single_writer:
            options["isolation_level"] = "AUTOCOMMIT"
        self._reading = self.engine.execution_options(**options)

    def sibling(self, *, pool_size: int, limit: float) -> Database:
        """The same database through another pool, taking turns with this one where writers must."""
        source = self.source if isinstance(self.source, Engine) else self.url
        made = Database(source, pool_size=pool_size, busy_seconds=self._busy_seconds, limit=limit)
        made._writer = self._writer
        return made

    def _make_engine(self) -> Engine:
        options = self.dialect.engine_options()
        bounds = self.dialect.connect_args(self.url, self.watchdog.limit)
        if isinstance(self.source, Engine):
            opener = Opener(self.source, bounds, self.watchdog.meet)
            options["creator"] = lambda: self._opened(opener.open)
        else:
            options["connect_args"] = bounds
        engine = create_engine(
            self.url,
            poolclass=QueuePool,
            pool_size=self._pool_size,
            max_overflow=self._pool_size * 3,
            pool_timeout=10,
            **options,
        )
        self.dialect.prepare(engine, busy_seconds=self._busy_seconds)
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "close", self._closed)
        event.listen(engine, "close_detached", self._closed)
        event.listen(engine, "before_cursor_execute", _name_the_verb, retval=True)
        return engine

    def _connect(self, dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return self._opened(lambda: dialect.connect(*arguments, **options))

    def _opened(self, connect: Callable[[], Any]) -> Any:
        """A new driver's connection, which no fork can miss."""
        with self._connecting:
            raw = connect()
            self.watchdog.meet(raw)
            self._raw[id(raw)] = raw
            # Not every driver has one to tell of.
            with suppress(Exception):
                descriptor = self.dialect.descriptor(raw)
                if descriptor is not None:
                    self._sockets[id(raw)] = OpenSocket.of(descriptor)
            return raw

    def _closed(self, raw: Any, _record: Any = None) -> None:
        self.forget(raw)

    def forget(self, raw: Any) -> None:
        """A driver's connection is closed."""
        self._raw.pop(id(raw), None)
        self._sockets.pop(id(raw), None)

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
        if not self._writer.acquire(timeout=self._busy_seconds):
            raise _WriterBusyError("this process's other threads have kept the database's write lock")
        try:
            return self._commit(verb, work, uncertain)
        finally:
            self._writer.release()

    def _commit(self, verb: str, work: Callable[[Transaction], T], uncertain: bool) -> T:
        with (
            self._connected(self.engine, verb) as connection,
            self.watchdog.watching(verb, connection.connection.dbapi_connection),
            connection.execution_options(durable_sync_verb=verb).begin(),
        ):
            return work(Transaction(connection, uncertain))

    def _read_once(self, verb: str, work: Callable[[Connection], T]) -> T:
        with (
            self._connected(self._reading, verb) as connection,
            self.watchdog.watching(verb, connection.connection.dbapi_connection),
        ):
            return work(connection.execution_options(durable_sync_verb=verb))

    @contextmanager
    def _connected(self, engine: Engine, verb: str) -> Generator[Connection]:
        with self.watchdog.watching_new(verb):
            opened = engine.connect()
        with opened as connection:
            try:
                yield connection
            finally:
                if self._retired and not connection.invalidated:
                    connection.detach()

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
            self.engine.dispose()
        # Last: what is waited for may have to connect.
        self._connecting.close(_CONNECTING_SECONDS)

    def resume(self) -> None:
        """Ends `rest`."""
        self._connecting.open()
        if self._gate is not None:
            self._gate.open()

    def retire(self) -> None:
        """Closes the pool's connections; those in use, and any opened from now on, are closed after their use."""
        self._retired = True
        self.engine.dispose()
        self.watchdog.rest()

    def disown(self) -> None:
        """In a forked child: lets go of the parent's sockets, which the server must see closed when the parent dies."""
        for inherited in list(self._sockets.values()):
            inherited.let_go()

    def raw_connections(self) -> list[Any]:
        """Every open driver connection: what a forked child must neither use nor close."""
        return list(self._raw.values())


def _name_the_verb(
    connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    verb = connection.get_execution_options().get("durable_sync_verb")
    return (statement if verb is None else f"/* durable_sync {verb} */ {statement}"), parameters


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
