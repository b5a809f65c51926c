"""Which execution reports on which folder: the demo's own table, beside the library's.

A row is written in the transaction that enqueues its execution, so that after any crash a folder has
both or neither. A key would find a run that is still active; this finds one that has finished, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen
from sqlalchemy import Column, Engine, MetaData, String, Table, delete, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from durable_sync import ExecutionStatus
from durable_sync.demo.finding import Folder, Listing

if TYPE_CHECKING:
    from durable_sync import DurableExecutor, TaskHandle
    from durable_sync.demo.report import Totals
    from durable_sync.demo.tasks import RunTask

__all__ = ["Assignment", "Ledger"]

RACES = 10
"""How often another process may write the same row first before that is an error."""

metadata = MetaData()
reports = Table(
    "durable_demo_reports",
    metadata,
    Column("folder", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("execution_id", String(80), nullable=False),
)


@frozen
class Assignment:
    """What `Ledger.assign` found and did."""

    handle: TaskHandle[Totals]
    why_new: str | None = None
    """Why this run was enqueued now; None if it was there."""


@frozen
class Ledger:
    """The table of one database. Any thread, any number of processes."""

    engine: Engine
    executor: DurableExecutor
    task: RunTask

    def create(self) -> None:
        """Make the table if it is not there, and the library's: none is made inside a transaction that holds a lock."""
        self.executor.migrate()
        try:
            metadata.create_all(self.engine)
        except (IntegrityError, OperationalError, ProgrammingError):
            metadata.create_all(self.engine)  # another process was making it; if not, this raises too

    def assign(self, folder: Folder, listing: Listing, *, fresh: bool) -> Assignment:
        """Give the folder a run: the one it has, or a new one if it has none, files have changed, or `fresh`.

        The one that is replaced is cancelled.
        """
        for _ in range(RACES):
            try:
                return self._assign(folder, listing, fresh=fresh)
            except (IntegrityError, OperationalError):
                continue  # another process is giving the same folder a run: see which
        return self._assign(folder, listing, fresh=fresh)

    def _assign(self, folder: Folder, listing: Listing, *, fresh: bool) -> Assignment:
        with self.engine.connect() as connection:
            row = connection.execute(select(reports).where(reports.c.folder == folder.id)).one_or_none()
        if row is None:
            return Assignment(self._enqueue(folder, listing, None), "started")
        known = self.executor.get_handle(self.task, row.execution_id)
        why = "started over" if fresh else _why_useless(known, same=row.fingerprint == listing.fingerprint)
        if why is None:
            return Assignment(known)
        known.cancel()  # first: after a crash in between, the next process replaces it all the same
        return Assignment(self._enqueue(folder, listing, row.execution_id), why)

    def _enqueue(self, folder: Folder, listing: Listing, replaced: str | None) -> TaskHandle[Totals]:
        with self.engine.begin() as connection:
            connection.execute(delete(reports).where(reports.c.execution_id == replaced))
            handle = self.executor.using(connection).enqueue(self.task, str(folder), list(listing.folders))
            row = {"folder": folder.id, "fingerprint": listing.fingerprint, "execution_id": handle.execution_id}
            connection.execute(insert(reports), row)
        return handle


def _why_useless(known: TaskHandle[Totals], *, same: bool) -> str | None:
    if not same:
        return "something has changed since the last run, started over"
    execution = known.get_execution()
    if execution.is_finished and execution.status is not ExecutionStatus.COMPLETED:
        return f"the last run was {execution.status.value.replace('_', ' ')}, started over"
    return None
