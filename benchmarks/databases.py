"""The databases that are measured: a file, and servers of our own, all with full durability."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers import MariaDBServer, PostgresServer, Server

__all__ = ["NAMES", "Databases", "databases"]

_SERVERS: dict[str, type[Server]] = {"PostgreSQL": PostgresServer, "MariaDB": MariaDBServer}
NAMES = ("SQLite", *_SERVERS)


class Databases:
    """Fresh, empty databases of each kind, for a part to have by itself. To be left as a context."""

    def __init__(self, names: Collection[str] = NAMES) -> None:
        """`names`: the kinds; a server that isn't installed is left out."""
        self._stack = ExitStack()
        self._servers: dict[str, Server] = {}
        self.names = [name for name in NAMES if name in names and (name == "SQLite" or _SERVERS[name].is_available())]

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *_details: object) -> None:
        self._stack.close()

    @contextmanager
    def fresh(self, name: str) -> Generator[str]:
        """The URL of a database that exists while the block lasts."""
        if name == "SQLite":
            with tempfile.TemporaryDirectory(prefix="durable-sync-bench-") as directory:
                yield f"sqlite:///{Path(directory) / 'bench.db'}"
            return
        server = self._server(name)
        url = server.create_database()
        try:
            yield url
        finally:
            server.drop_database(url)

    def _server(self, name: str) -> Server:
        if name not in self._servers:
            self._servers[name] = self._stack.enter_context(_SERVERS[name](fsync=True))
        return self._servers[name]


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """URLs of fresh databases by name; a server that isn't installed is left out."""
    with ExitStack() as stack:
        made = stack.enter_context(Databases())
        yield {name: stack.enter_context(made.fresh(name)) for name in made.names}
