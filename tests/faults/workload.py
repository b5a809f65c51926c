"""The tasks of the fault laboratory. Each run's output carries the id of the attempt that made it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tenacity

from durable_sync import Done, ParentResult, Spawn, Task, TaskCall, TaskContext, TaskRegistry
from tests.faults import history

__all__ = ["EXPECTED", "MAX_FAILURES", "RETRIED", "UNSIGNED", "mixture", "one_of_each", "registry"]

registry = TaskRegistry()

LIVES = 50
"""So that no innocent is given up, however many of its processes die."""
MAX_FAILURES = 4
RETRY_DELAY = 1.5
"""Seconds that `unhurried` waits before it is tried again."""

_RETRY = tenacity.Retrying(stop=tenacity.stop_after_attempt(MAX_FAILURES), wait=tenacity.wait_fixed(0.05))


@registry.task(max_recoveries=LIVES)
def plain(seconds: float) -> str:
    time.sleep(seconds)
    return history.uid()


@registry.task(max_recoveries=LIVES)
def stubborn(seconds: float) -> str:
    """Does not let itself be stopped."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        with suppress(BaseException):
            time.sleep(left)
    return history.uid()


@registry.task(max_recoveries=LIVES)
def stuck(release: str) -> str:
    """Does not let itself be stopped before there is a file of this name."""
    while True:
        with suppress(BaseException):
            while not Path(release).exists():
                time.sleep(0.05)
            return history.uid()


@registry.task(max_recoveries=LIVES, retry=_RETRY)
def flaky(ctx: TaskContext, seconds: float) -> str:
    """Fails until it has been tried again after an error of its own."""
    time.sleep(seconds)
    if ctx.prev_error is None:
        raise ValueError("the first try fails")
    return history.uid()


@registry.task(max_recoveries=LIVES, retry=_RETRY)
def hopeless(seconds: float) -> str:
    time.sleep(seconds)
    raise ValueError("every try fails")


@registry.task(
    max_recoveries=LIVES,
    retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(MAX_FAILURES), wait=tenacity.wait_fixed(RETRY_DELAY)),
)
def unhurried(ctx: TaskContext, seconds: float) -> str:
    """As `flaky`, but its retry waits long enough to be told from one at once."""
    time.sleep(seconds)
    if ctx.prev_error is None:
        raise ValueError("the first try fails")
    return history.uid()


@registry.task(max_recoveries=LIVES)
def gather(parent: ParentResult[Any]) -> str:
    outputs = [output for output in parent.children_outputs if output is not None]
    if len(outputs) != sum(child.status == "completed" for child in parent.children):
        raise AssertionError("an output is missing")
    return history.uid()


@registry.parent_task(finalize=gather, max_recoveries=LIVES)
def family(children: int, seconds: float) -> Spawn[str]:
    return Spawn(history.uid(), [plain.bind(seconds) for _ in range(children)])


@registry.parent_task(finalize=gather, max_recoveries=LIVES)
def later(children: int, delay: float, seconds: float) -> Spawn[str]:
    """Its children are due so many seconds after it."""
    return Spawn(history.uid(), [plain.options(delay=delay).bind(seconds) for _ in range(children)])


@registry.parent_task(max_recoveries=LIVES)
def fragile(children: int, seconds: float) -> Spawn[str]:
    """One child fails, so the others are cancelled."""
    others = [plain.bind(seconds * 5) for _ in range(children)]
    return Spawn(history.uid(), [*others, hopeless.bind(seconds), family.bind(children, seconds)])


@registry.parent_task(finalize=gather, fail_fast=False, max_recoveries=LIVES)
def patient(children: int, seconds: float) -> Spawn[str]:
    """One child fails, and the others go on."""
    return Spawn(history.uid(), [*(plain.bind(seconds) for _ in range(children)), hopeless.bind(seconds)])


@registry.parent_task(max_recoveries=LIVES)
def deep(depth: int, seconds: float) -> Spawn[str]:
    """Spawns itself."""
    below: Sequence[TaskCall[Any]] = [deep.bind(depth - 1, seconds), plain.bind(seconds)] if depth else []
    return Spawn(history.uid(), below)


@registry.task(max_recoveries=LIVES)
def endless(ctx: TaskContext) -> str:
    """Runs until it is cancelled."""
    ctx.cancel_signal.wait()
    return history.uid()


@registry.parent_task(max_recoveries=LIVES)
def endless_family(children: int) -> Spawn[str]:
    return Spawn(history.uid(), [endless.bind() for _ in range(children)])


approval = registry.sleeping_task("approval", output=str)


@registry.parent_task(max_recoveries=LIVES)
def asks(key: str) -> Spawn[str]:
    """Waits for an approval, which somebody wakes."""
    return Spawn(history.uid(), [approval.options(key=key).bind()])


@registry.task(max_recoveries=LIVES)
def begin(seconds: float) -> str:
    time.sleep(seconds)
    return history.uid()


@registry.task(max_recoveries=LIVES)
def proceed(before: str) -> str:
    if len(before) != 32:
        raise AssertionError(f"was fed {before!r}")
    return history.uid()


sequence = registry.sequential_tasks("sequence", begin, proceed, proceed, proceed)


@registry.task(max_recoveries=LIVES)
def iterate(seconds: float) -> Done[str] | str:
    time.sleep(seconds)
    return Done(history.uid()) if random.random() < 0.4 else history.uid()


loop = registry.looping_task("loop", iterate, max_iterations=200, delay=0.01)

EXPECTED = {
    "plain": {"completed"},
    "stubborn": {"completed"},
    "stuck": {"completed"},
    "flaky": {"completed"},
    "unhurried": {"completed"},
    "hopeless": {"failed"},
    "family": {"completed"},
    "later": {"completed"},
    "fragile": {"children_failed"},
    "patient": {"completed"},
    "deep": {"completed"},
    "endless": {"cancelled"},
    "endless_family": {"cancelled"},
    "asks": {"completed"},
    "sequence": {"completed"},
    "loop": {"completed"},
}
"""How a root may end that nobody cancels."""
RETRIED = {"flaky", "hopeless", "unhurried"}
"""Tasks that are tried again; no other fails more than once."""
UNSIGNED = {"sequence", "loop", "approval"}
"""Tasks whose output no attempt has signed: they have none of their own."""


def one_of_each(seconds: float) -> list[TaskCall[Any]]:
    """One call of each kind; 23 executions or so."""
    return [
        plain.bind(seconds),
        flaky.bind(seconds),
        hopeless.bind(seconds),
        family.bind(4, seconds),
        fragile.bind(2, seconds),
        patient.bind(2, seconds),
        deep.bind(2, seconds),
        sequence.bind(seconds),
        loop.bind(seconds),
    ]


def mixture(executions: int, seconds: float) -> list[TaskCall[Any]]:
    """Calls that come to about so many executions: half of them plain, the rest in trees and with retries."""
    calls: list[TaskCall[Any]] = []
    rounds = max(executions // 80, 1)
    for _ in range(rounds):
        calls += one_of_each(seconds)
        calls += [plain.bind(seconds)] * 40
    return calls


def named(task_id: str) -> Task[..., Any]:
    """The task of this id."""
    task = registry.get(task_id)
    assert task is not None
    return task
