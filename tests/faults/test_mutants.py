"""The checker catches each way of breaking the library: one that can't fail is worthless."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crashes.processes import Worker
from tests.faults.laboratory import Laboratory
from tests.faults.workload import mixture, stubborn
from tests.waiting import wait_until

Scenario = Callable[[str, Path, str | None], list[str]]


def storm(url: str, folder: Path, mutant: str | None) -> list[str]:
    """Processes are killed, and suspended beyond their lease, while they work."""
    suspended: list[Worker] = []
    with Laboratory(url, folder, mutant=mutant, lease=1.0) as laboratory:
        laboratory.enqueue(mixture(400, 0.02))
        for _ in range(3):
            laboratory.start()

        def disturb() -> None:
            while suspended:
                suspended.pop().send(signal.SIGCONT)
            stopped, killed = random.sample(laboratory.workers.all, 2)
            stopped.send(signal.SIGSTOP)
            suspended.append(stopped)
            killed.kill()
            laboratory.replace_dead()

        laboratory.run(every=1.6, disturb=disturb, deadline=6.0, patience=0.0)
        for worker in laboratory.workers.all:
            worker.send(signal.SIGCONT)
        laboratory.settle(60.0)
        return laboratory.problems()


def alone(url: str, folder: Path, mutant: str | None) -> list[str]:
    """The only process is suspended until its work is taken from it; then it claims that again, and ends it twice."""
    with Laboratory(url, folder, mutant=mutant, lease=1.0) as laboratory:
        laboratory.enqueue([stubborn.bind(4.0)])
        worker = laboratory.start()
        wait_until(lambda: laboratory.account().history.starts, 10, "the first attempt")
        worker.send(signal.SIGSTOP)
        storage = laboratory.executor._desk.storage
        wait_until(lambda: storage.reap(gave_up="{}").recovered, 10, "the recovery")
        worker.send(signal.SIGCONT)
        laboratory.settle(20.0)
        return laboratory.problems()


def calm(url: str, folder: Path, mutant: str | None) -> list[str]:
    """Nothing is done to the processes."""
    with Laboratory(url, folder, mutant=mutant, lease=1.0) as laboratory:
        laboratory.enqueue(mixture(160, 0.01))
        for _ in range(2):
            laboratory.start()
        # What that mutant has lost stays lost.
        laboratory.settle(10.0 if mutant == "no_comparison" else 60.0)
        return laboratory.problems()


MUTANTS: list[tuple[str, Scenario, str]] = [
    ("no_fence", alone, "stale"),
    ("fence_by_owner", alone, "stale"),
    ("claim_without_guard", storm, "was claimed while it was"),
    ("child_counted_twice", calm, "before its child"),
    ("leases_in_local_time", calm, "before its lease ended"),
    ("dead_renewed", alone, "came to life again"),
    ("no_comparison", calm, "it has not finished"),
]


@pytest.mark.parametrize(("mutant", "scenario", "words"), MUTANTS, ids=[mutant for mutant, *_ in MUTANTS])
def test_a_mutant_is_caught(mutant: str, scenario: Scenario, words: str, database_url: str, tmp_path: Path) -> None:
    """A library that is broken in this way breaks a promise, and the checker names it."""
    problems = scenario(database_url, tmp_path, mutant)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize("scenario", [storm, alone])
def test_the_library_is_innocent(scenario: Scenario, database_url: str, tmp_path: Path) -> None:
    """The same without a mutant breaks no promise."""
    assert scenario(database_url, tmp_path, None) == []


def test_lost_claims_are_found_again(database_url: str, tmp_path: Path) -> None:
    """One in twenty claims is forgotten on its way; the library finds them by comparing rows with memory."""
    assert calm(database_url, tmp_path, "forgotten_claims") == []
