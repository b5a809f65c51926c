"""Every error that durable_sync raises.

```
DurableError
├── ConfigurationError
├── InvalidInputError           also a ValueError
├── SerializationError
├── TaskNotRegisteredError
├── ExecutionNotFoundError
├── ExecutorShutdownError
├── DatabaseVersionError
└── TaskError
    ├── TaskTimedOutError
    ├── TaskCancelledError
    ├── ChildrenFailedError
    └── FinalizeFailedError
```

The docstring of a class is its default message.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable_sync.execution import Execution

__all__ = [
    "ChildrenFailedError",
    "ConfigurationError",
    "DatabaseVersionError",
    "DurableError",
    "ExecutionNotFoundError",
    "ExecutorShutdownError",
    "FinalizeFailedError",
    "InvalidInputError",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "TaskNotRegisteredError",
    "TaskTimedOutError",
]


class DurableError(Exception):
    """Something went wrong in durable_sync."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else inspect.getdoc(type(self)))

    @property
    def message(self) -> str:
        """What went wrong, in a sentence."""
        return str(self.args[0])


class ConfigurationError(DurableError):
    """An option makes no sense, or a task id is malformed or taken."""


class InvalidInputError(DurableError, ValueError):
    """The input does not fit the function's signature and annotations."""


class SerializationError(DurableError):
    """A value can't be written as JSON, or stored JSON can't be read as its type."""


class TaskNotRegisteredError(DurableError):
    """The task is not registered with this executor."""


class ExecutionNotFoundError(DurableError):
    """There is no such execution, or its transaction has not committed."""


class ExecutorShutdownError(DurableError):
    """The executor was shut down; make a new one."""


class DatabaseVersionError(DurableError):
    """The tables are newer than this library, or older or absent while migrate=False."""


class TaskError(DurableError):
    """The task failed.

    Raise it in a task to fail with a message of your own; `retryable=False` fails at once, whatever
    the retry policy says. `TaskHandle.result` raises it, with `execution` set, when the
    execution did not complete.
    """

    execution: Execution | None = None

    def __init__(self, message: str | None = None, *, retryable: bool = True) -> None:
        super().__init__(message if message is not None else _first_line(type(self)))
        self.retryable = retryable


class TaskTimedOutError(TaskError):
    """The task timed out."""


class TaskCancelledError(TaskError):
    """The task was cancelled."""

    def __init__(self, message: str | None = None, *, retryable: bool = False) -> None:
        super().__init__(message, retryable=retryable)


class ChildrenFailedError(TaskError):
    """A child of the task did not complete."""


class FinalizeFailedError(TaskError):
    """The finalize function of the task failed."""


def _first_line(cls: type[TaskError]) -> str:
    return (inspect.getdoc(cls) or cls.__name__).splitlines()[0]
