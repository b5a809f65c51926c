"""Which processes work: what they have claimed and started, by the logs of the database and their own."""

from __future__ import annotations

from sqlalchemy import text

from tests.faults import history
from tests.faults.laboratory import Laboratory

__all__ = ["working_since"]


def working_since(laboratory: Laboratory, since: float) -> dict[str, float]:
    """The processes that have started what they have claimed since then (monotonic), and after how many seconds."""
    query = text("SELECT execution_id, new_token FROM audit_moves WHERE new_status = 'running' AND at >= :since")
    with laboratory.engine.connect() as connection:
        rows = connection.execute(query, {"since": round(since * 1e6 + laboratory.clock_offset)})
        claimed = {(row.execution_id, row.new_token) for row in rows}
    working: dict[str, float] = {}
    for start in history.read(laboratory.history).starts:
        if (start.execution_id, start.token) in claimed:
            working.setdefault(start.process, start.at - since)
    return working
