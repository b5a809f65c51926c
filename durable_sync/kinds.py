"""The kinds of tasks: what is run for one, and who runs because of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from attrs import frozen

if TYPE_CHECKING:
    from durable_sync.task import Task

__all__ = ["PLAIN", "Kind", "Loop", "Parent", "Plain", "Sequence", "Sleeper"]


@frozen
class Plain:
    """A function whose output is the execution's."""

    refused_options: ClassVar[frozenset[str]] = frozenset()
    """What an enqueue of such a task can't be given, because it would mean nothing."""

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """The tasks that run because of one of this kind."""
        return ()


@frozen
class Parent:
    """A function that returns Spawn: its children run next, then its finalize."""

    finalize: Task[..., Any] | None
    fail_fast: bool
    hides_finalize: bool
    """The finalize was given as a function, and has the parent's options."""

    refused_options: ClassVar[frozenset[str]] = frozenset()

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """The finalize; children are named only when they are spawned."""
        return () if self.finalize is None else (self.finalize,)


@frozen
class Sequence:
    """Tasks that run one after another, each fed the output of the one before it."""

    steps: tuple[Task[..., Any], ...]

    refused_options: ClassVar[frozenset[str]] = frozenset({"timeout", "retry"})

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """The steps."""
        return self.steps


@frozen
class Loop:
    """A task that runs over and over, until it returns Done."""

    iteration: Task[..., Any]
    max_iterations: int
    delay: float
    """Seconds between two iterations."""

    refused_options: ClassVar[frozenset[str]] = frozenset({"timeout", "retry"})

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """The iteration."""
        return (self.iteration,)


@frozen
class Sleeper:
    """No function: it waits to be woken."""

    refused_options: ClassVar[frozenset[str]] = frozenset({"delay", "run_at", "retry", "queue", "priority"})

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """None."""
        return ()


Kind: TypeAlias = Plain | Parent | Sequence | Loop | Sleeper

PLAIN = Plain()
