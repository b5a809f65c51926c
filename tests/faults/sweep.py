"""Lets a process die before, or after, or lose the answer of, one COMMIT: the nth that it makes."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from itertools import count
from typing import Any

import psycopg
import pymysql

__all__ = ["MODES", "arrange"]

MODES = ("before", "after", "lost")


def arrange(place: int, mode: str, reached: str) -> None:
    """Spoils the COMMIT number `place`, counted from 1; the file `reached` is made when it comes."""
    from durable_sync.storage.connections import Connections

    make = Connections._make_engine
    numbers = count(1)
    lock = threading.Lock()

    def make_engine(self: Connections, *how: Any) -> Any:
        engine = make(self, *how)
        do_commit = engine.dialect.do_commit

        def spoiled(connection: Any) -> None:
            with lock:
                chosen = next(numbers) == place
            if chosen:
                os.close(os.open(reached, os.O_CREAT | os.O_WRONLY))
                if mode == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
            do_commit(connection)
            if chosen and mode == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            if chosen:
                raise _lost_answer(connection)

        engine.dialect.do_commit = spoiled  # type: ignore[method-assign]
        return engine

    Connections._make_engine = make_engine  # type: ignore[method-assign]


def _lost_answer(connection: Any) -> Exception:
    """What the driver raises when the server's answer doesn't come; the connection is gone then."""
    driver = getattr(connection, "driver_connection", connection)
    if isinstance(driver, sqlite3.Connection):
        return sqlite3.OperationalError("disk I/O error")
    driver.close()
    if isinstance(driver, psycopg.Connection):
        return psycopg.OperationalError("server closed the connection unexpectedly")
    return pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")
