"""What a process holds: threads, descriptors, memory; and its connections to one database, as the system sees them.

Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from pathlib import Path

import psutil
from attrs import frozen
from sqlalchemy import make_url

__all__ = ["IS_KNOWN", "Holdings", "connections", "descriptors"]

IS_KNOWN = Path("/proc/self/fd").is_dir()
"""False where the system doesn't tell."""


@frozen
class Holdings:
    """What a process held at one moment."""

    threads: int
    descriptors: int
    sockets: int
    rss: int
    """Bytes of memory, without what is free and merely kept by the C library."""
    objects: int
    """Objects that the garbage collector knows of, after a collection."""

    @classmethod
    def take(cls) -> Holdings:
        """Of the calling process, now."""
        gc.collect()
        _trim()
        open_now = descriptors(os.getpid())
        return cls(
            threads=threading.active_count(),
            descriptors=len(open_now),
            sockets=sum(name.startswith("socket:") for name in open_now),
            rss=psutil.Process().memory_info().rss,
            objects=len(gc.get_objects()),
        )


def _trim() -> None:
    """Gives free memory back to the system, where the C library is one that can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process stand for: `socket:[inode]`, or the path of a file."""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.append(str(entry.readlink()))
        except FileNotFoundError:
            # Closed meanwhile; that of this very look among them.
            continue
    return names


def connections(pid: int, url: str) -> set[str]:
    """What a process has open of this database: its files, or sockets to its server.

    No two sockets have the same name.
    """
    database = make_url(url)
    if database.port is None:
        return {name for name in descriptors(pid) if name.startswith(str(database.database))}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    leading = {f"socket:[{row[9]}]" for row in rows if int(row[2].rpartition(":")[2], 16) == database.port}
    return leading & set(descriptors(pid))
