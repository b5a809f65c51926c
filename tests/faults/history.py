"""What every attempt did, told by the processes themselves: lines in a file, outside of the library's tables.

A line is one write to a file opened for appending, so lines of several processes don't mix, and one that was written
survives the death of its process. A write that crosses a page of the file may be seen half, and is left half when its
process is killed at it. So each begins a line of its own, and one without its end counts as not written: a function is
called, and its outcome handed on, only after the note of it. Times are of the system's monotonic clock, which processes
of one machine share.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import field, frozen

__all__ = ["End", "History", "Resignation", "Start", "append", "instrument", "read", "uid"]

_local = threading.local()


@frozen
class Start:
    """An attempt began: of an execution, under a claim token, as the `starts`th."""

    execution_id: str
    token: int
    task_id: str
    starts: int
    uid: str
    process: str
    """The name of the executor that owns it."""
    at: float
    """When its thread was about to look whether the lease still holds."""


@frozen
class End:
    """The function of an attempt returned, or raised the error named here."""

    execution_id: str
    token: int
    uid: str
    error: str | None
    at: float


@frozen
class Resignation:
    """An executor gave its lease back by its own wish."""

    owner: str
    at: float


@frozen
class History:
    """All lines of one run, in the order in which they were written."""

    starts: list[Start] = field(factory=list)
    ends: list[End] = field(factory=list)
    resignations: list[Resignation] = field(factory=list)
    told: dict[str, list[str]] = field(factory=dict)
    """Ids of executions by what a caller noted of them: "enqueued", "cancelled", "woken"."""
    times: dict[str, list[float]] = field(factory=dict)
    """When each of these was noted."""


def uid() -> str:
    """The id of the attempt that the calling thread is on: no other attempt ever has it."""
    return str(_local.uid)


def append(path: Path, **entry: Any) -> None:
    """Writes one line."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, ("\n" + json.dumps({"at": time.monotonic(), **entry}) + "\n").encode())
    finally:
        os.close(descriptor)


def _append_surely(path: Path, **entry: Any) -> None:
    """The same, also if the attempt is interrupted meanwhile. A shield would have an interrupt end what ignores it."""
    try:
        append(path, **entry)
    except BaseException:
        append(path, **entry)
        raise


def instrument(path: Path, process: str) -> None:
    """Has every attempt of this process noted, whatever its task, and every resignation."""
    from durable_sync.engine import runner
    from durable_sync.engine.lease import Lease
    from durable_sync.storage import leases

    call, resign, covers = runner._call, leases.resign, Lease.covers

    def noted_covers(lease: Lease, executor_id: str) -> bool:
        # Before it looks: who is stopped between this and the look finds that his lease has ended.
        _local.looked_at = time.monotonic()
        return covers(lease, executor_id)

    def noted_call(attempt: Any, *details: Any) -> Any:
        claimed = attempt.claimed
        _local.uid = uuid.uuid4().hex
        named = {"execution_id": claimed.execution_id, "token": claimed.claim_token, "uid": _local.uid}
        try:
            append(
                path,
                event="start",
                **named,
                task_id=claimed.task_id,
                starts=claimed.starts,
                process=process,
                at=_local.looked_at,
            )
            returned = call(attempt, *details)
        except BaseException as error:
            _append_surely(path, event="end", **named, error=type(error).__name__)
            raise
        _append_surely(path, event="end", **named, error=None)
        return returned

    def noted_resign(sql: Any, connection: Any, executor_id: str) -> None:
        append(path, event="resign", owner=executor_id)
        resign(sql, connection, executor_id)

    runner._call = noted_call
    Lease.covers = noted_covers  # type: ignore[method-assign]
    leases.resign = noted_resign


def read(path: Path) -> History:
    """The whole lines of the file; none, if there is none."""
    history = History()
    lines: Iterable[str] = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        if not line.endswith("}"):
            continue
        entry = json.loads(line)
        match entry.pop("event"):
            case "start":
                history.starts.append(Start(**entry))
            case "end":
                history.ends.append(End(**entry))
            case "resign":
                history.resignations.append(Resignation(**entry))
            case what:
                history.told.setdefault(what, []).append(entry["execution_id"])
                history.times.setdefault(what, []).append(entry["at"])
    return history
