"""How far a run is, as its tree of executions shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from attrs import frozen

from durable_sync import ExecutionStatus, ExecutionTree
from durable_sync.demo.finding import FoundFolder

__all__ = ["FileState", "Standing"]


@frozen
class FileState:
    """A file, and the executions of its tasks, none while its folder has not spawned them."""

    name: str
    tasks: tuple[ExecutionTree, ...]
    is_done: bool

    @property
    def attempts(self) -> int:
        """The most that one of its tasks took; 0 if none has run."""
        return max((task.attempt + 1 for task in self.tasks if task.started_at is not None), default=0)

    @property
    def ended_at(self) -> datetime | None:
        """When the last of its tasks ended; None while one has not."""
        ends = [task.finished_at for task in self.tasks if task.finished_at is not None]
        return max(ends) if ends and len(ends) == len(self.tasks) else None


@frozen
class Standing:
    """A run as the database had it at one moment."""

    tree: ExecutionTree
    files: tuple[FileState, ...]
    """In the order of the report."""

    @classmethod
    def of(cls, tree: ExecutionTree, folders: Sequence[FoundFolder]) -> Standing:
        """Read a tree whose root was given these folders."""
        return cls(tree, tuple(_states(tree, folders)))

    @property
    def done(self) -> frozenset[str]:
        """The names of the files with nothing left to do."""
        return frozenset(file.name for file in self.files if file.is_done)

    @property
    def is_finished(self) -> bool:
        """True once the run has ended, in whatever way."""
        return self.tree.status.is_finished

    @property
    def latest(self) -> str:
        """The file that was done last."""
        ends = [(file.ended_at, file.name) for file in self.files if file.ended_at is not None]
        return max(ends)[1] if ends else ""

    @property
    def at_work(self) -> list[ExecutionTree]:
        """What waits for no other task: it runs, or could."""
        return [n for n in self.tree.walk() if n.status in {ExecutionStatus.READY, ExecutionStatus.RUNNING}]

    @property
    def running(self) -> dict[str, int]:
        """The executions that run, with their attempt; the process of some may have died."""
        return {n.execution_id: n.attempt for n in self.at_work if n.status is ExecutionStatus.RUNNING}

    @property
    def finalize(self) -> ExecutionTree | None:
        """What writes the report; None before its turn."""
        return next((node for node in self.tree.children if node.is_finalize), None)


def _states(tree: ExecutionTree, folders: Sequence[FoundFolder]) -> Iterator[FileState]:
    nodes: list[ExecutionTree | None] = [node for node in tree.children if not node.is_finalize]
    for folder, node in zip(folders, nodes or [None] * len(folders), strict=True):
        over = tree.status.is_finished or (node is not None and node.status.is_finished)
        for place, name in enumerate(folder.file_names):
            tasks = node.children[2 * place : 2 * place + 2] if node is not None else ()
            tasks = tuple(task for task in tasks if not task.is_finalize)
            done = len(tasks) == 2 and all(task.status.is_finished for task in tasks)
            yield FileState(name, tasks, over or done)
