"""The demo from start to end: find the files, enqueue what is new, follow it, show what came out."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from attrs import frozen

from durable_sync import DurableExecutor, Task, TaskContext
from durable_sync.demo.database import DEFAULT_DATABASE, Database
from durable_sync.demo.errors import DemoError
from durable_sync.demo.finding import Folder, FoundFile, find_files, own_sources, user_folder
from durable_sync.demo.following import Standing, cancel_active, follow
from durable_sync.demo.ledger import Ledger
from durable_sync.demo.reading import FileReport, read
from durable_sync.demo.screen import Screen
from durable_sync.demo.summary import Outcome, opening, summary

__all__ = ["Options", "run"]

LEASE = 3.0
"""Seconds after which the work of a killed run goes on: short, so that nobody waits long for it."""
RECOVERIES = 20
"""A demo is killed again and again: more than the default, so that no file fails by that."""
READING_TIMEOUT = 60.0
"""Seconds for one file, without the pause."""
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
    workers: int = 4
    slow: float | None = None
    fresh: bool = False
    verbose: bool = False

    def pause(self, files: int) -> float:
        """Seconds to wait before each file."""
        if self.slow is not None:
            return self.slow
        return min(LONGEST_PAUSE, WHOLE_RUN * self.workers / files)


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
    files = find_files(folder, leave_out=database.files, warn=screen.say)
    if not files:
        raise DemoError(f"there are no files in {folder}")
    screen.say(f"reading {folder}")
    screen.say(f"recording in {database}")
    with database.clear_errors(), _executor(options, folder) as executor:
        task = _register(executor, options.pause(len(files)))
        with database.connected() as engine:
            standing = _join(Ledger(engine, executor, task), folder, files, fresh=options.fresh)
        screen.say(opening(standing))
        _work(executor, standing, screen)
        outcomes = [Outcome(job, job.handle.get_execution()) for job in standing.jobs]
        screen.table([outcome.line for outcome in outcomes])
        for outcome in outcomes:
            if outcome.report is None:  # whole: the table may have cut it
                screen.say(f"{outcome.job.file.name} {outcome.why}", style="red")
        screen.say(summary(standing, outcomes))


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


def _register(executor: DurableExecutor, pause: float) -> Task[[str], FileReport]:
    @executor.task(id="demo.read_file", timeout=READING_TIMEOUT + pause, max_recoveries=RECOVERIES)
    def read_file(ctx: TaskContext, path: str) -> FileReport:
        ctx.shutdown_signal.wait(pause)
        return read(Path(path))

    return read_file


def _join(ledger: Ledger, folder: Folder, files: Sequence[FoundFile], *, fresh: bool) -> Standing:
    """Give each file an execution; say how far the run is."""
    ledger.create()
    assignment = ledger.assign(folder, files, fresh=fresh)
    cancel_active(assignment.replaced)
    return Standing.of(assignment)


def _work(executor: DurableExecutor, standing: Standing, screen: Screen) -> None:
    """Block until every file has been read, by this process or another."""
    if not standing.pending:
        return
    screen.say(f"this is process {os.getpid()}: kill -9 it, run the same command again, and it carries on")
    executor.start()
    with screen.bar(standing.total, len(standing.finished)) as bar:
        follow(executor, standing.pending, bar, done=len(standing.finished))


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
