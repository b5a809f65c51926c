"""What executions really do is what the drawings of their kinds show."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable_sync import (
    Done,
    DurableExecutor,
    ParentResult,
    Spawn,
    TaskCall,
    TaskCancelledError,
    TaskHandle,
    TaskTimedOutError,
)
from durable_sync.execution import ExecutionStatus as S
from tests.waiting import wait_until

DOCS = Path(__file__).parent.parent.parent / "docs"
SECONDS = 30
RARE = {
    "plain": set(),
    # Of a finalize that is cancelled before its turn, whose id no reader is given.
    "parents": {(S.RUNNING, S.TIMED_OUT), (S.RUNNING, S.CANCELLED), (S.WAITING_FOR_CHILDREN, S.FINALIZE_FAILED)},
    # Their own attempt runs no function: only a crash, a shutdown or a race shows them running.
    "sequences": {(S.RUNNING, S.READY), (S.RUNNING, S.CANCELLED)},
    "loops": {(S.RUNNING, S.READY), (S.RUNNING, S.CANCELLED), (S.RUNNING, S.FAILED)},
    "sleeping": set(),
}
"""Arrows that this test does not go along."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[S, S]]]:
    """The arrows of each drawing."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    import machines

    monkeypatch.delitem(sys.modules, "machines")
    return {name: {edge[:2] for edge in machine.edges()} for name, machine in machines.KINDS.values()}


def test_executions_go_along_the_arrows_that_are_drawn(tmp_path: Path, drawn: dict[str, set[tuple[S, S]]]) -> None:
    """An execution of any kind makes the moves of its kind's drawing, and no others."""
    file = tmp_path / "drawn.db"
    executor = DurableExecutor(f"sqlite:///{file}", poll_interval=0.02, max_children=3)
    executor.migrate()
    _log_moves(file)
    with executor:
        calls = _calls(executor)
        for kind in calls.values():
            for call in kind:
                executor.enqueue_many([call])[0].wait(SECONDS)
        _sleep_and_wake(executor)
        for handle in _hanging(executor):
            assert handle.cancel()
    with closing(sqlite3.connect(file)) as connection:
        seen = set(connection.execute("SELECT DISTINCT task_id, before, after FROM moves"))
    for name, arrows in drawn.items():
        gone = {(S(before), S(after)) for task_id, before, after in seen if task_id.startswith(f"{name}.")}
        gone -= {(S.RUNNING, S.RUNNING)}  # progress, which is no move
        assert gone <= arrows, name
        assert arrows - gone <= RARE[name], name


def _log_moves(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE moves (task_id, before, after)")
        connection.execute(
            "CREATE TRIGGER log AFTER UPDATE ON durable_executions BEGIN "
            "INSERT INTO moves VALUES (new.task_id, old.status, new.status); END"
        )
        connection.commit()


def _calls(executor: DurableExecutor) -> dict[str, list[TaskCall[Any]]]:
    """Of every kind, calls that end in every way that needs nobody's help."""

    @executor.task(id="plain.act", retry=0)
    def act(how: str) -> str:
        match how:
            case "fail":
                raise ValueError
            case "time out":
                raise TaskTimedOutError
            case "cancel":
                raise TaskCancelledError
        return how

    def combine(parent: ParentResult[str]) -> str:
        return act(parent.output)

    def spawn(how: str, children: list[str]) -> Spawn[str]:
        return Spawn(act(how), [act.bind(child) for child in children])

    @executor.task(id="plain.done")
    def done(how: str) -> Done[str] | None:
        return Done(how) if act(how) == "well" else None

    bare = executor.parent_task(id="parents.bare")(spawn)

    @executor.parent_task(id="parents.finalized", finalize=combine)
    def finalized(finalize: str, children: list[str]) -> Spawn[str]:
        return Spawn(finalize, [act.bind(child) for child in children])

    sequence = executor.sequential_tasks("sequences.two", act, act)
    long = executor.sequential_tasks("sequences.long", *[act] * 4)
    loop = executor.looping_task("loops.any", done, max_iterations=2)
    return {
        "plain": [act.bind(how) for how in ("well", "fail", "time out", "cancel")]
        + [act.options(retry=1, delay=0.01).bind("fail")],
        "parents": [
            bare.bind("well", []),
            bare.options(delay=0.01).bind("well", ["well", "well"]),
            bare.options(retry=1).bind("fail", []),
            bare.bind("well", ["well", "fail"]),
            finalized.bind("well", []),
            finalized.bind("well", ["well"]),
            finalized.bind("fail", ["well"]),
        ],
        "sequences": [
            sequence.options(delay=0.01).bind("well"),
            sequence.bind("fail"),
            long.bind("well"),
        ],
        "loops": [loop.options(delay=0.01).bind("well"), loop.bind("again"), loop.bind("fail")],
    }


def _sleep_and_wake(executor: DurableExecutor) -> None:
    sleeper = executor.sleeping_task("sleeping.one")
    for key in "abcd":
        executor.enqueue(sleeper.options(key=key, timeout=0.05 if key == "a" else None))
    executor.wake(sleeper, "b", output=1)
    executor.wake(sleeper, "c", error="no")
    assert executor.enqueue(sleeper.options(key="d")).cancel()
    executor.enqueue(sleeper.options(key="a", timeout=0.05)).wait(SECONDS)


def _hanging(executor: DurableExecutor) -> list[TaskHandle[Any]]:
    """Executions to be cancelled, of every kind, ready and waiting."""
    sleeper = executor.sleeping_task("sleeping.child")
    never = executor.sleeping_task("sleeping.never")

    @executor.task(id="plain.late")
    def late(number: int) -> Done[int] | None:
        return None

    @executor.task(id="plain.at_once")
    def at_once() -> None: ...

    @executor.parent_task(id="parents.waiting")
    def waiting() -> Spawn[None]:
        return Spawn(None, [sleeper.options(key="waiting").bind(), at_once.bind()])

    @executor.task(id="plain.finalize")
    def finalize(parent: ParentResult[None]) -> None: ...

    @executor.parent_task(id="parents.finalizing", finalize=finalize.options(delay=3600))
    def finalizing() -> Spawn[None]:
        return Spawn(None, [])

    @executor.parent_task(id="parents.ready", delay=3600)
    def ready() -> Spawn[None]:
        return Spawn(None, [])

    step = late.options(delay=3600)
    sequence = executor.sequential_tasks("sequences.waiting", step)
    loop = executor.looping_task("loops.waiting", step, max_iterations=1)
    handles: list[TaskHandle[Any]] = [
        executor.enqueue(waiting),
        executor.enqueue(finalizing),
        executor.enqueue(sequence, 1),
        executor.enqueue(loop, 1),
    ]
    waits = {S.WAITING_FOR_CHILDREN, S.WAITING_FOR_FINALIZE}
    wait_until(
        lambda: (
            all(handle.get_execution().status in waits for handle in handles)
            and handles[0].get_execution().children[1].status is S.COMPLETED
        ),
        timeout=SECONDS,
        message="they wait for what is below them",
    )
    return [
        *handles,
        executor.enqueue(ready),
        executor.enqueue(sequence.options(delay=3600), 1),
        executor.enqueue(loop.options(delay=3600), 1),
        executor.enqueue(late.options(delay=3600), 1),
        executor.enqueue(never.options(key="never")),
    ]
