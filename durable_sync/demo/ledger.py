"""Which execution reads which file: the demo's own table, beside the library's.

A row is written in the transaction that enqueues its execution, so that after any crash a file has
both or neither. That is what lets a second run know what the first one did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen
from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, bindparam, delete, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from durable_sync.demo.finding import Folder, FoundFile

if TYPE_CHECKING:
    from durable_sync import DurableExecutor, Task, TaskHandle
    from durable_sync.demo.reading import FileReport

__all__ = ["Assignment", "Job", "Ledger"]

RACES = 10
"""How often another process may write the same rows first before that is an error."""

metadata = MetaData()
runs = Table(
    "durable_demo_runs",
    metadata,
    Column("file", String(64), primary_key=True),
    Column("folder", String(64), nullable=False, index=True),
    Column("fingerprint", String(80), nullable=False),
    Column("execution_id", String(80), nullable=False),
)


@frozen
class Job:
    """A file and the execution that reads it."""

    file: FoundFile
    handle: TaskHandle[FileReport]

    @property
    def id(self) -> str:
        """The execution's id."""
        return self.handle.execution_id


@frozen
class Assignment:
    """What `Ledger.assign` found and did."""

    old: list[Job] = field(factory=list[Job])
    """Files that an earlier run enqueued."""
    new: list[Job] = field(factory=list[Job])
    """Files enqueued now."""
    replaced: list[TaskHandle[FileReport]] = field(factory=list["TaskHandle[FileReport]"])
    """Executions that no file refers to any more: it has changed, or everything starts over."""


@frozen
class Ledger:
    """The table of one database. Any thread, any number of processes."""

    engine: Engine
    executor: DurableExecutor
    task: Task[[str], FileReport]

    def create(self) -> None:
        """Make the table if it is not there."""
        try:
            metadata.create_all(self.engine)
        except (IntegrityError, OperationalError, ProgrammingError):
            metadata.create_all(self.engine)  # another process was making it; if not, this raises too

    def assign(self, folder: Folder, files: Sequence[FoundFile], *, fresh: bool) -> Assignment:
        """Give each file an execution: the one it has, or a new one if it has none, has changed, or `fresh`.

        All in one transaction. The new executions run on the folder's queue.
        """
        for _ in range(RACES):
            try:
                return self._assign(folder, files, fresh=fresh)
            except (IntegrityError, OperationalError):
                continue  # another process is giving the same files executions: see which
        return self._assign(folder, files, fresh=fresh)

    def _assign(self, folder: Folder, files: Sequence[FoundFile], *, fresh: bool) -> Assignment:
        with self.engine.connect() as connection:
            rows = connection.execute(select(runs).where(runs.c.folder == folder.id)).all()
        known = {row.file: row for row in rows}
        assignment = Assignment()
        to_do: list[FoundFile] = []
        for file in files:
            row = known.get(file.key)
            handle = self.executor.get_handle(self.task, row.execution_id) if row else None
            if row and handle and row.fingerprint == file.fingerprint and not fresh:
                assignment.old.append(Job(file, handle))
                continue
            to_do.append(file)
            if handle:
                assignment.replaced.append(handle)
        if to_do:
            with self.engine.begin() as connection:
                self._forget(connection, assignment.replaced)
                assignment.new.extend(self._enqueue(connection, folder, to_do))
        return assignment

    def _forget(self, connection: Connection, handles: Iterable[TaskHandle[FileReport]]) -> None:
        ids = [{"old": handle.execution_id} for handle in handles]
        if ids:
            connection.execute(delete(runs).where(runs.c.execution_id == bindparam("old")), ids)

    def _enqueue(self, connection: Connection, folder: Folder, files: Sequence[FoundFile]) -> list[Job]:
        task = self.task.options(queue=folder.id)
        handles = self.executor.using(connection).enqueue_many([task.bind(str(file.path)) for file in files])
        jobs = [Job(file, handle) for file, handle in zip(files, handles, strict=True)]
        connection.execute(insert(runs), [_row(folder, job) for job in jobs])
        return jobs


def _row(folder: Folder, job: Job) -> dict[str, str]:
    return {
        "file": job.file.key,
        "folder": folder.id,
        "fingerprint": job.file.fingerprint,
        "execution_id": job.id,
    }
