"""The database of a run: what its URL means, and in one line why it can't be used."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from durable_sync import DurableError, ExecutionNotFoundError
from durable_sync.demo.errors import DemoError

__all__ = ["DEFAULT_DATABASE", "Database"]

DEFAULT_DATABASE = "sqlite:///durable-sync-demo.db"
"""In the current directory, so that a second run finds it."""


@frozen
class Database:
    """Where a run is recorded."""

    url: URL

    @classmethod
    def parse(cls, url: str) -> Database:
        """Raises DemoError if `url` is none, or of a database that ends with its process."""
        try:
            database = cls(make_url(url))
        except ArgumentError:
            raise DemoError(f"{url!r} is not a database URL; one is sqlite:///jobs.db") from None
        if database._is_sqlite and database.url.database in {None, "", ":memory:"}:
            raise DemoError(f"{url} is lost when its process ends; name a file, as in sqlite:///jobs.db")
        return database

    def __str__(self) -> str:
        if self._is_sqlite:
            return str(self._file)
        return self.url.render_as_string(hide_password=True)

    @property
    def files(self) -> frozenset[Path]:
        """What SQLite keeps on disk; nothing for a server."""
        if not self._is_sqlite:
            return frozenset()
        path = self._file
        beside = (path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))
        return frozenset({path, *beside})

    @contextmanager
    def connected(self) -> Generator[Engine, None, None]:
        """An engine that has reached the database, disposed of afterwards."""
        engine = create_engine(self.url)
        try:
            engine.connect().close()
            yield engine
        finally:
            engine.dispose()

    @contextmanager
    def clear_errors(self) -> Generator[None, None, None]:
        """What the database or the library raises inside becomes a DemoError of one line."""
        try:
            yield
        except ExecutionNotFoundError as error:
            raise DemoError(f"{self}: what the last run recorded is gone; --fresh starts over") from error
        except (DurableError, SQLAlchemyError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            text = str(cause).strip() or type(cause).__name__
            raise DemoError(f"{self}: {text.splitlines()[0]}") from error

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def _file(self) -> Path:
        return Path(self.url.database or "").resolve()
