"""Turns calls into rows: the last stop before anything is written, so bad input ends here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve

from durable_sync.clock import microseconds
from durable_sync.errors import (
    ConfigurationError,
    InvalidInputError,
    SerializationError,
    TaskError,
    TaskNotRegisteredError,
)
from durable_sync.execution import ErrorInfo
from durable_sync.ids import new_id
from durable_sync.kinds import Sleeper
from durable_sync.registry import TaskRegistry
from durable_sync.serialization import Serializer
from durable_sync.storage.records import NewExecution
from durable_sync.task import Task, TaskCall
from durable_sync.transitions import Transition, wake, wake_failed

__all__ = ["Intake", "validate_arguments"]


class Intake:
    """Checks calls against the tasks registered with an executor. For any thread."""

    def __init__(self, registry: TaskRegistry, serializer: Serializer, *, max_payload_bytes: int) -> None:
        self._registry = registry
        self._serializer = serializer
        self._max_payload_bytes = max_payload_bytes

    def rows(self, calls: Sequence[TaskCall[Any]]) -> list[NewExecution]:
        """What is to be inserted for these calls; InvalidInputError names the call and every bad path."""
        if len(calls) == 1:
            return [self.row(calls[0])]
        rows: list[NewExecution] = []
        for index, call in enumerate(calls):
            try:
                rows.append(self.row(call))
            except InvalidInputError as error:
                raise InvalidInputError(f"calls[{index}]: {error.message}") from error
        return rows

    def row(self, call: TaskCall[Any]) -> NewExecution:
        """What is to be inserted for one call."""
        if not isinstance(call, TaskCall):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"this takes task.bind(...), not {call!r}")
        self.refuse_unregistered(call.task)
        return self._row(call.task, self._checked_input(call.task, call.arguments))

    def fed_row(self, task: Task[..., Any], source: str, what: str) -> NewExecution:
        """The same for a task that waits its turn, and is then fed what the execution `source` has come to.

        `what` says what of it: see `durable_sync.outputs`.
        """
        self.refuse_unregistered(task)
        return evolve(self._row(task, json.dumps({task.schema.fed: what})), input_from=source, waits_turn=True)

    def _row(self, task: Task[..., Any], text: str) -> NewExecution:
        declared, given = task.declaration, task.overrides
        sleeps = isinstance(task.kind, Sleeper)
        if sleeps and given.key is None:
            raise ConfigurationError(f"{task.id} is a sleeping task, which is woken by a key: use its options(key=...)")
        timeout = given.timeout
        if sleeps and timeout is None and declared.timeout is not None:
            timeout = declared.timeout(0)
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
            timeout=None if timeout is None else microseconds(timeout),
            max_retries=given.max_retries,
            sleeps=sleeps,
        )

    def waking(self, task: Task[..., Any], output: Any) -> Transition:
        """How a sleeper ends that is woken with this output."""
        _refuse_sleepless(task)
        try:
            text = self._serializer.dumps(output, task.output_annotation)
        except SerializationError as error:
            raise InvalidInputError(f"invalid output for {task.id}: {error.message}") from error
        if len(text) > self._max_payload_bytes:
            raise InvalidInputError(
                f"invalid output for {task.id}: {len(text)} bytes of JSON, more than max_payload_bytes="
                f"{self._max_payload_bytes}"
            )
        return wake(text)

    def waking_with_error(self, task: Task[..., Any], error: Any) -> Transition:
        """How a sleeper ends that is woken with this error: a message or an exception."""
        _refuse_sleepless(task)
        if not isinstance(error, str | BaseException):
            raise ConfigurationError(f"{task.id}: error must be a message or an exception, not {error!r}")
        info = ErrorInfo.of(error if isinstance(error, BaseException) else TaskError(error))
        return wake_failed(evolve(info, retryable=False).to_json())

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
        validate_arguments(task, arguments)
        return text


def _refuse_sleepless(task: Task[..., Any]) -> None:
    if not isinstance(task.kind, Sleeper):
        raise ConfigurationError(f"{task.id} is no sleeping task, so it can't be woken")


def validate_arguments(task: Task[..., Any], arguments: Mapping[str, Any]) -> None:
    """Calls the task's `validate`; what it raises is the cause of InvalidInputError."""
    if task.declaration.validate is not None:
        args, kwargs = task.schema.call_arguments(dict(arguments))
        try:
            task.declaration.validate(*args, **kwargs)
        except Exception as error:
            raise InvalidInputError(f"invalid input for {task.id}: {type(error).__name__}: {error}") from error
