"""The databases that are measured: a file, and servers of our own, all with full durability."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers import MariaDBServer, PostgresServer

__all__ = ["databases"]


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """URLs of fresh databases by name; a server that isn't installed is left out."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="durable-sync-bench-")))
        urls = {"SQLite": f"sqlite:///{directory / 'bench.db'}"}
        for name, kind in {"PostgreSQL": PostgresServer, "MariaDB": MariaDBServer}.items():
            if kind.is_available():
                urls[name] = stack.enter_context(kind(fsync=True)).create_database()
        yield urls
