"""Turns calls into rows: the last stop before anything is written, so bad input ends here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durable_sync.clock import microseconds
from durable_sync.errors import ConfigurationError, InvalidInputError, TaskNotRegisteredError
from durable_sync.ids import new_id
from durable_sync.serialization import Serializer
from durable_sync.storage.records import NewExecution
from durable_sync.task import Task, TaskCall, TaskRegistry

__all__ = ["Intake"]


class Intake:
    """Checks calls against the tasks registered with an executor. For any thread."""

    def __init__(self, registry: TaskRegistry, serializer: Serializer, *, max_payload_bytes: int) -> None:
        self._registry = registry
        self._serializer = serializer
        self._max_payload_bytes = max_payload_bytes

    def rows(self, calls: Sequence[TaskCall[Any]]) -> list[NewExecution]:
        """What is to be inserted for these calls; InvalidInputError names the call and every bad path."""
        if len(calls) == 1:
            return [self._row(calls[0])]
        rows: list[NewExecution] = []
        for index, call in enumerate(calls):
            try:
                rows.append(self._row(call))
            except InvalidInputError as error:
                raise InvalidInputError(f"calls[{index}]: {error.message}") from error
        return rows

    def _row(self, call: TaskCall[Any]) -> NewExecution:
        if not isinstance(call, TaskCall):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"enqueue_many takes task.bind(...), not {call!r}")
        task = call.task
        self.refuse_unregistered(task)
        text = self._checked_input(task, call.arguments)
        declared, given = task.declaration, task.overrides
        return NewExecution(
            execution_id=new_id(),
            task_id=task.id,
            input=text,
            queue=declared.queue if given.queue is None else given.queue,
            priority=declared.priority if given.priority is None else given.priority,
            max_recoveries=declared.max_recoveries,
            delay=microseconds(declared.delay if given.delay is None else given.delay),
            run_at=given.run_at,
            key=given.key,
            timeout=None if given.timeout is None else microseconds(given.timeout),
            max_retries=given.max_retries,
        )

    def refuse_unregistered(self, task: Task[..., Any]) -> None:
        """Raises TaskNotRegisteredError unless this very task is registered."""
        registered = self._registry.get(task.id)
        if registered is None:
            raise TaskNotRegisteredError(
                f"task {task.id!r} is not registered with this executor: declare it with @executor.task, or pass its "
                "registry as tasks="
            )
        if registered.function is not task.function:
            raise TaskNotRegisteredError(f"another task is registered with this executor under the id {task.id!r}")

    def _checked_input(self, task: Task[..., Any], arguments: Mapping[str, Any]) -> str:
        text = task.schema.dumps(self._serializer, arguments)
        limit = self._max_payload_bytes
        if len(text) > limit:
            raise InvalidInputError(
                f"invalid input for {task.id}: {len(text)} bytes of JSON, more than max_payload_bytes={limit}"
            )
        if task.declaration.validate is not None:
            args, kwargs = task.schema.call_arguments(dict(arguments))
            try:
                task.declaration.validate(*args, **kwargs)
            except Exception as error:
                raise InvalidInputError(f"invalid input for {task.id}: {type(error).__name__}: {error}") from error
        return text
