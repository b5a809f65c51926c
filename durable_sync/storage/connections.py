"""The library's own connections: opened, kept ready between two uses, counted for forks, closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from attrs import frozen
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from durable_sync.forks import ForkGate, OpenSocket
from durable_sync.storage.borrowing import Opener
from durable_sync.storage.dialects import Dialect
from durable_sync.storage.watchdog import Watchdog

__all__ = ["Connections", "Lent"]

_CONNECTING_SECONDS = 1.0
"""A fork waits this long for connections that are being opened: a server that is away must not hold it up."""
_VERB = "durable_sync_verb"


@frozen
class Lent:
    """A connection in use by one thread."""

    connection: Connection
    raw: Any
    """The driver's."""
    reads: bool
    in_autocommit: bool
    """What SQLAlchemy takes for its transaction is none, and needs no end."""
    options: Mapping[str, Any]
    info: dict[Any, Any]

    def name(self, verb: str) -> None:
        """Has its statements say what they are for."""
        self.info[_VERB] = verb


class Connections:
    """Those to one database, of two kinds: to write in transactions, and to read by. For any thread.

    Some of each kind are kept as they are, because a pool's checkout and return cost as much as a statement.
    A user's engine serves only to open connections: its pool is never drained by us, and its isolation level is not
    ours.
    """

    def __init__(
        self, source: URL | Engine, url: URL, dialect: Dialect, *, pool_size: int, busy_seconds: float, limit: float
    ) -> None:
        self.watchdog = Watchdog(limit, dialect.cut)
        self._dialect = dialect
        self._kept = (pool_size + 1) // 2
        self._most = pool_size * 4
        self._connecting = ForkGate()
        self._raw: dict[int, Any] = {}
        self._sockets: dict[int, OpenSocket] = {}
        self._unready = threading.local()
        self._retired = False
        self._ready: dict[bool, list[Lent]] = {True: [], False: []}
        self.engine = self._make_engine(source, url, pool_size, busy_seconds)
        self._reading = self.engine.execution_options(durable_sync_read=True)

    def _make_engine(self, source: URL | Engine, url: URL, pool_size: int, busy_seconds: float) -> Engine:
        options = self._dialect.engine_options()
        bounds = self._dialect.connect_args(url, self.watchdog.limit)
        if isinstance(source, Engine):
            opener = Opener(source, bounds, self.watchdog.meet)
            options["creator"] = lambda: self._opened(opener.open)
        else:
            options["connect_args"] = bounds
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=pool_size,
            max_overflow=self._most - pool_size,
            pool_timeout=10,
            # Every transaction is ended by whoever began it: one more ROLLBACK would be a round trip more.
            pool_reset_on_return=None,
            **options,
        )
        self._dialect.prepare(engine, busy_seconds=busy_seconds)
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "connect", self._made_ready)
        event.listen(engine, "close", self._closed)
        event.listen(engine, "close_detached", self._closed)
        event.listen(engine, "before_cursor_execute", _say_the_verb, retval=True)
        return engine

    def _connect(self, dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return self._opened(lambda: dialect.connect(*arguments, **options))

    def _opened(self, connect: Callable[[], Any]) -> Any:
        """A new driver's connection, which no fork can miss."""
        with self._connecting:
            raw = connect()
            self.watchdog.meet(raw)
            self._raw[id(raw)] = self._unready.raw = raw
            # Not every driver has one to tell of.
            with suppress(Exception):
                descriptor = self._dialect.descriptor(raw)
                if descriptor is not None:
                    self._sockets[id(raw)] = OpenSocket.of(descriptor)
            return raw

    @contextmanager
    def opening(self, verb: str) -> Generator[None]:
        """To be held while a connection is opened; lets go of one that is lost before it is ready for use."""
        self._unready.raw = None
        try:
            with self.watchdog.watching_new(verb):
                yield
        finally:
            # No event tells of the end of such a one.
            raw, self._unready.raw = self._unready.raw, None
            if raw is not None:
                self.forget(raw)
                with suppress(Exception):
                    raw.close()

    def detached(self, verb: str) -> Any:
        """A driver's connection for a thread that will wait on it, in no pool; for `drop`."""
        with self.opening(verb):
            fairy = self.engine.raw_connection()
        raw = fairy.dbapi_connection
        fairy.detach()
        assert raw is not None
        return raw

    @contextmanager
    def using(self, verb: str, raw: Any) -> Generator[None]:
        """Watches what is done on a detached connection; the driver's errors become SQLAlchemy's."""
        with self.watchdog.watching(verb, raw), self._translating():
            yield

    @contextmanager
    def _translating(self) -> Generator[None]:
        dialect = self.engine.dialect
        dbapi: Any = dialect.loaded_dbapi
        try:
            yield
        except dbapi.Error as error:
            raise DBAPIError.instance(None, None, error, dbapi.Error, dialect=dialect) from error

    def cut(self, raw: Any) -> None:
        """Frees who waits on a connection, from any thread. The connection is lost."""
        with suppress(Exception):
            self._dialect.cut(raw)

    def drop(self, raw: Any) -> None:
        """Frees who waits on a detached connection, and closes it."""
        self.cut(raw)
        with suppress(Exception):
            raw.close()
        self.forget(raw)

    def _made_ready(self, _raw: Any, _record: Any) -> None:
        self._unready.raw = None

    def _closed(self, raw: Any, _record: Any = None) -> None:
        self.forget(raw)

    def forget(self, raw: Any) -> None:
        """A driver's connection is closed."""
        self._raw.pop(id(raw), None)
        self._sockets.pop(id(raw), None)

    def take(self, verb: str, *, reads: bool) -> Lent:
        """A connection for this thread, watched until `give_back`."""
        try:
            lent = self._ready[reads].pop()
        except IndexError:
            lent = self._open(verb, reads)
        lent.name(verb)
        self.watchdog.watch(verb, lent.raw)
        return lent

    def _open(self, verb: str, reads: bool) -> Lent:
        with self.opening(verb):
            connection = (self._reading if reads else self.engine).connect()
        raw: Any = connection.connection.dbapi_connection
        in_autocommit = reads and self._dialect.reads_in_autocommit
        if in_autocommit:
            with self.watchdog.watching(verb, raw):
                self._set_autocommit(connection, raw)
        return Lent(connection, raw, reads, in_autocommit, connection.get_execution_options(), connection.info)

    def _set_autocommit(self, connection: Connection, raw: Any) -> None:
        """Not by SQLAlchemy's own option: the pool loses a place when what that undoes at the end fails."""
        try:
            with self._translating():
                self.engine.dialect.set_isolation_level(raw, "AUTOCOMMIT")
        except Exception:
            # It comes from the pool, and may have broken there.
            connection.invalidate()
            connection.close()
            raise

    def give_back(self, lent: Lent, *, broken: bool) -> None:
        """Keeps a connection for the next use, or closes it. Nobody knows in what state a broken one is."""
        connection = lent.connection
        try:
            if broken and not connection.invalidated:
                connection.invalidate()
            elif connection.in_transaction() and not lent.in_autocommit:
                connection.rollback()
        except BaseException as error:
            connection.invalidate()
            # Whoever used it has his answer, or an error of his own.
            if not isinstance(error, Exception):
                raise
        finally:
            # Before anybody else can take it, and have it watched for himself.
            self.watchdog.done(lent.raw)
            self._keep(lent)

    def _keep(self, lent: Lent) -> None:
        kept = self._ready[lent.reads]
        # What sets options of a connection, as looking for tables does, sets them for good.
        as_it_was = lent.connection.get_execution_options() is lent.options
        if lent.connection.invalidated or not as_it_was or len(kept) >= self._kept or self._is_exhausted():
            self._close(lent)
            return
        kept.append(lent)
        # Asked last: a retirement that came between would have missed it.
        if self._retired:
            self.close_ready()

    def _is_exhausted(self) -> bool:
        """True if somebody may be waiting for a connection of the other kind."""
        pool: Any = self.engine.pool
        return int(pool.checkedout()) >= self._most

    def _close(self, lent: Lent) -> None:
        connection = lent.connection
        if lent.in_autocommit and not connection.invalidated:
            try:
                with self.watchdog.watching("give back", lent.raw):
                    self.engine.dialect.reset_isolation_level(lent.raw)
            except Exception:
                # Broken since.
                connection.invalidate()
        if self._retired and not connection.invalidated:
            connection.detach()
        connection.close()

    @property
    def in_use(self) -> int:
        """How many a thread has taken and not given back, or listens on."""
        pool: Any = self.engine.pool
        return int(pool.checkedout()) - sum(len(kind) for kind in self._ready.values())

    def close_ready(self) -> None:
        """Closes what is kept: what happened to one connection may have happened to all."""
        for kind in self._ready.values():
            while kind:
                connection = kind.pop().connection
                # Not given back: that may set it right first, and on a dead one fail, with its place in the pool lost.
                with suppress(Exception):
                    connection.invalidate()
                with suppress(Exception):
                    connection.close()

    def rest(self) -> None:
        """Before a fork: has no connection half open, until `resume`."""
        # Last: what is waited for may have to connect.
        self._connecting.close(_CONNECTING_SECONDS)

    def resume(self) -> None:
        """Ends `rest`."""
        self._connecting.open()

    def close_idle(self) -> None:
        """Closes all that nobody uses."""
        self.close_ready()
        self.engine.dispose()

    def retire(self) -> None:
        """The same; those in use, and any opened from now on, are closed after their use."""
        self._retired = True
        self.close_idle()
        self.watchdog.rest()

    def disown(self) -> None:
        """In a forked child: lets go of the parent's sockets, which the server must see closed when the parent dies."""
        for inherited in list(self._sockets.values()):
            inherited.let_go()

    def raw_connections(self) -> list[Any]:
        """Every open driver connection: what a forked child must neither use nor close."""
        return list(self._raw.values())


def _say_the_verb(
    connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    verb = connection.info.get(_VERB)
    return (statement if verb is None else f"/* durable_sync {verb} */ {statement}"), parameters
