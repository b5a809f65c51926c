"""What the end of a child does to its parent. Pure.

A parent's row keeps its plan, written with the birth of its children. So whoever records a child's
end can say what becomes of the parent, also in a process that doesn't know the parent's task.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from attrs import asdict, frozen

from durable_sync.execution import ErrorInfo, ExecutionStatus
from durable_sync.transitions import (
    Transition,
    begin_finalize,
    complete_children,
    complete_finalize,
    count_down,
    fail_children,
    fail_finalize,
)

__all__ = ["Consequence", "End", "Plan", "PlanKind"]


class PlanKind(StrEnum):
    """How the children of one parent follow each other."""

    CHILDREN = "children"
    """All at once; then perhaps a finalize."""
    SEQUENCE = "sequence"
    """One after another, each fed the output of the one before."""
    LOOP = "loop"
    """The same task over and over, until one returns Done."""


@frozen(kw_only=True)
class Plan:
    """What one parent wants done when its children end."""

    kind: PlanKind
    fail_fast: bool = True
    finalize: str | None = None
    """The id of the execution that runs once all children have ended."""
    max_iterations: int = 0
    delay: int = 0
    """Microseconds between two iterations."""

    def to_json(self) -> str:
        """JSON text, in ASCII."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `to_json` wrote; fields of later versions are passed over."""
        stored: dict[str, Any] = json.loads(text)
        known = {name: stored[name] for name in cls.__annotations__ if name in stored and name != "kind"}
        return cls(kind=PlanKind(stored["kind"]), **known)

    def after(self, unfinished: int, ends: Sequence[End]) -> Consequence:
        """What becomes of a parent with so many unfinished children, of which these have just ended."""
        if ends[0].child_index is None:
            return self._after_finalize(ends[0])
        failed = min((e for e in ends if not e.is_completed), key=lambda e: e.place, default=None)
        if failed is not None and (self.fail_fast or self.kind is not PlanKind.CHILDREN):
            return Consequence(fail_children(failed.reason("ChildrenFailedError"), len(ends)))
        if self.kind is PlanKind.LOOP:
            return self._after_iteration(ends[0])
        if unfinished > len(ends):
            follower = ends[0].place + 1 if self.kind is PlanKind.SEQUENCE else None
            return Consequence(count_down(len(ends)), turn_of=follower)
        if self.kind is PlanKind.SEQUENCE:
            last = ends[0]
            return Consequence(complete_children(1, last.source), is_done=last.is_done)
        if self.finalize is not None:
            return Consequence(begin_finalize(len(ends)), finalize=self.finalize)
        return Consequence(complete_children(len(ends), None))

    def _after_finalize(self, end: End) -> Consequence:
        if end.is_completed:
            return Consequence(complete_finalize(end.source), is_done=end.is_done)
        return Consequence(fail_finalize(end.reason("FinalizeFailedError")))

    def _after_iteration(self, end: End) -> Consequence:
        if end.is_done:
            return Consequence(complete_children(1, end.source), wraps=True)
        if end.place + 1 >= self.max_iterations:
            return Consequence(complete_children(1, None))
        return Consequence(count_down(0), iterates_after=end.place)


@frozen(kw_only=True)
class End:
    """How one child ended."""

    execution_id: str
    task_id: str
    child_index: int | None
    """None: it was the finalize."""
    status: ExecutionStatus
    error: str | None = None
    """As JSON text."""
    output_from: str | None = None
    is_done: bool = False
    """Its output is a Done."""

    @property
    def is_completed(self) -> bool:
        """True if there is an output."""
        return self.status is ExecutionStatus.COMPLETED

    @property
    def place(self) -> int:
        """Its place among the parent's children."""
        return -1 if self.child_index is None else self.child_index

    @property
    def source(self) -> str:
        """The execution that holds its output."""
        return self.output_from or self.execution_id

    def reason(self, kind: str) -> str:
        """The error of a parent that ends for this: a `kind` with the message of what first went wrong, as JSON."""
        own = None if self.error is None else ErrorInfo.from_json(self.error)
        if own is not None and own.type in {"ChildrenFailedError", "FinalizeFailedError"}:
            # It names the descendant that was the first: with every level's name it would grow with the depth.
            message = own.message
        else:
            status = self.status.value.replace("_", " ")
            message = f"task {self.task_id!r} execution {self.execution_id}: {status}"
            message += "" if own is None else f": {own.type}: {own.message}"
        return ErrorInfo(kind, message, "" if own is None else own.traceback, retryable=False).to_json()


@frozen
class Consequence:
    """What becomes of a parent, and of whom it wants to be next."""

    transition: Transition
    turn_of: int | None = None
    """The place of the child that takes its turn."""
    finalize: str | None = None
    """The id of the finalize that takes its turn."""
    iterates_after: int | None = None
    """The place of the iteration that is to be repeated."""
    is_done: bool = False
    """The parent's output, which is the ended child's, is a Done."""
    wraps: bool = False
    """The parent's output is made of the ended child's, so whoever has it as its own refers to the parent."""
