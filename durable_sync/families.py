"""What tasks with children return and are given: Spawn, ParentOutput, ParentResult, Done, LoopResult."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

from attrs import field, frozen

from durable_sync.execution import ChildExecution

if TYPE_CHECKING:
    from durable_sync.task import TaskCall

__all__ = ["Done", "LoopResult", "ParentOutput", "ParentResult", "Spawn", "is_done", "is_spawn"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def _as_tuple(children: Iterable[TaskCall[Any]]) -> tuple[TaskCall[Any], ...]:
    return tuple(children)


@frozen
class Spawn(Generic[T_co]):
    """What a parent task returns: an output of its own, and the children to run next, each a `task.bind(...)`."""

    output: T_co
    children: tuple[TaskCall[Any], ...] = field(default=(), converter=_as_tuple)


@frozen
class ParentOutput(Generic[T]):
    """The output of a parent task without finalize."""

    output: T
    """What it gave in its Spawn."""
    children_outputs: tuple[Any, ...]
    """The outputs of its children, in the order in which they were spawned; None for one that did not complete."""


@frozen
class ParentResult(Generic[T]):
    """What a finalize is given: the parent, with how each of its children ended."""

    input: dict[str, Any]
    """The parent's arguments by parameter name, as its caller passed them."""
    output: T
    """What the parent gave in its Spawn."""
    children: tuple[ChildExecution, ...]
    """In the order in which they were spawned."""
    children_outputs: tuple[Any, ...]
    """In the same order; None for one that did not complete."""


@frozen
class Done(Generic[T_co]):
    """Returned by the iteration of a loop to end it, with the loop's output."""

    value: T_co


@frozen
class LoopResult(Generic[T]):
    """The output of a looping task."""

    is_success: bool
    """False if no iteration returned Done."""
    output: T | None
    """The value of Done; None without success."""


def is_spawn(value: object) -> TypeGuard[Spawn[Any]]:
    """Whether a function has returned Spawn."""
    return isinstance(value, Spawn)


def is_done(value: object) -> TypeGuard[Done[Any]]:
    """Whether a function has returned Done."""
    return isinstance(value, Done)
