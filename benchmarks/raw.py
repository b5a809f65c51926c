"""The limit that a figure is held against: bare SQLAlchemy Core on the same tables and indexes, in one thread.

The same rows are inserted, claimed and completed with the same durability, by statements that are built once; many
rows go as one JSON text, which is the quickest way on all three databases. Left out is all that makes it a library:
threads, leases, a fence beyond the status, handles, serialisation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import BigInteger, bindparam, create_engine, func, insert, select, update
from sqlalchemy.engine import Connection, Engine

from durable_sync.ids import new_id
from durable_sync.storage.database import Database
from durable_sync.storage.tables import Tables, build_tables

__all__ = ["BATCH", "OUTPUT", "Raw"]

BATCH = 100
"""Rows in one statement of the batched program."""
OUTPUT = "1"
_INPUT = '{"number": 1}'


class Raw:
    """The bare program on one database, under a table prefix of its own."""

    def __init__(self, url: str, prefix: str = "raw_", payload: str = _INPUT) -> None:
        """`payload`: the input of each row."""
        self._payload = payload
        self.tables: Tables = build_tables(prefix)
        # The library's own settings of a connection, and nothing else of it: full durability, READ COMMITTED.
        settings = Database(url)
        self.dialect = settings.dialect
        options: dict[str, Any] = {**settings.dialect.engine_options(), "pool_reset_on_return": None}
        self.engine: Engine = create_engine(settings.url, **options)
        settings.dialect.prepare(self.engine, busy_seconds=5.0)
        settings.retire()
        with self.engine.begin() as connection:
            self.tables.metadata.create_all(connection)
        c = self.tables.executions.c
        self._insert = insert(self.tables.executions)
        self._columns = list(self.rows(1)[0])
        self._look = (
            select(c.id)
            .where(c.lane == 0, c.task_id == "bench", c.queue == "default")
            .order_by(c.priority.desc(), c.ready_at)
            .limit(bindparam("v_limit"))
        )
        if self.dialect.skip_locked:
            self._look = self._look.with_for_update(skip_locked=True)
        self._claim = (
            update(self.tables.executions)
            .where(c.status == "ready")
            .values(
                status="running",
                lane=None,
                executor_id="raw",
                claim_token=c.claim_token + 1,
                starts=c.starts + 1,
                started_at=bindparam("v_now"),
                first_started_at=func.coalesce(c.first_started_at, bindparam("v_now", type_=BigInteger)),
                updated_at=bindparam("v_now"),
            )
        )
        self._complete = (
            update(self.tables.executions)
            .where(c.id == bindparam("v_id"), c.status == "running")
            .values(
                status="completed",
                run_output=bindparam("v_output"),
                finished_at=bindparam("v_now"),
                updated_at=bindparam("v_now"),
            )
        )
        self._claim_one = self._claiming(c.id == bindparam("v_id"))
        self._claim_many = self._claiming(self.dialect.is_among(c.id, "v_ids"))
        self._insert_listed, self._complete_listed = self._by_json()

    def _claiming(self, condition: Any) -> Any:
        c = self.tables.executions.c
        statement = self._claim.where(condition)
        return statement.returning(c.id, c.claim_token, c.input) if self.dialect.update_returning else statement

    def _by_json(self) -> tuple[Any, Any]:
        """An INSERT and a completion of the rows that the parameter `v_rows` lists."""
        t = self.tables.executions
        new = self.dialect.rows_of_json("v_rows", {name: t.c[name].type for name in self._columns})
        done = self.dialect.rows_of_json("v_rows", {"v_id": t.c.id.type, "v_output": t.c.run_output.type})
        now = bindparam("v_now", type_=BigInteger)
        completion = (
            update(t)
            .where(t.c.id == done.c.v_id, t.c.status == "running", self.dialect.is_first_of_rows(t.c.id, "v_rows"))
            .values(status="completed", run_output=done.c.v_output, finished_at=now, updated_at=now)
        )
        return insert(t).from_select(self._columns, select(*new.c)), completion

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One commit."""
        with self.engine.begin() as connection:
            yield connection

    def rows(self, number: int) -> list[dict[str, Any]]:
        """New rows that may be claimed."""
        now = time.time_ns() // 1000
        return [
            {
                "id": new_id(),
                "task_id": "bench",
                "status": "ready",
                "queue": "default",
                "priority": 0,
                "lane": 0,
                "max_recoveries": 3,
                "created_at": now,
                "ready_at": now + place,
                "updated_at": now,
                "input": self._payload,
            }
            for place in range(number)
        ]

    def insert(self, rows: Sequence[dict[str, Any]]) -> None:
        """One commit."""
        with self.transaction() as connection:
            self.insert_in(connection, rows)

    def insert_in(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """The same within a transaction."""
        if len(rows) > 1:
            listed = json.dumps([[row[name] for name in self._columns] for row in rows])
            connection.execute(self._insert_listed, {"v_rows": listed})
        else:
            connection.execute(self._insert, rows[0])

    def claim(self, limit: int) -> list[str]:
        """One commit; returns the ids."""
        with self.transaction() as connection:
            return self.claim_in(connection, limit)

    def claim_in(self, connection: Connection, limit: int) -> list[str]:
        """The same within a transaction. What is claimed is found first, as by whoever doesn't know what there is."""
        now = time.time_ns() // 1000
        ids = list(connection.execute(self._look, {"v_limit": limit}).scalars())
        if limit == 1:
            won = connection.execute(self._claim_one, {"v_id": ids[0], "v_now": now})
        else:
            won = connection.execute(self._claim_many, {"v_ids": ids, "v_now": now})
        return [row.id for row in won] if self.dialect.update_returning else ids

    def complete(self, ids: Sequence[str]) -> None:
        """One commit."""
        with self.transaction() as connection:
            self.complete_in(connection, ids)

    def complete_in(self, connection: Connection, ids: Sequence[str]) -> None:
        """The same within a transaction."""
        now = time.time_ns() // 1000
        if len(ids) > 1:
            listed = json.dumps([[name, OUTPUT] for name in ids])
            connection.execute(self._complete_listed, {"v_rows": listed, "v_now": now})
        else:
            connection.execute(self._complete, {"v_id": ids[0], "v_output": OUTPUT, "v_now": now})

    def end_to_end(self, number: int, batch: int) -> float:
        """Seconds to insert, claim and complete so many rows in batches of this size."""
        fresh = self.rows(number)
        began = time.perf_counter()
        for start in range(0, number, batch):
            self.insert(fresh[start : start + batch])
        for _ in range(0, number, batch):
            self.complete(self.claim(batch))
        return time.perf_counter() - began

    def three_commits(self, number: int) -> list[float]:
        """Seconds that each of so many rows takes from insert to completion, one after another."""
        taken: list[float] = []
        for row in self.rows(number):
            began = time.perf_counter()
            self.insert([row])
            self.complete(self.claim(1))
            taken.append(time.perf_counter() - began)
        return taken

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()
