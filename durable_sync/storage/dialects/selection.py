"""Which dialect and which driver a URL means."""

from __future__ import annotations

from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchModuleError

from durable_sync.errors import ConfigurationError
from durable_sync.storage.dialects.base import Dialect
from durable_sync.storage.dialects.mysql import MySQL
from durable_sync.storage.dialects.postgresql import PostgreSQL
from durable_sync.storage.dialects.sqlite import SQLite

__all__ = ["PORTABLE_OPTION", "dialect_for", "require_driver", "settled", "with_driver"]

PORTABLE_OPTION = "durable_sync_portable"
"""An engine with this execution option set to True is used on the portable path, whatever its database."""

_DIALECTS: dict[str, type[Dialect]] = {
    "sqlite": SQLite,
    "postgresql": PostgreSQL,
    "mysql": MySQL,
    "mariadb": MySQL,
}

_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""Used for a URL that names none: what it would mean otherwise depends on SQLAlchemy's version."""

_EXTRAS = {"postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}
_URL_HINTS = {
    "postgresql": "postgresql+psycopg://user@host/database",
    "mysql": "mysql+pymysql://user@host/database",
    "mariadb": "mysql+pymysql://user@host/database",
}


class _Portable:
    """Mixed in front of a dialect: its connection habits, none of its capabilities."""

    server_clock = False
    skip_locked = False
    update_returning = False
    json_rows = False
    reads_in_autocommit = False

    is_in = Dialect.is_in
    is_among = Dialect.is_among
    insert_unless_taken = Dialect.insert_unless_taken


def dialect_for(name: str, *, portable: bool) -> Dialect:
    """The dialect of a database, by SQLAlchemy's name for it; `portable` strips it of all capabilities."""
    best = _DIALECTS.get(name, Dialect)
    if not portable:
        return best()
    portable_kind: type[Dialect] = type("Portable" + best.__name__, (_Portable, best), {})
    return portable_kind()


def with_driver(url: URL) -> URL:
    """The URL with the driver that we test, unless it names one."""
    driver = None if "+" in url.drivername else _DRIVERS.get(url.drivername)
    return url if driver is None else url.set(drivername=f"{url.drivername}+{driver}")


def settled(url: URL) -> URL:
    """The URL in a form that means the same wherever the process moves to."""
    return dialect_for(url.get_backend_name(), portable=False).settled(url)


def require_driver(url: URL) -> None:
    """Raises ConfigurationError if the URL's driver is not there, naming the extra that installs it."""
    backend = url.get_backend_name()
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        raise ConfigurationError(f"SQLAlchemy knows no database {url.drivername!r}: check the URL's scheme") from error
    except ImportError as error:
        extra = _EXTRAS.get(backend)
        remedy = (
            f"pip install 'durable-sync[{extra}]' and write the URL as {_URL_HINTS[backend]}"
            if extra
            else "install it with pip"
        )
        raise ConfigurationError(f"the driver of {url.drivername!r} is not installed ({error}): {remedy}") from error
