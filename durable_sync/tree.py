"""A picture of a tree of executions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from attrs import field, frozen

from durable_sync.clock import to_datetime
from durable_sync.execution import ErrorInfo, ExecutionStatus
from durable_sync.storage.records import TreeRow

__all__ = ["ExecutionTree", "grow"]

_INDENT = "  "
_LONGEST_ERROR = 200


@frozen(kw_only=True)
class ExecutionTree:
    """An execution with all that is below it, as the database had them at one moment. `print` it."""

    task_id: str
    execution_id: str
    status: ExecutionStatus
    error: ErrorInfo | None = None
    attempt: int = 0
    created_at: datetime
    started_at: datetime | None = None
    """When the present (or last) attempt was claimed."""
    finished_at: datetime | None = None
    duration: timedelta | None = None
    """Since the last start, until it finished or until now; None if it never started."""
    is_finalize: bool = False
    """It is its parent's finalize, not one of its children."""
    children: tuple[ExecutionTree, ...] = field(default=(), repr=lambda children: f"<{len(children)}>")
    """In the order in which they were spawned; then the finalize, if its turn has come."""

    def walk(self) -> Iterator[ExecutionTree]:
        """This and all that is below it, parents before children."""
        for _depth, node in self._walk():
            yield node

    def _walk(self) -> Iterator[tuple[int, ExecutionTree]]:
        todo = [(0, self)]
        while todo:
            depth, node = todo.pop()
            yield depth, node
            todo += [(depth + 1, child) for child in reversed(node.children)]

    def __str__(self) -> str:
        """A line an execution, indented by depth; an error is a line below it."""
        lines: list[str] = []
        for depth, node in self._walk():
            lines.append(_INDENT * depth + _line(node))
            if node.error is not None and node.status is not ExecutionStatus.COMPLETED:
                lines.append(_INDENT * (depth + 1) + f"! {_shown(node.error)}")
        return "\n".join(lines)


def _line(node: ExecutionTree) -> str:
    name = f"{node.task_id} (finalize)" if node.is_finalize else node.task_id
    parts = [name, node.status.value, *([] if node.duration is None else [_seconds(node.duration)])]
    if node.attempt:
        parts.append(f"attempt {node.attempt}")
    return "  ".join([*parts, node.execution_id])


def grow(execution_id: str, rows: Sequence[TreeRow], now: int) -> ExecutionTree:
    """The tree below one execution, of the rows of its whole tree."""
    below: dict[str, list[TreeRow]] = {}
    by_id = {row.execution_id: row for row in rows}
    for row in rows:
        if row.parent_id is not None and _has_had_its_turn(row, by_id[row.parent_id]):
            below.setdefault(row.parent_id, []).append(row)
    order = [by_id[execution_id]]
    for row in order:
        order += below.get(row.execution_id, [])
    made: dict[str, ExecutionTree] = {}
    for row in reversed(order):
        children = sorted(below.get(row.execution_id, []), key=_place)
        made[row.execution_id] = _node(row, now, tuple(made[child.execution_id] for child in children))
    return made[execution_id]


def _has_had_its_turn(row: TreeRow, parent: TreeRow) -> bool:
    """A finalize is there from the birth of the children on, and is nothing to show before they have ended."""
    is_finalize = row.child_index is None
    waits = parent.status is ExecutionStatus.WAITING_FOR_CHILDREN
    never_ran = row.starts == 0 and row.status is ExecutionStatus.CANCELLED
    # Cancelled by itself before its turn, it is what the parent failed by.
    is_to_blame = parent.status is ExecutionStatus.FINALIZE_FAILED
    return not (is_finalize and (waits or never_ran)) or is_to_blame


def _place(row: TreeRow) -> float:
    return float("inf") if row.child_index is None else row.child_index


def _node(row: TreeRow, now: int, children: tuple[ExecutionTree, ...]) -> ExecutionTree:
    ended = now if row.finished_at is None else row.finished_at
    return ExecutionTree(
        task_id=row.task_id,
        execution_id=row.execution_id,
        status=row.status,
        error=None if row.error is None else ErrorInfo.from_json(row.error),
        attempt=row.starts if row.status is ExecutionStatus.READY else max(row.starts - 1, 0),
        created_at=to_datetime(row.created_at),
        started_at=None if row.started_at is None else to_datetime(row.started_at),
        finished_at=None if row.finished_at is None else to_datetime(row.finished_at),
        duration=None if row.started_at is None else timedelta(microseconds=max(ended - row.started_at, 0)),
        is_finalize=row.parent_id is not None and row.child_index is None,
        children=children,
    )


def _seconds(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.1f} s"


def _shown(error: ErrorInfo) -> str:
    text = " ".join(f"{error.type}: {error.message}".split())
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
