"""Fixtures for the behaviour suite: executors on real databases, ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from durable_sync import DurableExecutor
from tests.clocks import ManualClock
from tests.gates import Gate
from tests.paths import DATABASES

URLS = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "mariadb": "mariadb_url"}


class NewExecutor(Protocol):
    """Makes executors on the test's database, not started; keyword arguments are their options."""

    def __call__(self, **options: Any) -> DurableExecutor: ...


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str | Engine:
    """What to give to an executor for a fresh, empty database: a URL, or an engine on the portable path."""
    name, _, portable = request.param.partition("-")
    url: str = request.getfixturevalue(URLS[name])
    if not portable:
        return url
    return create_engine(url, poolclass=NullPool).execution_options(durable_sync_portable=True)


@pytest.fixture
def url(database: str | Engine) -> str:
    """The URL of the test's database."""
    return database.url.render_as_string(hide_password=False) if isinstance(database, Engine) else database


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The test's own way to its database, apart from the executors'."""
    made = create_engine(url, poolclass=NullPool)
    yield made
    made.dispose()


@pytest.fixture
def count_executions(engine: Engine) -> Callable[[], int]:
    """How many executions the database has."""

    def count() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM durable_executions")).scalar_one())

    return count


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate, open at last, so that nobody stays in it after the test."""
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still; give it to `new_executor`."""
    return ManualClock()


@pytest.fixture
def new_executor(database: str | Engine, gate: Gate) -> Iterator[NewExecutor]:
    """Makes executors that are shut down after the test."""
    made: list[DurableExecutor] = []

    def make(**options: Any) -> DurableExecutor:
        settings = {"max_workers": 4, "poll_interval": 0.05, "name": "tested", **options}
        executor = DurableExecutor(database, **settings)
        made.append(executor)
        return executor

    yield make
    gate.open()
    for executor in made:
        executor.shutdown(timeout=0)


def fall_silent(executor: DurableExecutor) -> None:
    """Stops an executor's heartbeat and its looking for work, as if its process were suspended but for its tasks."""
    background = executor._desk.background
    assert background is not None
    for loop in (background.supervisor, background.heartbeat, background.claimer):
        loop.stop()


@pytest.fixture
def executor(new_executor: NewExecutor) -> DurableExecutor:
    """An executor that runs; tasks may be added all the same."""
    made = new_executor()
    made.start()
    return made
