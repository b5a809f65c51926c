"""Makes tasks of every kind, and checks what they are made of: ConfigurationError says what makes no sense."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast, get_args, get_origin

from attrs import evolve

from durable_sync.clock import seconds
from durable_sync.declarations import (
    Declaration,
    ParentOptions,
    TaskOptions,
    checked_declaration,
    checked_id,
    checked_timeout,
    refuse_unknown,
)
from durable_sync.errors import ConfigurationError
from durable_sync.families import LoopResult, ParentOutput, Spawn, is_done
from durable_sync.kinds import Loop, Parent, Sequence, Sleeper
from durable_sync.signature import InputSchema
from durable_sync.task import ParentTask, SleepingTask, Task

__all__ = ["make_loop", "make_parent", "make_sequence", "make_sleeper", "make_task"]


def make_task(function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
    """A plain task; warns of parameters without annotation."""
    task_id, declaration = _declared(function, options)
    task: Task[..., Any] = Task(task_id, function, declaration)
    if _origin(task.output_annotation) is Spawn:
        raise ConfigurationError(f"{task.id} returns Spawn: declare it with parent_task")
    _warn_of_unannotated(task)
    return task


def make_parent(
    function: Callable[..., Any], finalize: Any, fail_fast: Any, options: Mapping[str, Any]
) -> Task[..., Any]:
    """A task that spawns; a finalize given as a function becomes a task of its own."""
    task_id, declaration = _declared(function, options, ParentOptions)
    if not isinstance(fail_fast, bool):
        raise ConfigurationError(f"{task_id}: fail_fast must be True or False, not {fail_fast!r}")
    hides = finalize is not None and not isinstance(finalize, Task)
    made: Task[..., Any] | None = (
        _hidden_finalize(task_id, finalize, declaration) if hides else cast("Task[..., Any] | None", finalize)
    )
    if made is not None:
        _refuse_unfed(made, f"{task_id}: its finalize", "a ParentResult")
    schema = InputSchema(function)
    spawned = _spawned(task_id, schema.output_annotation)
    parent: ParentTask[..., Any, Any] = ParentTask(
        task_id,
        function,
        declaration,
        kind=Parent(made, fail_fast, hides),
        schema=schema,
        run_annotation=spawned,
        output_annotation=_generic(ParentOutput, spawned) if made is None else made.output_annotation,
    )
    _warn_of_unannotated(parent)
    return parent


def make_sequence(task_id: str, steps: tuple[Any, ...]) -> Task[..., Any]:
    """A task that runs tasks one after another."""
    checked_id(task_id)
    if not steps:
        raise ConfigurationError(f"sequential_tasks({task_id!r}) has no tasks")
    for place, step in enumerate(steps):
        name = f"{task_id}: step {place}"
        if place:
            _refuse_unfed(step, name, "the output of the step before it")
        else:
            _refuse_unrepeatable(step, name)
    first: Task[..., Any] = steps[0]

    def run_steps(*args: Any, **kwargs: Any) -> Any:
        output = _call_plain(task_id, first, *args, **kwargs)
        for step in steps[1:]:
            output = _call_plain(task_id, step, output)
        return output

    return Task(
        task_id,
        _named(run_steps, task_id, f"Runs {', '.join(step.id for step in steps[:5])} one after another."),
        _inherited(first),
        kind=Sequence(steps),
        schema=first.schema,
        run_annotation=Any,
        output_annotation=steps[-1].output_annotation,
    )


def make_loop(task_id: str, iteration: Any, max_iterations: Any, delay: float | timedelta) -> Task[..., Any]:
    """A task that runs another one until it returns Done."""
    checked_id(task_id)
    _refuse_unrepeatable(iteration, f"{task_id}: its iteration")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 1:
        raise ConfigurationError(f"{task_id}: max_iterations must be a positive int, not {max_iterations!r}")
    repeated: Task[..., Any] = iteration

    def run_iterations(*args: Any, **kwargs: Any) -> LoopResult[Any]:
        for _ in range(max_iterations):
            output = _call_plain(task_id, repeated, *args, **kwargs)
            if is_done(output):
                return LoopResult(True, output.value)
        return LoopResult(False, None)

    return Task(
        task_id,
        _named(run_iterations, task_id, f"Runs {repeated.id} until it returns Done."),
        _inherited(repeated),
        kind=Loop(repeated, max_iterations, seconds(delay, f"{task_id}: delay")),
        schema=repeated.schema,
        run_annotation=Any,
        output_annotation=LoopResult[Any],
    )


def make_sleeper(task_id: str, timeout: Any, output: Any) -> SleepingTask[Any]:
    """A task that waits to be woken."""
    checked_id(task_id)
    declaration = Declaration(timeout=checked_timeout(task_id, timeout))
    if callable(timeout):
        raise ConfigurationError(f"{task_id}: timeout must be seconds or a timedelta: there is only one attempt")

    def sleep() -> None:
        raise ConfigurationError(f"{task_id} is a sleeping task: it has no function to call")

    named = _named(sleep, task_id, "Waits to be woken.")
    return SleepingTask(task_id, named, declaration, kind=Sleeper(), run_annotation=output, output_annotation=output)


def _declared(
    function: Callable[..., Any], options: Mapping[str, Any], known: type = TaskOptions
) -> tuple[str, Declaration]:
    name = getattr(function, "__qualname__", repr(function))
    refuse_unknown(name, options, known)
    _refuse_unfit(function, name)
    given = options.get("id")
    if given is None and function.__name__ == "<lambda>":
        raise ConfigurationError("a lambda has no name to be its task's id: give it one, task(id=...)")
    return checked_id(function.__name__ if given is None else given), checked_declaration(name, options)


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


def _warn_of_unannotated(task: Task[..., Any]) -> None:
    if task.schema.unannotated:
        parameters = ", ".join(task.schema.unannotated)
        warnings.warn(
            f"task {task.id!r}: no annotation for {parameters}; such values pass as plain JSON, unchecked", stacklevel=5
        )


def _hidden_finalize(parent_id: str, function: Any, parent: Declaration) -> Task[..., Any]:
    name = f"{parent_id}: its finalize"
    if not callable(function):
        raise ConfigurationError(f"{name} must be a function or a task, not {function!r}")
    _refuse_unfit(function, f"{name}, {getattr(function, '__qualname__', repr(function))},")
    declaration = evolve(parent, retry=None, validate=None, delay=0.0)
    made: Task[..., Any] = Task(checked_id(f"{parent_id}.finalize"), function, declaration)
    if _origin(made.output_annotation) is Spawn:
        raise ConfigurationError(f"{name} returns Spawn: declare it with parent_task, and give that task")
    return made


def _refuse_unfed(task: Any, name: str, fed: str) -> None:
    """It must take one value: what it is fed."""
    _refuse_unrepeatable(task, name)
    if task.schema.fed is None:
        raise ConfigurationError(f"{name}, {task.id!r}, must take one argument: it is fed {fed}")


def _refuse_unrepeatable(task: Any, name: str) -> None:
    """It must be a task whose options fit every time it runs."""
    if not isinstance(task, Task):
        raise ConfigurationError(f"{name} must be a task, not {task!r}")
    if isinstance(task.kind, Sleeper):
        raise ConfigurationError(
            f"{name}, {task.id!r}, is a sleeping task, whose key belongs to one enqueue: let a parent task spawn it"
        )
    for option in ("key", "run_at"):
        if getattr(task.overrides, option) is not None:
            raise ConfigurationError(f"{name}, {task.id!r}, has the option {option}, which belongs to one enqueue")


def _inherited(first: Task[..., Any]) -> Declaration:
    """Where what has no function of its own is claimed: beside its first task."""
    given = first.overrides
    return Declaration(
        validate=first.declaration.validate,
        queue=first.declaration.queue if given.queue is None else given.queue,
        priority=first.declaration.priority if given.priority is None else given.priority,
        max_recoveries=first.declaration.max_recoveries,
    )


def _call_plain(task_id: str, step: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    if isinstance(step.kind, Parent):
        raise ConfigurationError(f"{task_id} can't be called: {step.id!r} spawns children, which an executor must run")
    if step.takes_context:
        raise ConfigurationError(f"{task_id} can't be called: {step.id!r} takes a context, which an executor gives")
    return step.function(*args, **kwargs)


def _named(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _origin(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def _spawned(task_id: str, annotation: Any) -> Any:
    """The type of a Spawn's output."""
    if annotation is Any or annotation is Spawn:
        return Any
    if get_origin(annotation) is not Spawn:
        raise ConfigurationError(f"{task_id}: a parent task returns Spawn, and its annotation says {annotation!r}")
    return get_args(annotation)[0]


def _generic(cls: Any, argument: Any) -> Any:
    return cls[argument]
