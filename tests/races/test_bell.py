"""MariaDB as a bell: who naps is woken by who rings, by nobody else, and naps again whatever happened to him."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pymysql
import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor
from durable_sync.engine import bell, claimer
from durable_sync.storage.naps import Nap, ring
from durable_sync.storage.storage import Storage
from durable_sync.storage.tables import build_tables
from tests.gates import PATIENCE, Gate
from tests.races.holding import in_thread, open_storage, opened
from tests.waiting import wait_until

NAPS = "SELECT id FROM information_schema.processlist WHERE info LIKE '/* durable_sync nap %' AND db = DATABASE()"


@pytest.fixture
def storage(mariadb_url: str) -> Storage:
    return open_storage(mariadb_url)


@pytest.fixture
def engine(mariadb_url: str) -> Engine:
    """For a look from outside."""
    return create_engine(mariadb_url, poolclass=NullPool)


def nappers(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.execute(text(NAPS)).scalars())


def asleep(engine: Engine, nap: Nap) -> Future[bool]:
    """Who naps now, on a thread of his own."""
    before = len(nappers(engine))
    napping = in_thread(nap.sleep)
    wait_until(lambda: len(nappers(engine)) > before, PATIENCE)
    return napping


def test_all_who_nap_are_woken(storage: Storage, engine: Engine) -> None:
    naps = [Nap(storage), Nap(storage)]
    napping = [asleep(engine, nap) for nap in naps]
    ring(storage)
    assert [each.result(PATIENCE) for each in napping] == [True, True]
    for nap in naps:
        nap.close()


def test_others_sleep_on(storage: Storage, engine: Engine, mariadb_url: str) -> None:
    """Those on other tables, or in another database of the same server."""
    elsewhere = Storage.open(mariadb_url, build_tables("other_"), None, busy_seconds=8.0, max_payload_bytes=1_000_000)
    opened.append(elsewhere)
    nap = Nap(storage)
    napping = asleep(engine, nap)
    ring(elsewhere)
    with engine.begin() as connection:
        connection.execute(text("CREATE DATABASE IF NOT EXISTS test_of_bells"))
    another = open_storage(make_url(mariadb_url).set(database="test_of_bells").render_as_string(hide_password=False))
    ring(another)
    assert len(nappers(engine)) == 1
    assert not napping.done()
    ring(storage)
    assert napping.result(PATIENCE)
    nap.close()


def test_a_napper_who_leaves_before_he_is_woken(storage: Storage, engine: Engine) -> None:
    """The others are woken all the same, and who rings hears of no error."""
    leaves, stays = Nap(storage), Nap(storage)
    leaving, staying = asleep(engine, leaves), asleep(engine, stays)
    first = min(nappers(engine))

    def leave(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.endswith(f"KILL QUERY {first}"):
            with engine.connect() as outside:
                outside.execute(text(f"KILL CONNECTION {first}"))
            wait_until(lambda: not _is_connected(engine, first), PATIENCE)

    event.listen(storage.database.engine, "before_cursor_execute", leave)
    ring(storage)
    assert staying.result(PATIENCE)
    assert leaving.exception(PATIENCE) is not None
    for nap in (leaves, stays):
        nap.close()


def test_whoever_may_use_the_tables_may_ring(engine: Engine, mariadb_url: str) -> None:
    """A user without any privilege but those on his database wakes his own naps."""
    url = make_url(mariadb_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE OR REPLACE USER plain@127.0.0.1"))
        connection.execute(
            text(f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX ON {url.database}.* TO plain@127.0.0.1")
        )
    plain = open_storage(url.set(username="plain").render_as_string(hide_password=False))
    nap = Nap(plain)
    napping = asleep(engine, nap)
    ring(plain)
    assert napping.result(PATIENCE)
    nap.close()


def test_who_may_see_others_and_not_wake_them(storage: Storage, engine: Engine, mariadb_url: str) -> None:
    """A user with the privilege PROCESS sees everybody. It rings without an error, and its own are woken."""
    url = make_url(mariadb_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE OR REPLACE USER seer@127.0.0.1"))
        connection.execute(text(f"GRANT ALL ON {url.database}.* TO seer@127.0.0.1"))
        connection.execute(text("GRANT PROCESS ON *.* TO seer@127.0.0.1"))
    seer = open_storage(url.set(username="seer").render_as_string(hide_password=False))
    naps = [Nap(storage), Nap(seer)]
    theirs, own = [asleep(engine, nap) for nap in naps]
    ring(seer)
    assert own.result(PATIENCE)
    assert not theirs.done()
    ring(storage)
    assert theirs.result(PATIENCE)
    for nap in naps:
        nap.close()


def _is_connected(engine: Engine, number: int) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(text(f"SELECT count(*) FROM information_schema.processlist WHERE id = {number}")))


def test_a_nap_that_is_closed_ends(storage: Storage, engine: Engine) -> None:
    """At once, and not when it would have ended by itself: a shutdown waits for that."""
    nap = Nap(storage)
    nap._seconds = 2 * PATIENCE
    napping = asleep(engine, nap)
    nap.cut()
    assert napping.exception(PATIENCE) is not None
    nap.close()


def test_a_nap_ends_before_the_driver_loses_patience(mariadb_url: str) -> None:
    """A read_timeout in the user's URL makes naps shorter, and is no outage."""
    url = make_url(mariadb_url).update_query_dict({"read_timeout": "1"})
    nap = Nap(open_storage(url.render_as_string(hide_password=False)))
    assert nap.sleep() is False
    nap.close()


def test_a_server_that_ends_long_statements(storage: Storage) -> None:
    """Such a nap counts as one in which somebody rang."""
    nap = Nap(storage)
    with nap._raw.cursor() as cursor:
        cursor.execute("SET SESSION max_statement_time = 0.1")
    assert nap.sleep()
    nap.close()


def test_one_at_rest_hears_again_after_a_lost_connection(
    mariadb_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is an outage like any other: no poll is waited for once it is over."""
    monkeypatch.setattr(claimer, "_QUICKEST_POLL", 600.0)
    caller = DurableExecutor(mariadb_url, lease=600)
    worker = DurableExecutor(mariadb_url, lease=600, poll_interval=600)

    def double(number: int) -> int:
        return 2 * number

    work = caller.task(id="work")(double)
    worker.task(id="work")(double)
    worker.start()
    lost = wait_until(lambda: nappers(engine), PATIENCE)
    with engine.connect() as connection:
        connection.execute(text(f"KILL CONNECTION {lost[0]}"))
    wait_until(lambda: set(nappers(engine)) - set(lost), PATIENCE)
    assert caller.enqueue(work, 4).result(timeout=PATIENCE) == 8
    worker.shutdown()
    caller.shutdown()


def test_the_last_that_was_enqueued_is_rung_for(mariadb_url: str, storage: Storage, engine: Engine) -> None:
    """Though its process shuts down at once."""

    def work() -> None: ...

    nap = Nap(storage)
    for _ in range(5):
        napping = asleep(engine, nap)
        caller = DurableExecutor(mariadb_url)
        caller.enqueue(caller.task(work))
        caller.shutdown()
        assert napping.result(1.0)
    nap.close()


def test_a_ring_that_fails_is_tried_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    rings: list[Storage] = []

    def fails_first(rung: Storage) -> None:
        rings.append(rung)
        if len(rings) == 1:
            raise ConnectionError("away")

    monkeypatch.setattr(bell, "ring", fails_first)
    ringer = bell.Ringer("r", storage)
    ringer.start()
    ringer.ready()
    wait_until(lambda: len(rings) == 2, PATIENCE)
    assert ringer.stop(PATIENCE)
    assert len(rings) == 2


def test_nobody_is_woken_by_another_s_number(storage: Storage, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy has numbers of its own, and would take the server's for some of these: then nobody rings."""
    nap = Nap(storage)
    napping = asleep(engine, nap)
    with monkeypatch.context() as behind_a_proxy:
        behind_a_proxy.setattr(pymysql.Connection, "thread_id", lambda _self: 1_000_000)
        ring(storage)
    assert len(nappers(engine)) == 1
    ring(storage)
    assert napping.result(PATIENCE)
    nap.close()


def test_who_has_a_backlog_does_not_nap(mariadb_url: str, engine: Engine) -> None:
    """He would be woken by every ring, and has nobody free to work."""
    executor = DurableExecutor(mariadb_url, max_workers=1)
    gate = Gate()

    @executor.task
    def wait() -> None:
        gate.pass_through()

    executor.start()
    wait_until(lambda: nappers(engine), PATIENCE)
    handles = executor.enqueue_many([wait.bind(), wait.bind()])
    gate.wait_for_arrivals()
    background = executor._desk.background
    assert background is not None
    wait_until(lambda: background.claimer.backlog, PATIENCE)
    wait_until(lambda: not nappers(engine), 2 * PATIENCE)
    gate.open()
    for handle in handles:
        handle.result(timeout=PATIENCE)
    wait_until(lambda: nappers(engine), PATIENCE)
    executor.shutdown()
