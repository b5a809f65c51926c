"""Declares tasks: the decorators that executors and registries share, and registries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from durable_sync.context import TaskContext
from durable_sync.declarations import TaskOptions
from durable_sync.errors import ConfigurationError
from durable_sync.factories import make_loop, make_parent, make_sequence, make_sleeper, make_task
from durable_sync.families import Done, LoopResult, ParentOutput, ParentResult, Spawn
from durable_sync.task import ParentTask, SleepingTask, Task, TaskCall

__all__ = ["Fed", "TaskDecorators", "TaskRegistry"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
R_co = TypeVar("R_co", covariant=True)
A_contra = TypeVar("A_contra", contravariant=True)


class _ContextFunction(Protocol[P, R_co]):  # matches only when the first parameter is named ctx
    def __call__(self, ctx: TaskContext, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


_Timeout = float | timedelta | None


class Fed(Protocol[A_contra, R_co]):
    """A task of one positional argument. Not `Task[[A], R]`, which refuses tasks with further, defaulted ones."""

    def bind(self, argument: A_contra, /) -> TaskCall[R_co]:
        """See `Task.bind`."""
        ...


class _Decorator(Protocol):
    @overload
    def __call__(self, function: _ContextFunction[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class _ParentDecorator(Protocol):
    @overload
    def __call__(self, function: _ContextFunction[P, Spawn[S]], /) -> ParentTask[P, S, ParentOutput[S]]: ...
    @overload
    def __call__(self, function: Callable[P, Spawn[S]], /) -> ParentTask[P, S, ParentOutput[S]]: ...


class _FinalizedDecorator(Protocol[R_co]):
    @overload
    def __call__(self, function: _ContextFunction[P, Spawn[S]], /) -> ParentTask[P, S, R_co]: ...
    @overload
    def __call__(self, function: Callable[P, Spawn[S]], /) -> ParentTask[P, S, R_co]: ...


class TaskDecorators:
    """The decorators that executors and registries share. May be used from any thread."""

    def _add(self, task: Task[..., Any]) -> None:
        raise NotImplementedError

    @overload
    def task(self, function: _ContextFunction[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, **options: Unpack[TaskOptions]) -> _Decorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Makes a function durable; used with or without options.

        `id`: letters, digits, `_`, `-`, `.`; the function's name by default. `timeout`: seconds, timedelta, or a
        callable of the attempt number; None is no limit. `retry`: how many retries, or a `tenacity.Retrying`.
        `validate`: called with the arguments, without `ctx`, at enqueue; what it raises is the cause of
        InvalidInputError. `queue`, `priority` (higher first), `delay` (seconds or timedelta). `max_recoveries`: how
        many crashes of its process it survives. ConfigurationError says what makes no sense, before anything runs.
        """

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            task = make_task(function, options)
            self._add(task)
            return task

        return decorate if function is None else decorate(function)

    @overload
    def parent_task(self, function: _ContextFunction[P, Spawn[S]], /) -> ParentTask[P, S, ParentOutput[S]]: ...
    @overload
    def parent_task(self, function: Callable[P, Spawn[S]], /) -> ParentTask[P, S, ParentOutput[S]]: ...
    @overload
    def parent_task(
        self, /, *, finalize: Fed[ParentResult[Any], R], fail_fast: bool = ..., **options: Unpack[TaskOptions]
    ) -> _FinalizedDecorator[R]: ...
    @overload
    def parent_task(
        self,
        /,
        *,
        finalize: Callable[[ParentResult[Any]], R] | Callable[[TaskContext, ParentResult[Any]], R],
        fail_fast: bool = ...,
        **options: Unpack[TaskOptions],
    ) -> _FinalizedDecorator[R]: ...
    @overload
    def parent_task(
        self, /, *, finalize: None = ..., fail_fast: bool = ..., **options: Unpack[TaskOptions]
    ) -> _ParentDecorator: ...
    def parent_task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        finalize: Any = None,
        fail_fast: bool = True,
        **options: Any,
    ) -> Any:
        """Makes a function that returns `Spawn` durable: its children run next, and `finalize` once they have ended.

        `finalize`: a function or a task of one ParentResult, whose output is the parent's; a function becomes the task
        `<parent id>.finalize`, with the parent's options and no retry. Without it the output is a ParentOutput.
        `fail_fast=False`: a child that does not complete neither fails the parent nor cancels the other children. The
        other options are those of `task`.
        """

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            task = make_parent(function, finalize, fail_fast, options)
            self._add(task)
            return task

        return decorate if function is None else decorate(function)

    @overload
    def sequential_tasks(self, id: str, first: Task[P, R], /) -> Task[P, R]: ...
    @overload
    def sequential_tasks(self, id: str, first: Task[P, A], second: Fed[A, R], /) -> Task[P, R]: ...
    @overload
    def sequential_tasks(self, id: str, first: Task[P, A], second: Fed[A, B], third: Fed[B, R], /) -> Task[P, R]: ...
    @overload
    def sequential_tasks(
        self, id: str, first: Task[P, A], second: Fed[A, B], third: Fed[B, C], fourth: Fed[C, R], /
    ) -> Task[P, R]: ...
    @overload
    def sequential_tasks(
        self,
        id: str,
        first: Task[P, A],
        second: Fed[A, B],
        third: Fed[B, C],
        fourth: Fed[C, D],
        fifth: Fed[D, R],
        /,
    ) -> Task[P, R]: ...
    @overload
    def sequential_tasks(
        self,
        id: str,
        first: Task[P, A],
        second: Fed[A, B],
        third: Fed[B, C],
        fourth: Fed[C, D],
        fifth: Fed[D, E],
        sixth: Fed[E, R],
        /,
    ) -> Task[P, R]: ...
    @overload
    def sequential_tasks(
        self,
        id: str,
        first: Task[P, Any],
        second: Task[..., Any],
        third: Task[..., Any],
        fourth: Task[..., Any],
        fifth: Task[..., Any],
        sixth: Task[..., Any],
        seventh: Task[..., Any],
        /,
        *further: Task[..., Any],
    ) -> Task[P, Any]: ...
    def sequential_tasks(self, id: str, /, *tasks: Any) -> Any:
        """Makes a task that runs tasks one after another, each fed the output of the one before it.

        It takes what the first one takes, and its output is the last one's. A step that does not complete makes it
        `children_failed`. ConfigurationError if there are no tasks, or one but the first doesn't take one argument.
        """
        task = make_sequence(id, tasks)
        self._add(task)
        return task

    @overload
    def looping_task(
        self, id: str, iteration: Task[P, Done[R] | None], *, max_iterations: int, delay: float | timedelta = ...
    ) -> Task[P, LoopResult[R]]: ...
    @overload
    def looping_task(
        self, id: str, iteration: Task[P, Any], *, max_iterations: int, delay: float | timedelta = ...
    ) -> Task[P, LoopResult[Any]]: ...
    def looping_task(self, id: str, iteration: Any, *, max_iterations: int, delay: float | timedelta = 0) -> Any:
        """Makes a task that runs `iteration`, with its own input each time, until that returns `Done(value)`.

        Its output is a LoopResult, unsuccessful after `max_iterations`. `delay`: seconds or timedelta between two
        iterations. An iteration that does not complete makes it `children_failed`.
        """
        task = make_loop(id, iteration, max_iterations, delay)
        self._add(task)
        return task

    @overload
    def sleeping_task(self, id: str, *, timeout: _Timeout = ...) -> SleepingTask[Any]: ...
    @overload
    def sleeping_task(self, id: str, *, output: type[R], timeout: _Timeout = ...) -> SleepingTask[R]: ...
    @overload
    def sleeping_task(self, id: str, *, output: Any, timeout: _Timeout = ...) -> SleepingTask[Any]: ...
    def sleeping_task(self, id: str, *, output: Any = Any, timeout: _Timeout = None) -> Any:
        """Makes a task that holds no thread and waits for `executor.wake`; each enqueue gives it a key.

        `timeout`: seconds or timedelta after its enqueue at which it ends as timed out. `output`: the type of what it
        is woken with.
        """
        task = make_sleeper(id, timeout, output)
        self._add(task)
        return task


class TaskRegistry(TaskDecorators):
    """Tasks declared before there is an executor: `DurableExecutor(url, tasks=registry)` takes one or several."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._listeners: list[Callable[[Task[..., Any]], None]] = []

    def _add(self, task: Task[..., Any]) -> None:
        self.add(task)

    def add(self, task: Task[..., Any]) -> None:
        """Registers a task, and those that run because of it; ConfigurationError if another has its id."""
        family: dict[str, Task[..., Any]] = {}
        for member in _with_needed(task):
            # All are looked at before one is added, so that a refusal leaves nothing behind.
            _refuse_namesake(member, family.setdefault(member.id, self._tasks.get(member.id, member)))
        for member in reversed([member for member in family.values() if member.id not in self._tasks]):
            _refuse_namesake(member, self._tasks.setdefault(member.id, member))
            for listener in list(self._listeners):
                listener(member)

    def subscribe(self, listener: Callable[[Task[..., Any]], None]) -> None:
        """Calls `listener` with every task, those here already and those to come."""
        self._listeners.append(listener)
        for task in list(self._tasks.values()):
            listener(task)

    def get(self, task_id: str) -> Task[..., Any] | None:
        """The task of this id, or None."""
        return self._tasks.get(task_id)

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)


def _with_needed(task: Task[..., Any]) -> Iterator[Task[..., Any]]:
    """A task, and all that run because of it, each once."""
    seen: set[int] = set()
    todo = [task]
    while todo:
        member = todo.pop()
        if id(member) not in seen:
            seen.add(id(member))
            yield member
            todo += reversed(member.kind.tasks)


def _refuse_namesake(task: Task[..., Any], known: Task[..., Any]) -> None:
    # A copy with other options is the same task.
    if known.function is not task.function:
        raise ConfigurationError(f"a task with the id {task.id!r} is registered already")
