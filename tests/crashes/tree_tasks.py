"""Trees for worker processes that tests kill. Every run of a function is noted in the file HISTORY."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from durable_sync import Done, LoopResult, ParentResult, Spawn, TaskContext, TaskError, TaskRegistry
from tests.crashes.worker import note, process_name

registry = TaskRegistry()

BRANCHES, TWIGS, LEAVES = 8, 4, 5
DESCENDANTS = BRANCHES + BRANCHES * TWIGS + BRANCHES * TWIGS * LEAVES
"""Below `doomed`, in three levels; the child that fails it is not counted."""
STEPS = 4
LAPS = 4
PIECES = 3


def ran(ctx: TaskContext, what: str, *, root: str = "") -> None:
    """Notes that a function has begun."""
    note(
        event="ran",
        execution_id=ctx.execution_id,
        what=what,
        root=root,
        process=process_name(),
        at=time.monotonic(),
    )


def runs(history: Path) -> list[dict[str, str]]:
    """What was noted, in order of time."""
    found = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    return sorted(found, key=lambda entry: entry["at"])


@registry.task(max_recoveries=50)
def piece(ctx: TaskContext, name: str) -> str:
    ran(ctx, f"piece {name}")
    time.sleep(0.01)
    return name


def joined(parent: ParentResult[str]) -> str:
    note(event="ran", execution_id="", what="joined", root="", process=process_name(), at=time.monotonic())
    return parent.output + "".join(parent.children_outputs)


@registry.parent_task(finalize=joined, max_recoveries=50)
def household(ctx: TaskContext, name: str) -> Spawn[str]:
    ran(ctx, "household")
    return Spawn(name, [piece.bind(str(number)) for number in range(PIECES)])


@registry.task(max_recoveries=50)
def stair(ctx: TaskContext, place: str) -> str:
    """`place`: which sequence, and which step of it."""
    name, _, number = place.rpartition(":")
    ran(ctx, f"stair {number}", root=name)
    time.sleep(0.01)
    return f"{name}:{int(number) + 1}"


stairs = registry.sequential_tasks("stairs", *[stair] * STEPS)


@registry.task(max_recoveries=50)
def lap(ctx: TaskContext, name: str) -> Done[str] | None:
    ran(ctx, "lap", root=name)
    time.sleep(0.01)
    # An execution that runs again is the same lap.
    own = Path(os.environ["HISTORY"]).with_name(f"laps-{name}")
    own.mkdir(exist_ok=True)
    (own / ctx.execution_id).touch()
    done = len(list(own.iterdir()))
    return Done(f"{name}:{done}") if done >= LAPS else None


laps = registry.looping_task("laps", lap, max_iterations=LAPS + 3)


@registry.task(max_recoveries=50)
def fails(ctx: TaskContext) -> None:
    ran(ctx, "fails")
    raise TaskError("on purpose", retryable=False)


def told(parent: ParentResult[str]) -> list[str]:
    household_output, stairs_output, laps_output, _failed = parent.children_outputs
    assert isinstance(laps_output, LoopResult)
    statuses = [child.status.value for child in parent.children]
    return [household_output, stairs_output, laps_output.output, statuses[-1]]


@registry.parent_task(finalize=told, fail_fast=False, max_recoveries=50)
def clan(ctx: TaskContext, name: str) -> Spawn[str]:
    """One of each kind."""
    ran(ctx, "clan")
    return Spawn(name, [household.bind(name), stairs.bind(f"{name}:0"), laps.bind(name), fails.bind()])


CLAN = 1 + 4 + (PIECES + 1) + STEPS + LAPS + 1
"""Executions in the tree of a clan."""


# A tree that dies of one child


@registry.task
def bad(ctx: TaskContext, go: str) -> None:
    ran(ctx, "bad")
    while not Path(go).exists():
        time.sleep(0.01)
    raise TaskError("on purpose", retryable=False)


@registry.task
def lingers(ctx: TaskContext) -> None:
    ran(ctx, "lingers")
    ctx.cancel_signal.wait(60)
    ctx.cancel_signal.raise_if_set()


@registry.parent_task
def twig(first: bool) -> Spawn[None]:
    later = [piece.options(delay=3600).bind("late") for _ in range(LEAVES - first)]
    return Spawn(None, [lingers.bind(), *later] if first else later)


@registry.parent_task
def branch(first: bool) -> Spawn[None]:
    return Spawn(None, [twig.bind(first and number == 0) for number in range(TWIGS)])


@registry.parent_task
def doomed(go: str) -> Spawn[None]:
    return Spawn(None, [bad.bind(go), *[branch.bind(number == 0) for number in range(BRANCHES)]])
