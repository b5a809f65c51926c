"""Lets a process stop itself, as by SIGSTOP from outside, in the middle of a write transaction on SQLite."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

__all__ = ["arrange"]


def arrange(order: Path) -> None:
    """Stops this process before its next COMMIT of a write once the file `order` exists, which is taken away then."""
    from durable_sync.storage.connections import Connections

    make = Connections._make_engine

    def make_engine(self: Connections, *how: Any) -> Any:
        engine = make(self, *how)
        do_commit = engine.dialect.do_commit

        def interrupted(connection: Any) -> None:
            # A read has begun no transaction; what has, holds the lock from its BEGIN IMMEDIATE on.
            if connection.in_transaction and order.exists():
                order.unlink()
                # To this very thread: it could run on for a while if another were to take the signal.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            do_commit(connection)

        engine.dialect.do_commit = interrupted  # type: ignore[method-assign]
        return engine

    Connections._make_engine = make_engine  # type: ignore[method-assign]
