"""A task: a durable function with its options, and its calls."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, cast

from attrs import evolve, frozen

from durable_sync.declarations import Declaration, EnqueueOptions, Overrides, checked_overrides, refuse_unknown
from durable_sync.errors import ConfigurationError
from durable_sync.families import Spawn
from durable_sync.kinds import PLAIN, Kind
from durable_sync.signature import InputSchema

__all__ = ["ParentTask", "SleepingTask", "Task", "TaskCall"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S_co = TypeVar("S_co", covariant=True)


class Task(Generic[P, R_co]):
    """A durable function. Made by `@executor.task` and its sisters; immutable, for any thread.

    Calling it calls the plain function, undisturbed, which is what unit tests want.
    """

    id: str
    function: Callable[..., Any]
    declaration: Declaration
    overrides: Overrides
    schema: InputSchema
    kind: Kind
    run_annotation: Any
    """The type of what is stored when its function has returned."""
    output_annotation: Any
    """The type of the execution's output."""

    def __init__(
        self,
        id: str,
        function: Callable[..., Any],
        declaration: Declaration,
        *,
        kind: Kind = PLAIN,
        schema: InputSchema | None = None,
        run_annotation: Any = None,
        output_annotation: Any = None,
    ) -> None:
        self.id = id
        self.function = function
        self.declaration = declaration
        self.overrides = Overrides()
        self.kind = kind
        self.schema = InputSchema(function) if schema is None else schema
        returned = self.schema.output_annotation
        self.run_annotation = returned if run_annotation is None else run_annotation
        self.output_annotation = returned if output_annotation is None else output_annotation
        functools.update_wrapper(self, function)

    @property
    def takes_context(self) -> bool:
        """True if the function's first parameter is named `ctx`, so that a TaskContext is passed."""
        return self.schema.takes_context

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Calls the plain function in this thread; nothing is stored. Give a `ctx` first if it takes one."""
        return cast(R_co, self.function(*args, **kwargs))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> TaskCall[R_co]:
        """The task with its input, for `Spawn` and `enqueue_many`.

        InvalidInputError if the arguments don't fit the signature.
        """
        return TaskCall(self, self.schema.bind(args, kwargs))

    def options(self, **changes: Unpack[EnqueueOptions]) -> Task[P, R_co]:
        """A copy with other options, for one enqueue. They are stored with the execution.

        `delay`: seconds or timedelta before it may start. `run_at`: a timezone-aware datetime instead. `priority`:
        higher runs first. `queue`: which executors may run it. `timeout`: seconds or timedelta. `retry`: how
        many retries. `key`: while an execution of this task and key is active, another enqueue returns that one.
        ConfigurationError names an option that makes no sense.
        """
        refuse_unknown(self.id, changes, EnqueueOptions)
        idle = sorted(self.kind.refused_options & {name for name, value in changes.items() if value is not None})
        if idle:
            kind = type(self.kind).__name__.lower()
            raise ConfigurationError(f"{self.id}: {', '.join(idle)} would mean nothing, for it is a {kind}")
        made = copy.copy(self)
        made.overrides = evolve(self.overrides, **checked_overrides(self.id, changes))
        return made

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


class ParentTask(Task[P, R_co], Generic[P, S_co, R_co]):
    """A task whose function returns Spawn. Calling it gives that Spawn, for unit tests."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Spawn[S_co]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Calls the plain function in this thread; nothing is stored. Give a `ctx` first if it takes one."""
        return cast(Spawn[S_co], self.function(*args, **kwargs))


class SleepingTask(Task[[], R], Generic[R]):
    """A task without a function, whose execution waits for `executor.wake`."""


@frozen
class TaskCall(Generic[R_co]):
    """A task with its input, ready to be enqueued or spawned."""

    task: Task[..., R_co]
    arguments: Mapping[str, Any]
    """By parameter name, without `ctx`."""
