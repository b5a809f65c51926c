"""Fixtures for every test: fresh, empty databases on real servers.

Each pytest process (each xdist worker too) starts a server when a test first asks for it. A test may
kill the shared server: the next one that asks for a database starts it again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers import MariaDBServer, PostgresServer, Server

_SKIPPED = "no database server: "
_EVERYTHING = {"CI": {"1", "true", "yes"}, "FAULTS": {"full"}}
"""Variables of the environment, and values by which they say that nothing may be skipped."""


# servers


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[PostgresServer]:
    require(PostgresServer)
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def _mariadb_server() -> Iterator[MariaDBServer]:
    require(MariaDBServer)
    with MariaDBServer() as server:
        yield server


@pytest.fixture
def postgres_server(_postgres_server: PostgresServer) -> PostgresServer:
    """The PostgreSQL that this process shares, running, whatever the test before did to it."""
    _postgres_server.start()
    return _postgres_server


@pytest.fixture
def mariadb_server(_mariadb_server: MariaDBServer) -> MariaDBServer:
    """The MariaDB that this process shares, running, whatever the test before did to it."""
    _mariadb_server.start()
    return _mariadb_server


# databases


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The SQLAlchemy URL of a fresh, empty database; the test runs once on each kind."""
    fixtures = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "mariadb": "mariadb_url"}
    url: str = request.getfixturevalue(fixtures[request.param])
    return url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that doesn't exist yet."""
    return f"sqlite:///{tmp_path / 'durable.db'}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database."""
    yield from fresh_database(postgres_server)


@pytest.fixture
def mariadb_url(mariadb_server: MariaDBServer) -> Iterator[str]:
    """The URL of a fresh, empty MariaDB database."""
    yield from fresh_database(mariadb_server)


def fresh_database(server: Server) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.start()  # the test may have killed it
    server.drop_database(url)


# servers that are missing


def require(server: type[Server]) -> None:
    """Does without the calling test if there is no such server."""
    if not server.is_available():
        do_without(f"{server.name}: none found; {server.how_to_install}")


def do_without(what: str) -> NoReturn:
    """Skips the calling test, which needs what there isn't; fails it where all is to be tested."""
    everything = [name for name, yes in _EVERYTHING.items() if os.environ.get(name, "").lower() in yes]
    if everything:
        pytest.fail(f"{_SKIPPED}{what} ({everything[0]} is set, so that nothing is skipped)", pytrace=False)
    pytest.skip(f"{_SKIPPED}{what}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which databases the tests didn't see."""
    missing: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple) and _SKIPPED in report.longrepr[2]:
            missing[report.longrepr[2].partition(_SKIPPED)[2]] += 1
    if missing:
        terminalreporter.section("SKIPPED DATABASES", sep="!", red=True, bold=True)
        for reason, count in sorted(missing.items()):
            terminalreporter.line(f"SKIPPED DATABASES: {reason} ({count} tests)", red=True)
