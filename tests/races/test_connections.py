"""The library's own connections, as threads hand them on."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from durable_sync import DurableExecutor
from durable_sync.storage.connections import Connections, Lent
from durable_sync.storage.database import Database


def database_of(url: str) -> Database:
    executor = DurableExecutor(url)
    executor.migrate()
    return executor._desk.storage.database


def connections_of(url: str) -> Connections:
    return database_of(url).connections


def test_who_takes_a_connection_at_once_is_watched(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread does on a connection that is just being given back has its own deadline."""
    connections = connections_of(database_url)
    keep = Connections._keep
    taken: list[Lent] = []

    def keep_and_take(self: Connections, lent: Lent) -> None:
        keep(self, lent)
        taken.append(self.take("next", reads=False))

    first = connections.take("first", reads=False)
    monkeypatch.setattr(Connections, "_keep", keep_and_take)
    connections.give_back(first, broken=False)
    monkeypatch.undo()
    assert taken[0].raw is first.raw
    assert connections.watchdog._watched[id(first.raw)][1] == "next"
    connections.give_back(taken[0], broken=False)
    assert connections.watchdog._watched == {}
    connections.retire()


def test_none_is_kept_while_somebody_may_be_waiting(database_url: str) -> None:
    """With every place of the pool taken, what is given back is free for whoever wants the other kind."""
    connections = connections_of(database_url)
    connections.close_idle()
    writers = [connections.take("write", reads=False) for _ in range(connections._most)]
    connections.give_back(writers.pop(), broken=False)
    reader = connections.take("read", reads=True)
    for lent in [reader, *writers]:
        connections.give_back(lent, broken=False)
    assert connections.in_use == 0
    connections.retire()


def test_one_that_was_set_up_otherwise_is_not_kept(database_url: str) -> None:
    """Whatever sets options of a connection has set them for itself, and for nobody after it."""
    connections = connections_of(database_url)
    lent = connections.take("look", reads=False)
    lent.connection.execution_options(logging_token="mine")
    connections.give_back(lent, broken=False)
    options: Any = connections.take("next", reads=False).connection.get_execution_options()
    assert "logging_token" not in options
    connections.retire()


def test_one_of_the_pool_that_is_lost_is_an_outage_to_a_reader(database_url: str) -> None:
    """A connection of the pool that broke after its last use is told from an error of the reader's own."""
    database = database_of(database_url)
    connections = database.connections
    connections.close_idle()
    # More than are kept ready, so that some go back into the pool.
    for lent in [connections.take("write", reads=False) for _ in range(connections._kept + 2)]:
        connections.give_back(lent, broken=False)
    for raw in connections.raw_connections():
        database.dialect.cut(raw)
    assert database.read("look", lambda connection: connection.scalar(select(1)), patience=10.0) == 1
    connections.retire()


def test_one_that_breaks_as_it_is_given_back_takes_no_place(database_url: str) -> None:
    """A reader has its answer: that more connections than are kept were lost meanwhile is nothing to him."""
    database = database_of(database_url)
    connections = database.connections
    connections.close_idle()
    readers = [connections.take("look", reads=True) for _ in range(connections._kept + 2)]
    for lent in readers:
        lent.connection.scalar(select(1))
        database.dialect.cut(lent.raw)
    for lent in readers:
        connections.give_back(lent, broken=False)
    connections.close_ready()
    pool: Any = connections.engine.pool
    assert pool.checkedout() == 0
    connections.retire()
