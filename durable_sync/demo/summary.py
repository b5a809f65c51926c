"""What the demo says: how far the run was, what came of each file, and what it all amounts to."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from durable_sync import Execution, ExecutionStatus
from durable_sync.demo.following import Standing
from durable_sync.demo.ledger import Job
from durable_sync.demo.reading import FileReport, kind_of
from durable_sync.demo.screen import Line

__all__ = ["Outcome", "opening", "summary"]

HASH_DIGITS = 8


@frozen
class Outcome:
    """A file and the finished execution that read it."""

    job: Job
    execution: Execution

    @property
    def report(self) -> FileReport | None:
        """What was read, None if that failed."""
        completed = self.execution.status is ExecutionStatus.COMPLETED
        return self.execution.output if completed else None

    @property
    def line(self) -> Line:
        """Its row in the table."""
        report = self.report
        file = self.job.file
        attempts = str(self.execution.attempt + 1)
        if report is None:
            kind = kind_of(file.path)
            return Line(file.name, kind, self.why, "", "", "", attempts, failed=True)
        return Line(
            file.name,
            report.kind,
            report.title or "",
            _number(report.lines),
            _number(report.words),
            report.sha256[:HASH_DIGITS],
            attempts,
            failed=False,
        )

    @property
    def why(self) -> str:
        """How it failed, in a line."""
        error = self.execution.error
        message = error.message.partition("\n")[0] if error else ""
        return f"{self.execution.status}: {message}" if message else str(self.execution.status)


def opening(standing: Standing) -> str:
    """How far the run was when this process joined it."""
    finished, started, new = len(standing.finished), len(standing.started), len(standing.new)
    waiting = standing.total - finished - started - new
    if new == standing.total:
        return f"started: {_files(new)} to read"
    if finished == standing.total:
        return f"nothing to do: all {finished} files were already done; --fresh starts over"
    parts = [f"{finished} of {standing.total} files were already done"]
    if started:
        parts.append(f"{started} started but not finished")
    if waiting:
        parts.append(f"{waiting} waiting")
    if new:
        parts.append(f"{new} new or changed")
    return "resumed: " + ", ".join(parts)


def summary(standing: Standing, outcomes: Sequence[Outcome]) -> str:
    """How many were done, by whom, and what they hold."""
    finished = len(standing.finished)
    attempts = {outcome.job.id: outcome.execution.attempt for outcome in outcomes}
    resumed = sum(attempts[id] > attempt for id, attempt in standing.started.items())
    failed = sum(outcome.report is None for outcome in outcomes)
    parts = [
        f"{_files(len(outcomes))}: {len(outcomes) - finished} done in this run",
        f"{finished} recorded before",
        f"{resumed} resumed after a crash",
        f"{failed} failed",
    ]
    return ", ".join(parts) + "\n" + _totals([outcome.report for outcome in outcomes])


def _totals(reports: Sequence[FileReport | None]) -> str:
    read = [report for report in reports if report is not None]
    return (
        f"{sum(report.lines or 0 for report in read)} lines, "
        f"{sum(report.words or 0 for report in read)} words, "
        f"{sum(report.functions or 0 for report in read)} functions, "
        f"{sum(report.classes or 0 for report in read)} classes"
    )


def _number(count: int | None) -> str:
    return "" if count is None else str(count)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
