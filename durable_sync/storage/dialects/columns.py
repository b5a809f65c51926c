"""Column types and indexes, as each database needs them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, String, Text, TypeDecorator, text

from durable_sync.storage.dialects.mysql import for_transport

__all__ = ["name_type", "partial_index", "payload_type"]


def name_type(length: int) -> String:
    """Text of up to `length` characters, compared byte by byte: a server's default may be latin1 and fold case."""
    return (
        String(length)
        .with_variant(String(length, collation="C"), "postgresql")
        .with_variant(String(length, collation="utf8mb4_bin"), "mysql", "mariadb")
    )


class _LongText(TypeDecorator[str]):
    """MySQL's TEXT ends at 64 KiB; of this length it is a LONGTEXT."""

    impl = Text(2**32 - 1, collation="utf8mb4_bin")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> Any:
        return for_transport(value)


def payload_type() -> Text:
    """JSON text of any length."""
    return Text().with_variant(_LongText(), "mysql", "mariadb")


def partial_index(name: str, *columns: Any, where: str, unique: bool = False) -> Index:
    """An index of the rows of which `where` is true; of all rows, where a database has no such indexes."""
    condition = text(where)
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)
