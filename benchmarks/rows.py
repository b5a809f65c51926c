"""Fills a table of executions with millions of rows, by the database's own means."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from benchmarks.setting import said

__all__ = ["FINISHED", "fill", "later", "settle", "unknown"]

_AT_ONCE = 250_000
_YEAR = 365 * 24 * 3600 * 1_000_000
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT {first} UNION ALL SELECT n+1 FROM s WHERE n < {last}) SELECT n FROM s)",
    "postgresql": "generate_series(CAST({first} AS bigint), {last}) AS s(n)",
    "mysql": "(SELECT seq AS n FROM seq_{first}_to_{last}) AS s",
}
_IDS = {
    "sqlite": "printf('%08x-0000-7000-8000-000000000000', n)",
    "postgresql": "lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000'",
    "mysql": "CONCAT(LPAD(LOWER(HEX(n)), 8, '0'), '-0000-7000-8000-000000000000')",
}
_SETTLED = {
    "sqlite": "PRAGMA wal_checkpoint(TRUNCATE)",
    "postgresql": "VACUUM ANALYZE {table}",
    "mysql": "ANALYZE TABLE {table}",
}
_PAST = "1700000000000000 + n * 1000"
_ANY = {
    "queue": "'default'",
    "priority": "0",
    "max_recoveries": "3",
    "created_at": _PAST,
    "updated_at": _PAST,
    "input": "'{\"number\": 1}'",
}
FINISHED = {
    **_ANY,
    "task_id": "'small'",
    "status": "'completed'",
    "executor_id": "'00000000-0000-0000-0000-000000000000'",
    "claim_token": "1",
    "starts": "1",
    "ready_at": _PAST,
    "first_started_at": _PAST,
    "started_at": _PAST,
    "finished_at": _PAST,
    "run_output": "'1'",
}
"""Executions that have completed."""


def unknown() -> Mapping[str, str]:
    """Ready executions of a task that no executor here knows, older than any other."""
    return {**_ANY, "task_id": "'unknown'", "status": "'ready'", "lane": "0", "ready_at": _PAST}


def later() -> Mapping[str, str]:
    """Executions of a known task, of a higher priority, which are not due for a year."""
    due = f"{time.time_ns() // 1000 + _YEAR} + n"
    return {**_ANY, "task_id": "'small'", "status": "'ready'", "priority": "9", "timer_at": due, "ready_at": due}


def fill(url: str, table: str, number: int, columns: Mapping[str, str]) -> None:
    """Writes so many rows, settles the table, and says how long it took."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    kind = _kind(url)
    with said(f"filled {table} with {number:,} rows"), engine.connect() as connection:
        for first in range(1, number + 1, _AT_ONCE):
            numbers = _NUMBERS[kind].format(first=first, last=min(first + _AT_ONCE - 1, number))
            values = ", ".join([_IDS[kind], *columns.values()])
            # Whoever has this text quoted by a driver would have to double its per cents.
            cursor = connection.connection.cursor()
            cursor.execute(f"INSERT INTO {table} (id, {', '.join(columns)}) SELECT {values} FROM {numbers}")
            cursor.close()
        settle(url, table)


def settle(url: str, table: str) -> None:
    """Has the server look at a table as it would by itself in time: also at one that others are held against."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(_SETTLED[_kind(url)].format(table=table)))


def _kind(url: str) -> str:
    name = make_url(url).get_backend_name()
    return {"mariadb": "mysql"}.get(name, name)
