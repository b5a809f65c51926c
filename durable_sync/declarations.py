"""Options of tasks and of single enqueues, checked: ConfigurationError says what makes no sense."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, TypedDict

import tenacity
from attrs import frozen

from durable_sync.clock import from_datetime, seconds
from durable_sync.errors import ConfigurationError
from durable_sync.retry import retry_policy

__all__ = [
    "Declaration",
    "EnqueueOptions",
    "Overrides",
    "ParentOptions",
    "TaskOptions",
    "checked_count",
    "checked_declaration",
    "checked_id",
    "checked_key",
    "checked_overrides",
    "checked_queue",
    "checked_timeout",
    "refuse_unknown",
]

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


class ParentOptions(TaskOptions, total=False):
    """Options of a parent's declaration; see `TaskDecorators.parent_task`."""

    finalize: object
    fail_fast: bool


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


def refuse_unknown(name: str, options: Mapping[str, Any], known: type) -> None:
    """Raises ConfigurationError for an option that `known`, a TypedDict, has not."""
    names = sorted(known.__annotations__)
    for option in options:
        if option not in names:
            near = get_close_matches(option, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise _UnknownOptionError(f"{name}: there is no option {option!r}; {hint}")


def checked_id(task_id: Any) -> str:
    """A task's id."""
    if not isinstance(task_id, str) or not _ID.fullmatch(task_id):
        raise ConfigurationError(f"task id {task_id!r} is malformed: 1 to 200 letters, digits, '_', '-' and '.'")
    return task_id


def checked_declaration(name: str, options: Mapping[str, Any]) -> Declaration:
    """The options of the task that is called `name`."""
    validate = options.get("validate")
    if validate is not None and not callable(validate):
        raise ConfigurationError(f"{name}: validate must be callable, not {validate!r}")
    default = Declaration()
    return Declaration(
        timeout=checked_timeout(name, options.get("timeout")),
        retry=retry_policy(options.get("retry")),
        validate=validate,
        queue=checked_queue(options.get("queue", default.queue)),
        priority=_checked_priority(name, options.get("priority", 0)),
        delay=seconds(options.get("delay", 0), f"{name}: delay"),
        max_recoveries=checked_count(f"{name}: max_recoveries", options.get("max_recoveries", default.max_recoveries)),
    )


def checked_timeout(name: str, timeout: Any) -> Callable[[int], float | None] | None:
    """Seconds by attempt, of the option `timeout`."""
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


def checked_count(option: str, value: Any) -> int:
    """An int of zero or more."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_PRIORITY:
        raise ConfigurationError(f"{option} must be zero or a positive int, not {value!r}")
    return value


def checked_key(name: str, key: Any) -> str:
    """A key; `name` is the task's."""
    if not isinstance(key, str) or not 1 <= len(key) <= _MAX_KEY or _NOT_COMPARABLE.search(key):
        raise ConfigurationError(
            f"{name}: key must be a string of 1 to {_MAX_KEY} characters, without NUL, a lone surrogate, or a space "
            f"at its end, not {key!r}"
        )
    return key


def checked_overrides(name: str, changes: EnqueueOptions) -> dict[str, Any]:
    """The fields of Overrides that these options change."""
    checks: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "delay": ("delay", lambda v: seconds(v, f"{name}: delay")),
        "run_at": ("run_at", lambda v: from_datetime(v, f"{name}: run_at")),
        "priority": ("priority", lambda v: _checked_priority(name, v)),
        "queue": ("queue", checked_queue),
        "timeout": ("timeout", lambda v: seconds(v, f"{name}: timeout", positive=True)),
        "retry": ("max_retries", lambda v: checked_count(f"{name}: retry", v)),
        "key": ("key", lambda v: checked_key(name, v)),
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
