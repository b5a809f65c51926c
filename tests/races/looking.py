"""What a reader from outside sees of the tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, text

__all__ = ["row", "rows"]


def rows(url: str, columns: str, table: str = "durable_executions") -> list[tuple[Any, ...]]:
    """What a reader from outside sees."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY id"))]
    engine.dispose()
    return found


def row(url: str, execution_id: str, columns: str) -> tuple[Any, ...]:
    """One execution, as a reader from outside sees it."""
    return next(found[1:] for found in rows(url, f"id, {columns}") if found[0] == execution_id)
