"""What type checkers know of the public interface. Checked by mypy and pyright, never run.

A line that must be refused carries an ignore for both checkers; an ignore that is not needed is an error itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import assert_type

import tenacity
from attrs import frozen
from sqlalchemy import Connection, create_engine
from sqlalchemy.orm import Session

from durable_sync import (
    DurableExecutor,
    Execution,
    ExecutionStatus,
    Progress,
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
