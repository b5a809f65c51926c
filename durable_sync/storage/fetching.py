"""Fetches many rows, in one where each costs a turn at the interpreter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.engine import Connection

from durable_sync.storage.statements import BULKY, Sql

__all__ = ["Fetch", "fetch_of"]


@frozen
class Fetch:
    """A statement that returns rows, and how they are fetched: each as a sequence, in no order that counts."""

    rows: Any
    in_one: Any = None
    """One row: the slender ones as a JSON text, and how many others there are."""
    bulky: Any = None
    """The others."""

    def __call__(self, connection: Connection, given: Mapping[str, Any]) -> list[Sequence[Any]]:
        """The rows, on this connection, with these parameters."""
        if self.in_one is None:
            return self._each(connection, self.rows, given)
        answer = connection.execute(self.in_one, given).one()
        fetched: list[Sequence[Any]] = json.loads(answer.slender)
        if answer.bulky:
            fetched += self._each(connection, self.bulky, given)
        return fetched

    def _each(self, connection: Connection, statement: Any, given: Mapping[str, Any]) -> list[Sequence[Any]]:
        # All at once: row after row costs several Python calls for each.
        return list(connection.execute(statement, given).all())


def fetch_of(sql: Sql, rows: Any, *texts: ColumnElement[str]) -> Fetch:
    """How to fetch the rows of a SELECT; `texts` are those of its columns whose texts may be long.

    Its columns must be integers and texts.
    """
    v = rows.subquery("v")
    listed = sql.dialect.listed_as_json(v.c)
    if listed is None:
        return Fetch(rows)
    if not texts:
        return Fetch(rows, select(listed.label("slender"), literal(0).label("bulky")))
    lengths: list[ColumnElement[int]] = [func.coalesce(func.length(v.c[text.key]), 0) for text in texts]
    is_bulky = sum(lengths[1:], lengths[0]) > BULKY
    return Fetch(
        rows,
        select(listed.filter(~is_bulky).label("slender"), func.count(case((is_bulky, 1))).label("bulky")),
        select(*v.c).where(is_bulky),
    )
