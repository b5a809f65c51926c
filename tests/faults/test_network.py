"""Connections to the database that break at the worst moment, and peers that never answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from durable_sync import DurableExecutor
from tests.faults.figures import database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.proxy import HARM_TO_COMMITS, Harm, Proxy, Unit
from tests.faults.workload import mixture, registry

SPARED = 4
"""COMMITs that come to no harm, for each that does."""


@pytest.fixture(params=["postgresql", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, empty database on a server."""
    url: str = request.getfixturevalue({"postgresql": "postgres_url", "mariadb": "mariadb_url"}[request.param])
    return url


def harm_to_commits() -> Callable[[Unit], Harm | None]:
    """Deals one in five COMMITs a harm, as from a shuffled pack in which each kind is once."""
    pack: list[Harm | None] = []

    def judge(unit: Unit) -> Harm | None:
        if not unit.is_commit:
            return None
        if not pack:
            pack.extend([*HARM_TO_COMMITS, *[None] * (SPARED * len(HARM_TO_COMMITS))])
            random.shuffle(pack)
        return pack.pop()

    return judge


def delay() -> float:
    """Seconds: the longest is longer than the lease."""
    return random.choice([0.02, 0.2, 0.2, 2.5])


def test_harmed_commits(server_url: str, tmp_path: Path) -> None:
    """One in five COMMITs is cut off, reset, half-closed or late, callers' too: nothing is lost, nothing ends twice."""
    calls = mixture(size(full=5_400, short=400), 0.02)
    with Laboratory(server_url, tmp_path) as laboratory, Proxy(server_url, harm_to_commits(), delay=delay) as proxy:
        for _ in range(size(full=4, short=3)):
            laboratory.start_with("--url", proxy.url)
        client = DurableExecutor(proxy.url, tasks=registry, name="client")
        for start in range(0, len(calls), 10):
            handles = client.enqueue_many(calls[start : start + 10])
            laboratory.enqueued += [handle.execution_id for handle in handles]
        seconds = laboratory.settle(size(full=600.0, short=60.0))
        client.shutdown(timeout=0)
        problems = laboratory.problems()
        account = laboratory.account()
    note(
        "harmed commits",
        database_of(server_url),
        roots=len(calls),
        executions=len(account.rows),
        commits=proxy.commits,
        harmed={harm.name.lower(): proxy.harm[harm] for harm in HARM_TO_COMMITS},
        recovered=sum(move.recovers for move in account.moves),
        seconds=round(seconds, 1),
        problems=len(problems),
    )
    assert problems == []
    assert all(proxy.harm[harm] for harm in HARM_TO_COMMITS)
