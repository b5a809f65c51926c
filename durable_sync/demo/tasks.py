"""The tasks of a run, a tree of three levels: the run, its folders, and the tasks of each file.

- `demo.report`, the root, spawns a task a folder. Its finalize, `demo.write_report`, writes the report.
- `demo.folder` hashes and measures a folder, and spawns two tasks a file. Its finalize gathers the folder's section.
- `demo.extract_title` and `demo.summarize` parse a file. One that can't be parsed fails them, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen
from tenacity import Retrying, retry_if_exception_type, wait_exponential

from durable_sync import DurableExecutor, ParentResult, ParentTask, Spawn, Task, TaskContext
from durable_sync.demo import parsing
from durable_sync.demo.finding import FoundFolder
from durable_sync.demo.measuring import Measure, measure
from durable_sync.demo.parsing import Summary, Title
from durable_sync.demo.report import Section, Totals, report_of, section_of
from durable_sync.demo.writing import Target

__all__ = ["Declarations", "RunTask"]

RECOVERIES = 20
"""A demo is killed again and again: more than the default, so that nothing fails by that."""
FILE_SECONDS = 60.0
FOLDER_SECONDS = 600.0
SUMMARY_WORDS = 20

RunTask = ParentTask[[str, list[FoundFolder]], int, Totals]


@frozen
class Declarations:
    """Declares the tasks as one process wants them. Only what is bound is recorded; the rest may change."""

    executor: DurableExecutor
    queue: str
    pause: float
    """Seconds before each task."""
    target: Target

    def run(self) -> RunTask:
        """The root, with all that is below it."""
        folder_task = self._folder()

        @self.executor.parent_task(
            id="demo.report",
            queue=self.queue,
            timeout=FOLDER_SECONDS + self.pause,
            max_recoveries=RECOVERIES,
            fail_fast=False,
            finalize=self._write_report(),
        )
        def report(ctx: TaskContext, name: str, folders: list[FoundFolder]) -> Spawn[int]:
            self._pause(ctx)
            files = sum(len(folder.files) for folder in folders)
            return Spawn(files, [folder_task.bind(folder) for folder in folders])

        return report

    def _folder(self) -> ParentTask[[FoundFolder], Measure, Section]:
        extract_title, summarize = self._extract_title(), self._summarize()

        def gather(ctx: TaskContext, parent: ParentResult[Measure]) -> Section:
            self._pause(ctx)
            return section_of(parent)

        @self.executor.parent_task(
            id="demo.folder",
            queue=self.queue,
            timeout=FOLDER_SECONDS + self.pause,
            max_recoveries=RECOVERIES,
            fail_fast=False,
            finalize=gather,
        )
        def folder(ctx: TaskContext, folder: FoundFolder) -> Spawn[Measure]:
            self._pause(ctx)
            paths = [str(Path(folder.path, name)) for name in folder.files]
            calls = ((extract_title.bind(path), summarize.bind(path, words=SUMMARY_WORDS)) for path in paths)
            return Spawn(measure(folder), [call for pair in calls for call in pair])

        return folder

    def _extract_title(self) -> Task[[str], Title]:
        @self.executor.task(
            id="demo.extract_title",
            queue=self.queue,
            timeout=FILE_SECONDS + self.pause,
            max_recoveries=RECOVERIES,
        )
        def extract_title(ctx: TaskContext, path: str) -> Title:
            self._pause(ctx)
            return parsing.extract_title(Path(path))

        return extract_title

    def _summarize(self) -> Task[..., Summary]:
        @self.executor.task(
            id="demo.summarize",
            queue=self.queue,
            timeout=FILE_SECONDS + self.pause,
            max_recoveries=RECOVERIES,
        )
        def summarize(ctx: TaskContext, path: str, *, words: int = SUMMARY_WORDS) -> Summary:
            self._pause(ctx)
            return parsing.summarize(Path(path), words=words)

        return summarize

    def _write_report(self) -> Task[[ParentResult[int]], Totals]:
        # For ever: a full disk must not cost what has been read.
        patient = Retrying(
            retry=retry_if_exception_type(OSError),
            wait=wait_exponential(multiplier=0.5, max=5),
            stop=lambda _state: False,
        )

        @self.executor.task(
            id="demo.write_report",
            queue=self.queue,
            timeout=FOLDER_SECONDS + self.pause,
            max_recoveries=RECOVERIES,
            retry=patient,
        )
        def write_report(ctx: TaskContext, parent: ParentResult[int]) -> Totals:
            self._pause(ctx)
            report = report_of(parent)
            self.target.write(report)
            return report.totals

        return write_report

    def _pause(self, ctx: TaskContext) -> None:
        ctx.shutdown_signal.wait(self.pause)
