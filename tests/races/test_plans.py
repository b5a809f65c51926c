"""How PostgreSQL plans what is asked by ids, when its statistics are of a time when the queue was empty."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event, text

from durable_sync.storage.statements import Fenced
from durable_sync.transitions import complete
from tests.races.holding import enqueue, open_storage

IDLE = "UPDATE durable_executions SET status = 'completed', lane = NULL, finished_at = 1"
BUSY = "UPDATE durable_executions SET status = 'ready', lane = 0, finished_at = NULL"


def test_ids_are_looked_up_by_their_own_index(postgres_url: str) -> None:
    """A queue that has filled since is not walked through for each of the ids."""
    storage = open_storage(postgres_url)
    ids = enqueue(storage, 2_000)
    database = storage.database
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in (IDLE, "VACUUM ANALYZE durable_executions", BUSY):
            connection.execute(text(statement))
    plans: dict[str, str] = {}

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if "any(" in statement or statement.startswith("/* durable_sync record"):
            beside = cursor.connection.cursor()
            beside.execute(f"EXPLAIN {statement}", parameters)
            plans[statement.split("*/", maxsplit=1)[0]] = "\n".join(line for (line,) in beside.fetchall())

    event.listen(database.engine, "before_cursor_execute", explain)
    assert storage.finished(ids[:1_000]) == set()
    assert storage.claim(ids[:200], limit=200, executor_id="nobody") == []
    outcomes = [Fenced(name, 1, complete("1")) for name in ids[:200]]
    assert storage.record(outcomes, uncertain=False).won == set()
    event.remove(database.engine, "before_cursor_execute", explain)

    assert len(plans) == 3
    for plan in plans.values():
        assert "durable_executions_pkey" in plan
        assert "ix_durable_executions" not in plan
