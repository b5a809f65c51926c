"""Work of a user whose tasks compete for the few connections of an engine that is the executor's too."""

from __future__ import annotations

import json
import time

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from durable_sync import TaskRegistry
from tests.faults import history
from tests.faults.workload import LIVES

__all__ = ["borrow", "make_engine", "registry"]

registry = TaskRegistry()
_engines: list[Engine] = []


def make_engine(url: str, options: str) -> Engine:
    """The engine that this process's tasks use from now on. `options` is the JSON of those of `create_engine`."""
    _engines.append(create_engine(url, **json.loads(options)))
    return _engines[-1]


@registry.task(max_recoveries=LIVES)
def borrow(seconds: float) -> str:
    """Keeps a connection for so long, in a transaction."""
    with _engines[-1].begin() as connection:
        connection.execute(text("SELECT 1"))
        time.sleep(seconds)
    return history.uid()
