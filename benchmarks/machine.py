"""The machine, and the versions of all that has a share in the figures."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from benchmarks.databases import Databases

__all__ = ["machine", "versions"]

_PACKAGES = ("SQLAlchemy", "psycopg", "PyMySQL", "cattrs", "tenacity")


def machine() -> str:
    """Where this runs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {platform.system()} {platform.machine()}, "
        f"an fsync of {_fsync() * 1e6:.0f} µs, the databases on the same machine"
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _fsync() -> float:
    """Seconds to make a small write durable, where the databases are."""
    taken: list[float] = []
    with tempfile.TemporaryFile() as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return median(taken)


def versions(databases: Databases) -> dict[str, str]:
    """What runs here, by name."""
    found = {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    for name in databases.names:
        found[name] = sqlite3.sqlite_version if name == "SQLite" else _server_version(databases, name)
    return found


def _server_version(databases: Databases, name: str) -> str:
    with databases.fresh(name) as url, create_engine(url, poolclass=NullPool).connect() as connection:
        answer = str(connection.exec_driver_sql("SELECT version()").scalar())
    found = re.search(r"\d[\d.]*", answer)
    return found[0] if found else answer
