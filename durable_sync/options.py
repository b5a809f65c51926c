"""The options of an executor, checked: ConfigurationError says what makes no sense."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from durable_sync.clock import seconds
from durable_sync.declarations import checked_queue
from durable_sync.errors import ConfigurationError
from durable_sync.registry import TaskRegistry

if TYPE_CHECKING:
    from durable_sync.storage.tables import Tables

__all__ = ["checked_lease", "checked_name", "checked_queues", "checked_tables", "positive_int", "registries"]


def registries(tasks: Any) -> list[TaskRegistry]:
    """The registries that `tasks=` names."""
    given: list[Any] = [] if tasks is None else [tasks] if isinstance(tasks, TaskRegistry) else list(tasks)
    for registry in given:
        if not isinstance(registry, TaskRegistry):
            raise ConfigurationError(f"tasks must be a TaskRegistry or several, not {registry!r}")
    return given


def checked_name(name: Any) -> str:
    """The executor's name; the host's by default."""
    given = socket.gethostname() if name is None else name
    if not isinstance(given, str) or not 1 <= len(given) <= 255 or not given.isprintable():
        raise ConfigurationError(f"name must be 1 to 255 printable characters, not {given!r}")
    return given


def positive_int(option: str, value: Any) -> int:
    """An int of one or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{option} must be a positive int, not {value!r}")
    return value


def checked_lease(lease: float | timedelta) -> float:
    """The lease in seconds."""
    checked = seconds(lease, "lease", positive=True)
    if checked < 1:
        raise ConfigurationError(
            f"lease must be at least one second, not {lease!r}: a busy process would be taken for dead"
        )
    return checked


def checked_queues(queues: Iterable[str] | None) -> frozenset[str] | None:
    """The queues to serve; None for every queue."""
    if queues is None:
        return None
    if isinstance(queues, str):
        raise ConfigurationError(f"queues must be several names, such as [{queues!r}], not one string")
    checked = frozenset(checked_queue(queue) for queue in queues)
    if not checked:
        raise ConfigurationError("queues names none; None serves every queue")
    return checked


def checked_tables(prefix: Any, schema: Any) -> Tables:
    """The tables under a prefix and a schema."""
    if not isinstance(prefix, str) or not prefix.isidentifier() or len(prefix) > 30:
        raise ConfigurationError(f"table_prefix must be 1 to 30 letters, digits and '_', not {prefix!r}")
    if schema is not None and not (isinstance(schema, str) and schema):
        raise ConfigurationError(f"schema must be a name, not {schema!r}")
    from durable_sync.storage.tables import build_tables

    return build_tables(prefix, schema)
