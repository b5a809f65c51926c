"""What type checkers know of the public interface. Checked by mypy and pyright, never run.

A line that must be refused carries an ignore for both checkers; an ignore that is not needed is an error itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, assert_type

import tenacity
from attrs import frozen
from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session

from durable_sync import (
    ChildExecution,
    Done,
    DurableExecutor,
    Execution,
    ExecutionStatus,
    ExecutionTree,
    LoopResult,
    ParentOutput,
    ParentResult,
    Progress,
    Spawn,
    Task,
    TaskCall,
    TaskContext,
    TaskError,
    TaskHandle,
    TaskRegistry,
    as_completed,
    wait,
)

executor = DurableExecutor("sqlite:///jobs.db")
registry = TaskRegistry()


@frozen
class Title:
    text: str


@executor.task
def plain(path: str) -> Title:
    return Title(path)


@executor.task(timeout=30, retry=3, queue="files", max_recoveries=1)
def with_options(path: str, *, words: int = 50) -> str:
    return path * words


@executor.task(timeout=lambda attempt: 10.0 * (attempt + 1), retry=tenacity.Retrying(stop=tenacity.stop_after_delay(3)))
def with_context(ctx: TaskContext, path: str, words: int = 50) -> str:
    ctx.progress(1, total=2, message=path)
    return path * words


@registry.task
def takes_anything(value: object) -> None:
    del value


@registry.task(delay=timedelta(seconds=1))
def context_only(ctx: TaskContext) -> int:
    return ctx.attempt


def decorated_tasks() -> None:
    """The function is called as it was written; the task takes the same without `ctx`."""
    assert_type(plain("a"), Title)
    assert_type(with_options("a", words=1), str)
    assert_type(plain.bind("a"), TaskCall[Title])
    assert_type(context_only.bind(), TaskCall[int])
    plain(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.bind()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with_options.bind("a", word=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def enqueueing() -> None:
    """Arguments are checked one by one, and the handle knows the output's type."""
    assert_type(executor.enqueue(plain, "a"), TaskHandle[Title])
    assert_type(executor.enqueue(with_options, "a", words=3), TaskHandle[str])
    assert_type(executor.enqueue(with_context, "a"), TaskHandle[str])
    assert_type(executor.enqueue(with_context, "a", words=3), TaskHandle[str])
    assert_type(executor.enqueue(takes_anything, object()), TaskHandle[None])
    assert_type(executor.enqueue(plain.options(key="a", priority=3), "a"), TaskHandle[Title])
    assert_type(executor.enqueue_many([plain.bind("a"), plain.bind("b")]), list[TaskHandle[Title]])
    assert_type(executor.map(plain, ["a", "b"]), Iterator[Title])
    assert_type(executor.map(with_options, ["a", "b"]), Iterator[str])
    executor.enqueue(plain, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.enqueue(with_context, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.enqueue(with_options, "a", 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    executor.map(plain, [1])  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    plain.options(colour=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def combine(parent: ParentResult[int]) -> Title:
    return Title(str(parent.output))


def combine_in_context(ctx: TaskContext, parent: ParentResult[int]) -> Title:
    return Title(ctx.task_id + str(parent.output))


@executor.task
def combine_as_task(parent: ParentResult[int]) -> bytes:
    return b"" * parent.output


@executor.parent_task
def bare_parent(path: str) -> Spawn[int]:
    return Spawn(len(path), children=[plain.bind(path), with_options.bind(path, words=2)])


@registry.parent_task(timeout=60, fail_fast=False)
def parent_with_options(ctx: TaskContext, path: str) -> Spawn[int]:
    return Spawn(ctx.attempt, [bare_parent.bind(path)])


@executor.parent_task(finalize=combine)
def finalized(path: str, *, deep: bool = False) -> Spawn[int]:
    return Spawn(deep, (plain.bind(path) for _ in range(3)))


@executor.parent_task(finalize=combine_in_context, retry=3)
def finalized_in_context(path: str) -> Spawn[int]:
    return Spawn(len(path))


@executor.parent_task(finalize=combine_as_task)
def finalized_by_task(ctx: TaskContext, path: str) -> Spawn[int]:
    return Spawn(len(path) + ctx.attempt)


@executor.parent_task
def finalizing_parent(parent: ParentResult[int]) -> Spawn[str]:
    return Spawn(str(parent.output))


@executor.parent_task(finalize=finalizing_parent)
def finalized_by_parent(path: str) -> Spawn[int]:
    return Spawn(len(path))


def parents() -> None:
    """The output of a parent is that of its finalize, or else a ParentOutput; called, it returns its Spawn."""
    assert_type(executor.enqueue(bare_parent, "a"), TaskHandle[ParentOutput[int]])
    assert_type(executor.enqueue(parent_with_options, "a"), TaskHandle[ParentOutput[int]])
    assert_type(executor.enqueue(finalized, "a", deep=True), TaskHandle[Title])
    assert_type(executor.enqueue(finalized.options(key="a"), "a"), TaskHandle[Title])
    assert_type(executor.enqueue(finalized_in_context, "a"), TaskHandle[Title])
    assert_type(executor.enqueue(finalized_by_task, "a"), TaskHandle[bytes])
    assert_type(executor.enqueue(finalized_by_parent, "a"), TaskHandle[ParentOutput[str]])
    assert_type(executor.map(finalized, ["a"]), Iterator[Title])
    assert_type(bare_parent("a"), Spawn[int])
    executor.enqueue(finalized, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.enqueue(finalized_by_task)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@executor.task
def to_number(text: str) -> int:
    return int(text)


@executor.task
def to_bytes(number: int, *, length: int = 8) -> bytes:
    return number.to_bytes(length)


def sequences() -> None:
    """A sequence takes what its first task takes and returns what its last one returns; each fits the next."""
    assert_type(executor.enqueue(executor.sequential_tasks("one", to_number), "a"), TaskHandle[int])
    sequence = executor.sequential_tasks("three", with_options, to_number, to_bytes)
    assert_type(executor.enqueue(sequence, "a", words=3), TaskHandle[bytes])
    assert_type(executor.enqueue(registry.sequential_tasks("nested", sequence, takes_anything), "a"), TaskHandle[None])
    long = executor.sequential_tasks("long", to_number, *[takes_anything] * 7)
    assert_type(executor.get_handle(long, "id").execution_id, str)
    executor.sequential_tasks("misfit", to_number, to_number)  # type: ignore[misc]  # pyright: ignore
    executor.sequential_tasks("none")  # type: ignore[call-overload]  # pyright: ignore


@executor.task
def poll(url: str, *, limit: int = 1) -> Done[Title] | None:
    return Done(Title(url)) if limit else None


@executor.task
def always_done() -> Done[int]:
    return Done(1)


@executor.task
def told_otherwise(url: str) -> Done[int] | str:
    return url


def loops() -> None:
    """A loop takes what its iteration takes, and knows what that is Done with."""
    loop = executor.looping_task("poll_all", poll, max_iterations=10, delay=1)
    assert_type(executor.enqueue(loop, "a", limit=3), TaskHandle[LoopResult[Title]])
    assert_type(executor.looping_task("always", always_done, max_iterations=1), Task[[], LoopResult[int]])
    untold = executor.looping_task("otherwise", told_otherwise, max_iterations=1, delay=timedelta(seconds=1))
    assert_type(executor.enqueue(untold, "a"), TaskHandle[LoopResult[Any]])
    executor.looping_task("endless", poll)  # type: ignore[call-overload]  # pyright: ignore


def sleepers() -> None:
    """A sleeper is woken with what it is declared to be."""
    approval = executor.sleeping_task("approval", output=Title, timeout=timedelta(days=1))
    assert_type(executor.enqueue(approval.options(key="a")), TaskHandle[Title])
    executor.wake(approval, "a", output=Title("b"))
    executor.wake(approval, "a", error="refused")
    assert_type(executor.enqueue(registry.sleeping_task("anything").options(key="a")), TaskHandle[Any])
    executor.wake(approval, "a", output="b")  # type: ignore[misc]  # pyright: ignore
    executor.wake(approval, "a")  # type: ignore[call-overload]  # pyright: ignore


def trees(handle: TaskHandle[Title]) -> None:
    """What is told of a tree."""
    assert_type(handle.tree(), ExecutionTree)
    assert_type(handle.get_execution().children, tuple[ChildExecution, ...])
    assert_type([node.status for node in handle.tree().walk()], list[ExecutionStatus])


def transactions(session: Session) -> None:
    """`using` is as typed as the executor."""
    connection: Connection = create_engine("sqlite://").connect()
    assert_type(executor.using(session).enqueue(plain, "a"), TaskHandle[Title])
    assert_type(executor.using(connection).enqueue_many([plain.bind("a")]), list[TaskHandle[Title]])
    executor.using(session).enqueue(plain, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def handles(handle: TaskHandle[Title], task: Task[[str], Title]) -> None:
    """Handles are futures of their output's type, and covariant."""
    assert_type(handle.result(timeout=1), Title)
    assert_type(handle.exception(), TaskError | None)
    assert_type(handle.wait(), Execution)
    assert_type(handle.wait().status, ExecutionStatus)
    assert_type(handle.progress(), Progress | None)
    assert_type(executor.get_handle(task, "id"), TaskHandle[Title])
    wider: TaskHandle[object] = handle
    assert_type(as_completed([handle]), Iterator[TaskHandle[Title]])
    assert_type(wait([handle]).done, set[TaskHandle[Title]])
    del wider
