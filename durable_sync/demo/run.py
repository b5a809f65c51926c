"""The demo from start to end: find the files, enqueue the run or find it again, follow it, show what came out."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from attrs import frozen

from durable_sync import DurableExecutor, ExecutionStatus, ParentResult, TaskHandle
from durable_sync.demo.database import DEFAULT_DATABASE, Database
from durable_sync.demo.errors import DemoError
from durable_sync.demo.finding import Folder, Listing, find_files, own_sources, user_folder
from durable_sync.demo.following import follow
from durable_sync.demo.ledger import Assignment, Ledger
from durable_sync.demo.report import Report, Totals, report_of
from durable_sync.demo.screen import Screen
from durable_sync.demo.standing import Standing
from durable_sync.demo.summary import Result, opening
from durable_sync.demo.tasks import Declarations, RunTask
from durable_sync.demo.writing import DEFAULT_REPORT, Target

__all__ = ["Options", "run"]

LEASE = 3.0
"""Seconds after which the work of a killed run goes on: short, so that nobody waits long for it."""
WHOLE_RUN = 10.0
"""Seconds that the default pause makes of a whole run,"""
LONGEST_PAUSE = 0.5
"""unless there are few files."""
SHUTDOWN_TIMEOUT = 10.0
INTERRUPTED = 130


@frozen(kw_only=True)
class Options:
    """What the user typed."""

    folder: Path | None = None
    database: str = DEFAULT_DATABASE
    report: Path = DEFAULT_REPORT
    workers: int = 4
    slow: float | None = None
    fresh: bool = False
    tree: bool = False
    verbose: bool = False

    def pause(self, listing: Listing) -> float:
        """Seconds to wait before each task."""
        if self.slow is not None:
            return self.slow
        tasks = 2 * (len(listing.files) + len(listing.folders))
        return min(LONGEST_PAUSE, WHOLE_RUN * self.workers / tasks)


def run(options: Options) -> int:
    """Run the demo and return its exit code. Raises DemoError if it can't.

    From the main thread only: SIGTERM is taken for Ctrl-C.
    """
    screen = Screen.open(live=not options.verbose)  # a log and a moving bar get in each other's way
    try:
        with _sigterm_interrupts(), _logging(verbose=options.verbose):
            _run(options, screen)
    except KeyboardInterrupt:
        screen.say("stopped: what is done is recorded; the same command (without --fresh) carries on")
        return INTERRUPTED
    return 0


def _run(options: Options, screen: Screen) -> None:
    folder = own_sources() if options.folder is None else user_folder(options.folder)
    database = Database.parse(options.database)
    target = Target.parse(options.report)
    listing = find_files(folder, leave_out=database.files | target.files, warn=screen.say)
    if not listing.files:
        raise DemoError(f"there are no files in {folder}")
    screen.say(f"reading {folder}")
    screen.say(f"recording in {database}")
    with database.clear_errors(), _executor(options, folder) as executor:
        task = Declarations(executor, folder.id, options.pause(listing), target).run()
        assignment = _join(database, executor, task, folder, listing, fresh=options.fresh)
        before = Standing.of(assignment.handle.tree(), listing.folders)
        screen.say(opening(assignment, before))
        _work(executor, assignment.handle, before, listing, screen)
        after = Standing.of(assignment.handle.tree(), listing.folders)
        result = Result(before, after, _recorded_report(executor, assignment.handle, after))
        _show(result, screen, as_tree=options.tree)
        _ensure_written(result.report, target)
        screen.say(f"the report: {target}")


@contextmanager
def _executor(options: Options, folder: Folder) -> Generator[DurableExecutor, None, None]:
    """An executor for this folder alone, not started; shut down afterwards."""
    executor = DurableExecutor(
        options.database, name="demo", max_workers=options.workers, queues=[folder.id], lease=LEASE
    )
    try:
        yield executor
    finally:
        executor.shutdown(timeout=SHUTDOWN_TIMEOUT)


def _join(
    database: Database, executor: DurableExecutor, task: RunTask, folder: Folder, listing: Listing, *, fresh: bool
) -> Assignment:
    """Give the folder a run, if it has none that this one can join."""
    with database.connected() as engine:
        ledger = Ledger(engine, executor, task)
        ledger.create()
        return ledger.assign(folder, listing, fresh=fresh)


def _work(
    executor: DurableExecutor, handle: TaskHandle[Totals], before: Standing, listing: Listing, screen: Screen
) -> None:
    """Block until the run has finished, by this process or another."""
    if before.is_finished:
        return
    screen.say(f"this is process {os.getpid()}: kill -9 it, run the same command again, and it carries on")
    executor.start()
    with screen.bar(len(before.files), len(before.done)) as bar:
        follow(executor, handle, listing.folders, bar)


def _recorded_report(executor: DurableExecutor, handle: TaskHandle[Totals], after: Standing) -> Report:
    """The report as the database has it: what the finalize of the run was given."""
    if after.tree.status is not ExecutionStatus.COMPLETED or after.finalize is None:
        raise DemoError(f"the run {_end(handle)}; the same command starts over")
    parent: ParentResult[int] = executor.get_execution(after.finalize.execution_id).input["parent"]
    return report_of(parent)


def _end(handle: TaskHandle[Totals]) -> str:
    execution = handle.get_execution()
    why = "" if execution.error is None else f": {execution.error.message.partition(chr(10))[0]}"
    return f"ended as {execution.status}{why}"


def _ensure_written(report: Report, target: Target) -> None:
    """The finalize has written it; but perhaps long ago, or elsewhere."""
    if target.holds(report):
        return
    try:
        target.write(report)
    except OSError as error:
        raise DemoError(f"the report can't be written to {target}: {error.strerror}") from error


def _show(result: Result, screen: Screen, *, as_tree: bool) -> None:
    if as_tree:
        screen.say(str(result.after.tree))
    else:
        screen.table(result.lines)
    for line in result.failed:
        screen.say(line, style="red")
    screen.say(str(result))


@contextmanager
def _sigterm_interrupts() -> Generator[None, None, None]:
    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _logging(*, verbose: bool) -> Generator[None, None, None]:
    """The library's log on stderr if `verbose`; no warnings about the sources that are read."""
    logger = logging.getLogger("durable_sync")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if verbose:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            logger.removeHandler(handler)
