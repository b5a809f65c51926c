"""Reads what is kept by reference: outputs that other executions hold, and inputs made of them.

A parent's output is nowhere copied: it is put together here of its children's, level by level, with a few queries a
level. Values are typed where the tasks are registered here, and plain JSON elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from durable_sync.errors import SerializationError
from durable_sync.execution import ChildExecution, ErrorInfo, ExecutionStatus
from durable_sync.families import LoopResult, ParentOutput, ParentResult, is_done
from durable_sync.plans import Plan, PlanKind
from durable_sync.registry import TaskRegistry
from durable_sync.serialization import Serializer
from durable_sync.storage.records import OutputRow
from durable_sync.task import Task

if TYPE_CHECKING:
    from durable_sync.storage.storage import Storage

__all__ = ["RESULT", "VALUE", "Outputs", "child_of"]

VALUE: Final = "output"
"""In the place of a fed argument: it is the output of the execution `input_from`."""
RESULT: Final = "result"
"""It is the ParentResult of that execution."""

PATIENCE = 10.0
"""Seconds that an outage is waited out."""


@define
class _Gathered:
    rows: dict[str, OutputRow] = field(factory=dict[str, OutputRow])
    children: dict[str, list[OutputRow]] = field(factory=dict[str, list[OutputRow]])


class Outputs:
    """Reads by reference. `strict`: SerializationError for what doesn't fit its type any more, instead of plain JSON.

    For any thread.
    """

    def __init__(
        self, storage: Storage, registry: TaskRegistry, serializer: Serializer, *, strict: bool = True
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._serializer = serializer
        self._strict = strict

    def children(self, parents: Sequence[OutputRow], *, with_outputs: bool = True) -> dict[str, list[OutputRow]]:
        """The children of each of these, in order."""
        names = [(row.tree_id, row.execution_id) for row in parents]
        return self._storage.children(names, with_outputs=with_outputs, patience=PATIENCE)

    def of(self, rows: Iterable[OutputRow]) -> dict[str, Any]:
        """The output of each of these by its id; None for one that did not complete."""
        wanted = list(rows)
        gathered = self._gather(wanted)
        values: dict[str, Any] = {}
        # Not by recursion: a tree may be deeper than Python's stack.
        todo = [row.execution_id for row in wanted]
        while todo:
            row = gathered.rows[todo[-1]]
            missing = [name for name in _needs(row, gathered) if name not in values]
            if missing:
                todo += missing
            else:
                values[todo.pop()] = self._value(row, gathered, values)
        return {row.execution_id: values[row.execution_id] for row in wanted}

    def _gather(self, rows: Sequence[OutputRow]) -> _Gathered:
        gathered = _Gathered()
        level = list(rows)
        while level:
            gathered.rows.update((row.execution_id, row) for row in level)
            sources = {row.output_from for row in level if row.output_from is not None} - gathered.rows.keys()
            found = self._storage.outputs(sorted(sources), patience=PATIENCE) if sources else []
            parents = [row for row in level if _is_put_together(row)]
            children = self.children(parents) if parents else {}
            gathered.children.update(children)
            level = [*found, *(row for rows in children.values() for row in rows)]
        return gathered

    def _value(self, row: OutputRow, gathered: _Gathered, values: dict[str, Any]) -> Any:
        if row.status is not ExecutionStatus.COMPLETED:
            return None
        if _plan_kind(row) is PlanKind.LOOP:
            return LoopResult(
                row.output_from is not None, None if row.output_from is None else _undone(values[row.output_from])
            )
        if row.output_from is not None:
            return values[row.output_from]
        run_output = self.run_output(row.task_id, row.run_output)
        if row.execution_id in gathered.children:
            return ParentOutput(
                run_output, tuple(values[child.execution_id] for child in gathered.children[row.execution_id])
            )
        return run_output

    def run_output(self, task_id: str, text: str | None) -> Any:
        """What the function returned."""
        task = self._registry.get(task_id)
        return None if text is None else self._loads(text, Any if task is None else task.run_annotation)

    def input(self, task: Task[..., Any] | None, text: str, source_id: str | None) -> dict[str, Any]:
        """The arguments of an execution by parameter name, of what its row has as input and `input_from`."""
        if source_id is None:
            return self._arguments(task, text)
        name, what = next(iter(json.loads(text).items()))
        if what == RESULT:
            return {name: self._parent_result(source_id)}
        annotation = Any if task is None else task.schema.hint(name)
        return {name: self._fed(source_id, annotation)}

    def _arguments(self, task: Task[..., Any] | None, text: str) -> dict[str, Any]:
        if task is not None:
            try:
                return task.schema.loads(self._serializer, text)
            except SerializationError:
                if self._strict:
                    raise
        plain: dict[str, Any] = json.loads(text)
        return plain

    def _fed(self, source_id: str, annotation: Any) -> Any:
        (source,) = self._storage.outputs([source_id], patience=PATIENCE)
        if source.output_from is not None and _plan_kind(source) is not PlanKind.LOOP:
            (source,) = self._storage.outputs([source.output_from], patience=PATIENCE)
        if source.status is not ExecutionStatus.COMPLETED:
            # Somebody looks at it before its turn.
            return None
        plain = _plan_kind(source) is not PlanKind.LOOP and not _is_put_together(source)
        if annotation is not Any and plain and source.run_output is not None:
            # By the type of whom it is for: that is what says whether it fits.
            try:
                return self._loads(source.run_output, annotation)
            except SerializationError as error:
                raise SerializationError(
                    f"the output of task {source.task_id!r}, which it is fed: {error.message}"
                ) from error
        return self.of([source])[source.execution_id]

    def _parent_result(self, parent_id: str) -> ParentResult[Any]:
        stored = self._storage.get([parent_id], patience=PATIENCE)[parent_id]
        row = OutputRow.of(stored)
        children = self.children([row])[parent_id]
        values = self.of(children)
        return ParentResult(
            input=self.input(self._registry.get(stored.task_id), stored.input, stored.input_from),
            output=self.run_output(stored.task_id, stored.run_output),
            children=tuple(child_of(child) for child in children),
            children_outputs=tuple(values[child.execution_id] for child in children),
        )

    def _loads(self, text: str, annotation: Any) -> Any:
        try:
            return self._serializer.loads(text, annotation)
        except SerializationError:
            if self._strict:
                raise
            return json.loads(text)


def child_of(row: OutputRow) -> ChildExecution:
    """What a parent's readers see of a child."""
    error = None if row.error is None or row.status is ExecutionStatus.COMPLETED else ErrorInfo.from_json(row.error)
    return ChildExecution(row.task_id, row.execution_id, row.status, error)


def _plan_kind(row: OutputRow) -> PlanKind | None:
    return None if row.plan is None else Plan.from_json(row.plan).kind


def _is_put_together(row: OutputRow) -> bool:
    """True if a completed row's output is a ParentOutput."""
    if row.plan is None or row.status is not ExecutionStatus.COMPLETED:
        return False
    plan = Plan.from_json(row.plan)
    return plan.kind is PlanKind.CHILDREN and plan.finalize is None


def _needs(row: OutputRow, gathered: _Gathered) -> list[str]:
    if row.output_from is not None:
        return [row.output_from]
    return [child.execution_id for child in gathered.children.get(row.execution_id, [])]


def _undone(value: Any) -> Any:
    # Plain JSON, where its task is not registered.
    return value.value if is_done(value) else value["value"]
