"""Connections that are opened the way a user's engine opens them, and are ours from then on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

__all__ = ["Opener"]

# Of the thread that is opening one: the listener below is the user's engine's too, and must do nothing to his own.
_local = threading.local()


class Opener:
    """Opens connections through a copy of the engine's pool: with all that the user set up, and none of his own.

    `bounds` are arguments for the driver that he may have left out; an engine with a `creator` does without them.
    `opened` is called with each one before the user's own hooks run on it.
    """

    def __init__(self, engine: Engine, bounds: dict[str, Any], opened: Callable[[Any], None]) -> None:
        self._pool = engine.pool.recreate()
        self._bounds = bounds

        def on_connect(raw: Any, _record: Any) -> None:
            opened(raw)

        event.listen(self._pool, "connect", on_connect, insert=True)
        if not event.contains(engine.dialect, "do_connect", _add_bounds):
            event.listen(engine.dialect, "do_connect", _add_bounds)

    def open(self) -> Any:
        """A new connection of the driver's."""
        _local.bounds = self._bounds
        try:
            fairy = self._pool.connect()
        finally:
            _local.bounds = {}
        fairy.detach()
        return fairy.dbapi_connection


def _add_bounds(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
    for name, value in getattr(_local, "bounds", {}).items():
        options.setdefault(name, value)
