"""A database that stops answering without a word: the peer goes on acknowledging, or every packet vanishes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from itertools import count, product
from typing import Any

import pytest
from attrs import define, frozen
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor, TaskRegistry
from durable_sync.storage.database import Database
from durable_sync.storage.dialects.mysql import MySQL
from durable_sync.storage.watchdog import Watchdog
from tests.conftest import do_without
from tests.faults import audit
from tests.faults.cable import Cable
from tests.faults.figures import LENIENCE, database_of, note, size
from tests.faults.laboratory import offset_of
from tests.faults.proxy import Harm, Proxy, Unit
from tests.waiting import wait_until

LEASE = size(full=10.0, short=2.0)
LIMIT = size(full=30.0, short=2.0)
"""Seconds after which the watchdog cuts an operation; the heartbeat's are cut after half a lease."""
SLACK = 2.0
ABANDONED_SECONDS = 5.0
SHUTDOWN = 5.0
"""Seconds that a shutdown may take beyond its own timeout."""


@pytest.fixture(params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, empty database on a server."""
    url: str = request.getfixturevalue({"postgresql": "postgres_url", "mariadb": "mariadb_url"}[request.param])
    return url


class Stopwatch:
    """How long any thread has waited in an operation of the library, connecting included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._began: dict[int, float] = {}
        self._longest = 0.0
        self._numbers = count()
        monkeypatch.setattr(Watchdog, "watching_new", self._timed(Watchdog.watching_new))
        watch, done = Watchdog.watch, Watchdog.done

        def begin(watchdog: Watchdog, verb: str, raw: Any) -> None:
            self._began[id(raw)] = time.monotonic()
            watch(watchdog, verb, raw)

        def end(watchdog: Watchdog, raw: Any) -> None:
            done(watchdog, raw)
            self._note(id(raw))

        monkeypatch.setattr(Watchdog, "watch", begin)
        monkeypatch.setattr(Watchdog, "done", end)

    def _note(self, what: int) -> None:
        began = self._began.pop(what, None)
        if began is not None:
            self._longest = max(self._longest, time.monotonic() - began)

    def _timed(self, operation: Callable[..., AbstractContextManager[None]]) -> Any:
        @contextmanager
        def timed(*arguments: Any) -> Generator[None]:
            number = next(self._numbers)
            self._began[number] = time.monotonic()
            try:
                with operation(*arguments):
                    yield
            finally:
                self._note(number)

        return timed

    @property
    def longest(self) -> float:
        """Seconds, of what has ended and of what is still under way."""
        now = time.monotonic()
        return max([self._longest, *(now - began for began in list(self._began.values()))])


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    return Stopwatch(monkeypatch)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> float:
    """The watchdog's time, so that the test needn't wait for half a minute."""
    monkeypatch.setitem(Database.__init__.__kwdefaults__, "limit", LIMIT)
    return LIMIT


# --- the two kinds of holes -------------------------------------------------------------------------


@define
class Dropping:
    """A proxy at the far end of a cable."""

    proxy: Proxy
    cable: Cable

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def links(self) -> list[Any]:
        return self.proxy.links

    def inside(self) -> AbstractContextManager[None]:
        return self.cable.inside()

    def open_hole(self) -> None:
        self.cable.open_hole()

    def close_hole(self) -> None:
        self.cable.close_hole()


@contextmanager
def dropping(url: str) -> Generator[Dropping]:
    if not Cable.is_available():
        do_without("private networks: they need Linux, root and iproute2")
    with Cable() as cable, Proxy(url, listener=cable.listen()) as proxy:
        yield Dropping(proxy, cable)


KINDS: dict[str, Callable[[str], AbstractContextManager[Any]]] = {"acknowledges": Proxy, "drops": dropping}


# --- a run ------------------------------------------------------------------------------------------


class Run:
    """An executor behind the hole, and one beside it that enqueues for it."""

    def __init__(
        self, url: str, hole: Any, database: str | URL | Engine | None = None, *, lease: float = LEASE
    ) -> None:
        self.hole = hole
        self.engine = create_engine(url, poolclass=NullPool)
        self.starts: list[float] = []
        registry = TaskRegistry()

        @registry.task
        def work(seconds: float) -> None:
            self.starts.append(time.monotonic())
            time.sleep(seconds)

        self.work = work
        self.executor = DurableExecutor(database or hole.url, tasks=registry, name="behind", lease=lease, max_workers=4)
        self.client = DurableExecutor(url, tasks=registry)
        self.client.migrate()
        self.clock_offset = offset_of(self.engine)

    def __enter__(self) -> Run:
        with self.hole.inside():
            self.executor.start()
        return self

    def __exit__(self, *_details: object) -> None:
        with self.hole.inside():
            self.executor.shutdown(timeout=0)
        self.client.shutdown(timeout=0)
        self.engine.dispose()

    def enqueue(self, number: int, seconds: float) -> None:
        self.client.enqueue_many([self.work.bind(seconds) for _ in range(number)])

    def lease_end(self) -> float:
        """When the lease ends that the database knows of, in monotonic time."""
        query = text("SELECT max(lease_expires_at) FROM durable_executors WHERE name = 'behind'")
        with self.engine.connect() as connection:
            return (int(connection.execute(query).scalar_one()) - self.clock_offset) / 1e6


@frozen
class Findings:
    """What came of a fall into the hole. Durations are seconds."""

    late_starts: int
    """How often work was started past the end of the lease."""
    works_again: float
    """From the end of the hole to the next start of work."""
    left: int
    """How many executions have not finished in the end."""


def fall(run: Run, *, patience: float = 60.0) -> Findings:
    run.enqueue(size(full=3000, short=600), 0.01)
    wait_until(lambda: len(run.starts) > 50, 20, "work")
    run.hole.open_hole()
    began = time.monotonic()
    # What the database had been told before.
    ends = max(run.lease_end() for _ in range(3))
    # As long as the hole is: longer than the lease, and than anybody may take to notice.
    time.sleep(max(began + max(LIMIT, LEASE) + SLACK + 1.0 - time.monotonic(), 0.0))
    late = [at for at in run.starts if at > ends]
    run.enqueue(50, 0.01)
    closed = time.monotonic()
    run.hole.close_hole()
    while audit.unfinished(run.engine) and time.monotonic() < closed + patience:
        time.sleep(0.02)
    again = min((at for at in run.starts if at > closed), default=float("inf"))
    return Findings(len(late), again - closed, audit.unfinished(run.engine))


# --- the rows of the table --------------------------------------------------------------------------


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("limit")
def test_a_black_hole(server_url: str, kind: str, stopwatch: Stopwatch) -> None:
    """Who gets no answer notices it in time, starts nothing past its lease, and works again when there are answers."""
    with KINDS[kind](server_url) as hole, Run(server_url, hole) as run:
        found = fall(run)
    note(
        f"black hole that {kind}",
        database_of(server_url),
        limit=LIMIT,
        noticed=round(stopwatch.longest, 2),
        late_starts=found.late_starts,
        works_again=round(found.works_again, 2),
        left=found.left,
    )
    assert stopwatch.longest <= LIMIT + SLACK + LENIENCE
    assert found.late_starts == 0
    assert found.left == 0


def test_locks_of_the_vanished(server_url: str) -> None:
    """Who vanishes within a transaction leaves locks behind that the server knows nobody to have; others go on soon."""

    def judge(unit: Unit) -> Harm | None:
        return Harm.HOLE if unit.is_commit and unit.verb == "record" else None

    with Proxy(server_url, judge) as proxy, Run(server_url, proxy) as run:
        run.enqueue(20, 0.0)
        wait_until(lambda: proxy.harm[Harm.HOLE], 20, "a transaction in the hole")
        proxy.open_hole()
        run.client.start()
        started = time.monotonic()
        wait_until(lambda: not audit.unfinished(run.engine), 60, lambda: f"{audit.unfinished(run.engine)} are left")
        seconds = time.monotonic() - started
    note("locks of the vanished", database_of(server_url), seconds=round(seconds, 2))
    assert seconds <= LEASE + ABANDONED_SECONDS + SLACK + LENIENCE


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("limit")
def test_without_a_watchdog(server_url: str, stopwatch: Stopwatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the deadlines off, the same fall breaks the bar: it is they that keep it."""
    monkeypatch.setattr(Watchdog, "_cut_older_than", lambda _self, _limit: None)
    monkeypatch.setattr(MySQL, "connect_args", lambda _self, _url, _limit: {})
    with Proxy(server_url) as hole, Run(server_url, hole) as run:
        found = fall(run, patience=5.0)
        # Lets go of the threads that would hang for ever.
        hole.drop_links()
    assert stopwatch.longest > LIMIT + SLACK
    assert found.left > 0


SITUATIONS: dict[str, tuple[int, float, float]] = {
    "busy": (50, 3.0, 0.0),
    "streaming": (3000, 0.01, 0.0),
    "idle": (0, 0.0, 0.0),
    "long cut off": (3000, 0.01, 3.0),
}
"""How many tasks there are, their seconds, and for how long there has been no answer when the shutdown is asked."""


@pytest.mark.parametrize(
    ("kind", "situation"),
    size(full=list(product(KINDS, SITUATIONS)), short=[("acknowledges", "streaming"), ("drops", "busy")]),
)
def test_shutdown_in_a_hole(server_url: str, kind: str, situation: str) -> None:
    """A shutdown is over five seconds after its own timeout, though nothing that is asked is answered."""
    tasks, length, before = SITUATIONS[situation]
    timeout = 1.0
    with KINDS[kind](server_url) as hole, Run(server_url, hole) as run:
        run.enqueue(tasks, length)
        wait_until(lambda: len(run.starts) >= min(tasks, 4), 20, "work")
        hole.open_hole()
        # The age of the hole, not a wait for something.
        time.sleep(before)
        started = time.monotonic()
        with hole.inside():
            run.executor.shutdown(timeout=timeout)
        seconds = time.monotonic() - started
        hole.close_hole()
    note(
        f"shutdown in a hole that {kind}, {situation}",
        database_of(server_url),
        timeout=timeout,
        seconds=round(seconds, 2),
    )
    assert seconds <= SHUTDOWN + timeout + LENIENCE


def test_an_answer_after_the_lease(server_url: str) -> None:
    """A claim whose answer comes when its lease is over, and others have done the work, starts nothing."""

    def judge(unit: Unit) -> Harm | None:
        if unit.verb == "renew":
            return Harm.HOLE
        return Harm.HOLD_ANSWER if unit.is_commit and unit.verb == "claim" else None

    with Proxy(server_url) as proxy, Run(server_url, proxy) as run:
        proxy.judge = judge
        run.enqueue(1, 0.0)
        wait_until(lambda: proxy.harm[Harm.HOLD_ANSWER], 20, "a claim")
        run.client.start()
        wait_until(lambda: not audit.unfinished(run.engine), 60, "the recovery")
        done = len(run.starts)
        proxy.release()
        background = run.executor._desk.background
        wait_until(lambda: not background.attempts.claiming_since, 20, "the late claim")
        wait_until(lambda: not len(background.attempts), 20, "the end of what it claimed")
    note("answer after the lease", database_of(server_url), starts=len(run.starts))
    assert done == 1
    assert len(run.starts) == 1


PHASES: dict[str, Callable[[Unit], bool]] = {
    "greeting": lambda unit: unit.greets,
    "first statement": lambda unit: not unit.greets,
    "listening": lambda unit: (unit.query or "").startswith(("LISTEN", "/* durable_sync nap ")),
    "setting up": lambda unit: (unit.query or "").startswith("SET"),
}


@pytest.mark.parametrize("source", size(full=["url", "engine"], short=["engine"]))
@pytest.mark.parametrize("phase", PHASES)
def test_a_hole_on_the_way_in(
    server_url: str, phase: str, source: str, stopwatch: Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gets no answer while it connects notices that as well, whoever made the engine, and gets through later."""
    # Less than `start` waits for a database that is away.
    limit = 2.0
    monkeypatch.setitem(Database.__init__.__kwdefaults__, "limit", limit)
    falls = PHASES[phase]
    holes = size(full=3, short=1)
    with Proxy(server_url) as proxy:
        engine = create_engine(proxy.url) if source == "engine" else None
        run = Run(server_url, proxy, engine, lease=2 * limit)
        proxy.judge = lambda unit: Harm.HOLE if falls(unit) and proxy.harm[Harm.HOLE] < holes else None
        with run:
            run.enqueue(20, 0.0)
            wait_until(lambda: not audit.unfinished(run.engine), 60, lambda: f"{audit.unfinished(run.engine)} are left")
            wait_until(lambda: proxy.harm[Harm.HOLE] == holes, 60, lambda: f"{proxy.harm}")
        if engine is not None:
            engine.dispose()
    assert stopwatch.longest <= limit + SLACK + LENIENCE
