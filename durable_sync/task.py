"""What a user declares: tasks, their options, and registries of them."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

import tenacity
from attrs import evolve, frozen

from durable_sync.clock import from_datetime, seconds
from durable_sync.context import TaskContext
from durable_sync.errors import ConfigurationError
from durable_sync.retry import retry_policy
from durable_sync.signature import InputSchema

__all__ = ["EnqueueOptions", "Task", "TaskCall", "TaskDecorators", "TaskOptions", "TaskRegistry"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Timeout = float | timedelta | Callable[[int], float | timedelta | None] | None

_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_NOT_COMPARABLE = re.compile(r"[\0\ud800-\udfff]| \Z")
"""What some database refuses, or passes over when it compares: MariaDB and others pad with spaces."""
_MAX_QUEUE = 200
_MAX_KEY = 255
_MAX_PRIORITY = 2**31 - 1


class TaskOptions(TypedDict, total=False):
    """Options of a task's declaration; see `TaskDecorators.task`."""

    id: str
    timeout: Timeout
    retry: int | tenacity.Retrying | None
    validate: Callable[..., object] | None
    queue: str
    priority: int
    delay: float | timedelta
    max_recoveries: int


class EnqueueOptions(TypedDict, total=False):
    """Options of one enqueue; see `Task.options`."""

    delay: float | timedelta
    run_at: datetime
    priority: int
    queue: str
    timeout: float | timedelta
    retry: int
    key: str


class _UnknownOptionError(ConfigurationError, TypeError):
    """There is no such option."""


@frozen
class Declaration:
    """A task's options, checked. Durations are seconds."""

    timeout: Callable[[int], float | None] | None = None
    retry: tenacity.BaseRetrying | None = None
    validate: Callable[..., object] | None = None
    queue: str = "default"
    priority: int = 0
    delay: float = 0.0
    max_recoveries: int = 3


@frozen
class Overrides:
    """What one enqueue wants otherwise than its task; None: as the task."""

    delay: float | None = None
    run_at: int | None = None
    """Microseconds since the epoch."""
    priority: int | None = None
    queue: str | None = None
    timeout: float | None = None
    max_retries: int | None = None
    key: str | None = None


class Task(Generic[P, R_co]):
    """A durable function. Made by `@executor.task` or `@registry.task`; immutable, for any thread.

    Calling it calls the plain function, undisturbed, which is what unit tests want.
    """

    id: str
    function: Callable[..., Any]
    declaration: Declaration
    overrides: Overrides
    schema: InputSchema

    def __init__(self, id: str, function: Callable[..., Any], declaration: Declaration) -> None:
        self.id = id
        self.function = function
        self.declaration = declaration
        self.overrides = Overrides()
        self.schema = InputSchema(function)
        functools.update_wrapper(self, function)

    @property
    def takes_context(self) -> bool:
        """True if the function's first parameter is named `ctx`, so that a TaskContext is passed."""
        return self.schema.takes_context

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Calls the plain function in this thread; nothing is stored. Give a `ctx` first if it takes one."""
        return cast(R_co, self.function(*args, **kwargs))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[R_co]:
        """The task with its input, for `enqueue_many`. InvalidInputError if the arguments don't fit the signature."""
        return TaskCall(self, self.schema.bind(args, kwargs))

    def options(self, **changes: Unpack[EnqueueOptions]) -> Task[P, R_co]:
        """A copy with other options, for one enqueue. They are stored with the execution.

        `delay`: seconds or timedelta before it may start. `run_at`: a timezone-aware datetime instead. `priority`:
        higher runs first. `queue`: which executors may run it. `timeout`: seconds or timedelta. `retry`: how
        many retries. `key`: while an execution of this task and key is active, another enqueue returns that one.
        ConfigurationError names an option that makes no sense.
        """
        _refuse_unknown(self.id, changes, EnqueueOptions)
        made = copy.copy(self)
        made.overrides = evolve(self.overrides, **_checked_overrides(self.id, changes))
        return made

    def __repr__(self) -> str:
        return f"<Task {self.id}>"


@frozen
class TaskCall(Generic[R_co]):
    """A task with its input, ready to be enqueued."""

    task: Task[..., R_co]
    arguments: Mapping[str, Any]
    """By parameter name, without `ctx`."""


class _ContextFunction(Protocol[P, R_co]):  # matches only when the first parameter is named ctx
    def __call__(self, ctx: TaskContext, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class _Decorator(Protocol):
    @overload
    def __call__(self, function: _ContextFunction[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


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


class TaskRegistry(TaskDecorators):
    """Tasks declared before there is an executor: `DurableExecutor(url, tasks=registry)` takes one or several."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._listeners: list[Callable[[Task[..., Any]], None]] = []

    def _add(self, task: Task[..., Any]) -> None:
        self.add(task)

    def add(self, task: Task[..., Any]) -> None:
        """Registers a task; ConfigurationError if another has its id."""
        if self._tasks.setdefault(task.id, task) is not task:
            raise ConfigurationError(f"a task with the id {task.id!r} is registered already")
        for listener in list(self._listeners):
            listener(task)

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


def make_task(function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
    """Checks a function and its options, and makes the task; warns once of parameters without annotation."""
    name = getattr(function, "__qualname__", repr(function))
    _refuse_unknown(name, options, TaskOptions)
    _refuse_unfit(function, name)
    task: Task[..., Any] = Task(_checked_id(function, options.get("id")), function, _checked(name, options))
    if task.schema.unannotated:
        parameters = ", ".join(task.schema.unannotated)
        warnings.warn(
            f"task {task.id!r}: no annotation for {parameters}; such values pass as plain JSON, unchecked", stacklevel=4
        )
    return task


def _refuse_unknown(name: str, options: Mapping[str, Any], known: type) -> None:
    names = sorted(known.__annotations__)
    for option in options:
        if option not in names:
            near = get_close_matches(option, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise _UnknownOptionError(f"{name}: there is no option {option!r}; {hint}")


def _refuse_unfit(function: Callable[..., Any], name: str) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{name} is an async function; a durable task is a plain one")
    if inspect.isgeneratorfunction(function):
        raise ConfigurationError(f"{name} is a generator function; a durable task returns its output")
    if inspect.ismethod(function) or isinstance(function, staticmethod | classmethod):
        raise ConfigurationError(
            f"{name} is a method; a durable task is a plain function: it has no object to be called on"
        )
    if not inspect.isfunction(function):
        raise ConfigurationError(f"{name} is not a plain function, so it can't be a durable task")
    first = next(iter(inspect.signature(function).parameters), None)
    if first in {"self", "cls"}:
        raise ConfigurationError(
            f"{name} is a method (its first parameter is {first!r}); a durable task is a plain function"
        )


def _checked_id(function: Callable[..., Any], given: Any) -> str:
    if given is None and function.__name__ == "<lambda>":
        raise ConfigurationError("a lambda has no name to be its task's id: give it one, task(id=...)")
    task_id = function.__name__ if given is None else given
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise ConfigurationError(f"task id {task_id!r} is malformed: 1 to 200 letters, digits, '_', '-' and '.'")
    return task_id


def _checked(name: str, options: Mapping[str, Any]) -> Declaration:
    validate = options.get("validate")
    if validate is not None and not callable(validate):
        raise ConfigurationError(f"{name}: validate must be callable, not {validate!r}")
    default = Declaration()
    return Declaration(
        timeout=_checked_timeout(name, options.get("timeout")),
        retry=retry_policy(options.get("retry")),
        validate=validate,
        queue=checked_queue(options.get("queue", default.queue)),
        priority=_checked_priority(name, options.get("priority", 0)),
        delay=seconds(options.get("delay", 0), f"{name}: delay"),
        max_recoveries=_checked_count(f"{name}: max_recoveries", options.get("max_recoveries", default.max_recoveries)),
    )


def _checked_timeout(name: str, timeout: Any) -> Callable[[int], float | None] | None:
    if timeout is None:
        return None
    if not callable(timeout):
        fixed = seconds(timeout, f"{name}: timeout", positive=True)
        return lambda _attempt: fixed

    def by_attempt(attempt: int) -> float | None:
        value: Any = timeout(attempt)
        return None if value is None else seconds(value, f"{name}: timeout({attempt})", positive=True)

    return by_attempt


def checked_queue(queue: Any) -> str:
    """A queue's name; ConfigurationError if it can't be one."""
    if (
        not isinstance(queue, str)
        or not 1 <= len(queue) <= _MAX_QUEUE
        or not queue.isprintable()
        or queue.endswith(" ")
    ):
        raise ConfigurationError(
            f"queue must be 1 to {_MAX_QUEUE} printable characters, the last one no space, not {queue!r}"
        )
    return queue


def _checked_priority(name: str, priority: Any) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > _MAX_PRIORITY:
        raise ConfigurationError(f"{name}: priority must be an int of 32 bits, not {priority!r}")
    return priority


def _checked_count(option: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_PRIORITY:
        raise ConfigurationError(f"{option} must be zero or a positive int, not {value!r}")
    return value


def _checked_key(name: str, key: Any) -> str:
    if not isinstance(key, str) or not 1 <= len(key) <= _MAX_KEY or _NOT_COMPARABLE.search(key):
        raise ConfigurationError(
            f"{name}: key must be a string of 1 to {_MAX_KEY} characters, without NUL, a lone surrogate, or a space "
            f"at its end, not {key!r}"
        )
    return key


def _checked_overrides(name: str, changes: EnqueueOptions) -> dict[str, Any]:
    checks: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "delay": ("delay", lambda v: seconds(v, f"{name}: delay")),
        "run_at": ("run_at", lambda v: from_datetime(v, f"{name}: run_at")),
        "priority": ("priority", lambda v: _checked_priority(name, v)),
        "queue": ("queue", checked_queue),
        "timeout": ("timeout", lambda v: seconds(v, f"{name}: timeout", positive=True)),
        "retry": ("max_retries", lambda v: _checked_count(f"{name}: retry", v)),
        "key": ("key", lambda v: _checked_key(name, v)),
    }
    if changes.get("delay") is not None and changes.get("run_at") is not None:
        raise ConfigurationError(f"{name}: give delay or run_at, not both")
    made = {checks[option][0]: checks[option][1](value) for option, value in changes.items() if value is not None}
    # The later word holds: whichever of the two this call names replaces the other.
    if "delay" in made:
        made["run_at"] = None
    elif "run_at" in made:
        made["delay"] = None
    return made
