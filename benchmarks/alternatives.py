"""Ways that the library does not go, beside those that it goes: what they would gain, on the bare program."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import Column, MetaData, Table, insert, select, update
from sqlalchemy.engine import Connection

from benchmarks.figures import Figure
from benchmarks.raw import BATCH, OUTPUT, Raw
from benchmarks.setting import Setting, compared, taking_turns

__all__ = ["measure"]

PART = "alternatives"
LONG = 1_500
"""Characters: as much as PostgreSQL keeps in the row itself."""


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database, in rows a second."""
    number = setting.size(20_000, 1_000)
    with closing(Raw(setting.url)) as raw:
        taken = taking_turns(
            setting.rounds,
            {
                "as it is": lambda: _in_turns(raw, number, together=False),
                "the other way": lambda: _in_turns(raw, number, together=True),
            },
        )
    yield compared(PART, "completions and the next claim in one transaction", taken, "as it is", "the other way")
    for name, payload in (("short", json.dumps({"number": 1})), (f"of {LONG:,} characters", json.dumps("x" * LONG))):
        prefix = f"{len(payload)}_"
        with (
            closing(Within(setting.url, f"within_{prefix}", payload)) as within,
            closing(Apart(setting.url, f"apart_{prefix}", payload)) as apart,
        ):
            taken = taking_turns(
                setting.rounds,
                {
                    "as it is": lambda: number / within.end_to_end(number, BATCH),
                    "the other way": lambda: number / apart.end_to_end(number, BATCH),
                },
            )
        yield compared(
            PART, f"inputs and outputs in a table of their own, inputs {name}", taken, "as it is", "the other way"
        )


def _in_turns(raw: Raw, number: int, *, together: bool) -> float:
    """Rows a second that are claimed and completed, all of them inserted before."""
    fresh = raw.rows(number)
    for start in range(0, number, BATCH):
        raw.insert(fresh[start : start + BATCH])
    began = time.perf_counter()
    ids = raw.claim(BATCH)
    for _ in range(number // BATCH - 1):
        if together:
            with raw.transaction() as connection:
                raw.complete_in(connection, ids)
                ids = raw.claim_in(connection, BATCH)
        else:
            raw.complete(ids)
            ids = raw.claim(BATCH)
    raw.complete(ids)
    return number / (time.perf_counter() - began)


class Within(Raw):
    """The bare program, which also reads the input of what it has claimed."""

    def __init__(self, url: str, prefix: str, payload: str) -> None:
        super().__init__(url, prefix, payload)
        self._read = self._reading(self.tables.executions)

    def _reading(self, table: Table) -> Any:
        return select(table.c.id, table.c.input).where(self.dialect.is_among(table.c.id, "v_ids"))

    def claim_in(self, connection: Connection, limit: int) -> list[str]:
        """And reads."""
        ids = super().claim_in(connection, limit)
        connection.execute(self._read, {"v_ids": ids}).all()
        return ids


class Apart(Within):
    """The same, with inputs and outputs in a table of their own: the rows that are updated are short."""

    def __init__(self, url: str, prefix: str, payload: str) -> None:
        super().__init__(url, prefix, payload)
        c = self.tables.executions.c
        self._payloads = Table(
            f"{prefix}payloads",
            MetaData(),
            Column("id", c.id.type, primary_key=True),
            Column("input", c.input.type),
            Column("run_output", c.run_output.type),
        )
        self._payloads.create(self.engine)
        p = self._payloads
        given = self.dialect.rows_of_json("v_rows", {"id": p.c.id.type, "input": p.c.input.type})
        self._put = insert(p).from_select(["id", "input"], select(*given.c))
        made = self.dialect.rows_of_json("v_rows", {"id": p.c.id.type, "run_output": p.c.run_output.type})
        self._note = (
            update(p)
            .where(p.c.id == made.c.id, self.dialect.is_first_of_rows(p.c.id, "v_rows"))
            .values(run_output=made.c.run_output)
        )
        self._read = self._reading(p)

    def insert_in(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Into both."""
        super().insert_in(connection, [{**row, "input": ""} for row in rows])
        connection.execute(self._put, {"v_rows": json.dumps([[row["id"], row["input"]] for row in rows])})

    def complete_in(self, connection: Connection, ids: Sequence[str]) -> None:
        """In both."""
        super().complete_in(connection, ids)
        connection.execute(self._note, {"v_rows": json.dumps([[name, OUTPUT] for name in ids])})
