"""A TCP proxy in front of a database server that does harm: at each COMMIT, at a chosen statement, or to all at once.

It knows just enough of the two wire protocols to see where a statement begins and ends, and what it says. Connections
must be plain, not TLS. It runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import Enum, auto
from typing import Any, Self

from attrs import define, evolve, frozen
from sqlalchemy import make_url

__all__ = ["HARM_TO_COMMITS", "Harm", "Link", "Proxy", "Unit"]

_VERB = re.compile(r"/\* durable_sync (\w+) \*/")
_READ = 1 << 16


class Harm(Enum):
    """What can be done to a statement on its way to the server, or to its answer."""

    CUT_BEFORE = auto()
    """The connection is closed at both ends; the server never sees the statement."""
    CUT_AFTER = auto()
    """The server has done it; the connection is closed in place of the answer."""
    RESET_BEFORE = auto()
    """As CUT_BEFORE, by a reset."""
    RESET_AFTER = auto()
    """The statement is sent on and both ends are reset at once: the server may have done it or not."""
    HALF_CLOSE_CLIENT = auto()
    """The statement goes through; the client is told that nothing will ever come back."""
    HALF_CLOSE_SERVER = auto()
    """The statement goes through, and the answer; the server is told that nothing more will come."""
    DELAY = auto()
    """It arrives late, even if the client has given up meanwhile."""
    HOLE = auto()
    """It is acknowledged and goes nowhere, as all that follows on this connection. The server is told nothing."""
    HOLD_ANSWER = auto()
    """The server does it; the answer is kept back until `release`."""


HARM_TO_COMMITS = [
    Harm.CUT_BEFORE,
    Harm.CUT_AFTER,
    Harm.RESET_BEFORE,
    Harm.RESET_AFTER,
    Harm.HALF_CLOSE_CLIENT,
    Harm.HALF_CLOSE_SERVER,
    Harm.DELAY,
]


@frozen
class Unit:
    """What a client sends in one go, up to where it waits for an answer."""

    data: bytes
    query: str | None = None
    """The statement, if its text is there: what was prepared before is run without."""
    verb: str | None = None
    """What the library was about in the last statement of this connection that said so."""
    greets: bool = False
    """The connection is not yet made."""

    @property
    def is_commit(self) -> bool:
        return self.query == "COMMIT"


@define(eq=False)
class Link:
    """One connection of a client, and what became of it. Times are monotonic."""

    client: socket.socket
    server: socket.socket | None = None
    in_hole: bool = False
    swallowed_at: float | None = None
    """When the first bytes went into the hole, or would have come out of it."""
    ended_at: float | None = None
    """When the client closed its end, as far as the proxy can see."""
    loses_answer: bool = False
    holds_answer: bool = False
    held: bytes = b""
    answers: asyncio.Task[None] | None = None

    def unanswered(self, now: float) -> float:
        """Seconds for which the client has waited for an answer that never came, or had until it gave up."""
        return 0.0 if self.swallowed_at is None else (self.ended_at or now) - self.swallowed_at


class Proxy:
    """Listens on a free port of 127.0.0.1, or on `listener`, and passes on to the server of `url`.

    `judge` is asked about each unit, on the proxy's thread, and says what harm to do to it.
    """

    def __init__(
        self,
        url: str,
        judge: Callable[[Unit], Harm | None] = lambda _unit: None,
        *,
        delay: Callable[[], float] = lambda: 0.0,
        listener: socket.socket | None = None,
    ) -> None:
        self._url = make_url(url)
        self.judge = judge
        self.delay = delay
        """Seconds that DELAY takes."""
        self.commits = 0
        self.harm: Counter[Harm] = Counter()
        """How often it did what."""
        self.links: list[Link] = []
        """All there ever were."""
        self._in_hole = False
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """The database's URL, through this proxy."""
        host, port = self._listener.getsockname()
        return self._url.set(host=host, port=port).render_as_string(hide_password=False)

    def __enter__(self) -> Self:
        self._loop.call_soon(self._start, self._accept())
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._listener.close()

    def inside(self) -> AbstractContextManager[None]:
        """Where a thread has to live to reach it: anywhere."""
        return nullcontext()

    def open_hole(self) -> None:
        """From now on every connection, and every new one, is acknowledged and never answered."""
        self._run(self._set_hole(True))

    def close_hole(self) -> None:
        """New connections work again; those that fell into the hole stay there."""
        self._run(self._set_hole(False))

    def drop_links(self) -> None:
        """Ends every connection there is, also those in the hole."""
        self._run(self._drop_links())

    def release(self) -> None:
        """Lets all answers go that are held."""
        self._run(self._release())

    # --- on the thread of the proxy -------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self.links:
            _close(link.client)
            _close(link.server)

    async def _set_hole(self, is_open: bool) -> None:
        self._in_hole = is_open
        if is_open:
            for link in self.links:
                link.in_hole = True

    async def _drop_links(self) -> None:
        for link in self.links:
            with suppress(OSError):
                link.client.shutdown(socket.SHUT_RDWR)

    async def _release(self) -> None:
        for link in self.links:
            link.holds_answer = False
            if link.held and link.ended_at is None:
                with suppress(OSError):
                    await self._loop.sock_sendall(link.client, link.held)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, in_hole=self._in_hole)
            # Some clients wait for the server to speak first.
            link.swallowed_at = time.monotonic() if link.in_hole else None
            self.links.append(link)
            self._start(self._serve(link))

    async def _serve(self, link: Link) -> None:
        if not link.in_hole:
            link.server = socket.socket()
            link.server.setblocking(False)
            try:
                await self._loop.sock_connect(link.server, (self._url.host, self._url.port))
            except OSError:
                _close(link.client)
                return
            link.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.answers = self._start(self._pass_answers(link, link.server))
        await self._pass_units(link)
        link.ended_at = time.monotonic()
        # A socket that the loop still waits for must not be closed.
        if link.answers is not None:
            link.answers.cancel()
            await asyncio.gather(link.answers, return_exceptions=True)
        _close(link.client)
        # Who fell into a hole leaves a server that knows nothing of it, and holds whatever locks it holds.
        if not link.in_hole:
            _close(link.server)

    async def _pass_answers(self, link: Link, server: socket.socket) -> None:
        while True:
            try:
                data = await self._loop.sock_recv(server, _READ)
            except OSError:
                data = b""
            if link.in_hole:
                return
            if not data or link.loses_answer:
                _shut(link.client)
                return
            if link.holds_answer:
                link.held += data
                continue
            try:
                await self._loop.sock_sendall(link.client, data)
            except OSError:
                return

    async def _pass_units(self, link: Link) -> None:
        """Returns when the client has closed its end, or the connection is at its end for another reason."""
        units = _units_of_postgresql() if self._url.get_backend_name() == "postgresql" else _units_of_mysql()
        next(units)
        verb: str | None = None
        while True:
            try:
                data = await self._loop.sock_recv(link.client, _READ)
            except OSError:
                return
            if not data:
                return
            for unit in units.send(data):
                found = _VERB.match(unit.query or "")
                verb = found.group(1) if found else verb
                if not await self._pass(link, evolve(unit, verb=verb)):
                    return

    async def _pass(self, link: Link, unit: Unit) -> bool:
        """Passes one unit on, with or without harm; False if that ended the connection."""
        harm = None if link.in_hole else self.judge(unit)
        self.commits += unit.is_commit
        if harm is not None:
            self.harm[harm] += 1
        if link.in_hole or harm is Harm.HOLE:
            link.in_hole = True
            link.swallowed_at = link.swallowed_at or time.monotonic()
            return True
        if harm in {Harm.RESET_BEFORE, Harm.RESET_AFTER}:
            _make_reset(link.client, link.server)
        if harm in {Harm.CUT_BEFORE, Harm.RESET_BEFORE}:
            return False
        return await self._pass_on(link, unit, harm)

    async def _pass_on(self, link: Link, unit: Unit, harm: Harm | None) -> bool:
        assert link.server is not None
        if harm is Harm.DELAY:
            await asyncio.sleep(self.delay())
        link.loses_answer = harm is Harm.CUT_AFTER
        link.holds_answer = harm is Harm.HOLD_ANSWER
        try:
            await self._loop.sock_sendall(link.server, unit.data)
        except OSError:
            return False
        if harm is Harm.RESET_AFTER:
            return False
        if harm is Harm.HALF_CLOSE_CLIENT:
            _shut(link.client)
        if harm is Harm.HALF_CLOSE_SERVER:
            _shut(link.server)
        return True


def _make_reset(*ends: socket.socket | None) -> None:
    """Has the close of these be a reset."""
    for end in ends:
        if end is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shut(end: socket.socket) -> None:
    """Says that nothing more will come; still listens."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_WR)


def _close(end: socket.socket | None) -> None:
    if end is not None:
        with suppress(OSError):
            end.close()


# --- the protocols --------------------------------------------------------------------------------


def _units_of_postgresql() -> Generator[list[Unit], bytes]:
    """Takes what arrives from a client, returns what is complete of it."""
    pending = b""
    group, query = b"", None
    greeted = False
    units: list[Unit] = []
    while True:
        pending += yield units
        units = []
        while (frame := _frame_of_postgresql(pending, greeted)) is not None:
            pending = pending[len(frame) :]
            if not greeted:
                # Anything but the real greeting (protocol 3) is a question about encryption, or a cancel.
                greeted = frame[4:6] == b"\0\3"
                units.append(Unit(frame, greets=True))
                continue
            group += frame
            kind = frame[:1]
            if kind == b"Q":
                query = _text(frame[5:-1])
            elif kind == b"P":
                query = _text(frame[5:].split(b"\0", 2)[1])
            # Parse, bind, describe, execute and close wait for the sync, or a flush, that ends them.
            if kind not in b"PBDEC":
                units.append(Unit(group, query))
                group, query = b"", None


def _frame_of_postgresql(pending: bytes, greeted: bool) -> bytes | None:
    start = int(greeted)
    if len(pending) < start + 4:
        return None
    length = start + int.from_bytes(pending[start : start + 4])
    return None if len(pending) < length else pending[:length]


def _units_of_mysql() -> Generator[list[Unit], bytes]:
    """Takes what arrives from a client, returns what is complete of it."""
    pending = b""
    units: list[Unit] = []
    while True:
        pending += yield units
        units = []
        while len(pending) >= 4 and len(pending) >= (length := 4 + int.from_bytes(pending[:3], "little")):
            frame, pending = pending[:length], pending[length:]
            # A command has the number 0 and begins with its kind: 3 is a query.
            query = _text(frame[5:]) if frame[3:5] == b"\0\3" else None
            units.append(Unit(frame, query, greets=frame[3] != 0))


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
