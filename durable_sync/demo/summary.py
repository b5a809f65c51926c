"""What the demo says: how far the run was, what came of each file, and what it all amounts to."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from durable_sync.demo.ledger import Assignment
from durable_sync.demo.report import FileEntry, Report
from durable_sync.demo.screen import Line
from durable_sync.demo.standing import Standing

__all__ = ["Result", "opening"]

HASH_DIGITS = 8
MOST_FAILED = 20
"""Lines about failed files; the report has them all."""


@frozen
class Result:
    """A run that has completed, and how far it was when this process joined it."""

    before: Standing
    after: Standing
    report: Report

    @property
    def lines(self) -> list[Line]:
        """The rows of the table."""
        files = zip(self.report.files, self.after.files, strict=True)
        return [_line(entry, state.attempts) for entry, state in files]

    @property
    def failed(self) -> Iterator[str]:
        """A line for each failed file, whole: the table may cut it."""
        failed = self.report.failed
        for file in failed[:MOST_FAILED]:
            yield f"{file.name} failed: {file.error}"
        if len(failed) > MOST_FAILED:
            yield f"and {len(failed) - MOST_FAILED} more failed: see the report"

    def __str__(self) -> str:
        """How many were done, by whom, and what they hold."""
        totals, done = self.report.totals, len(self.before.done)
        attempts = {node.execution_id: node.attempt for node in self.after.tree.walk()}
        resumed = sum(attempts[id] > attempt for id, attempt in self.before.running.items())
        return (
            f"{many(totals.files, 'file')}: {totals.files - done} done in this run, {done} recorded before, "
            f"{many(resumed, 'task')} resumed after a crash, {totals.failed} failed\n"
            f"{many(totals.folders, 'folder')}, {totals.bytes} bytes, {totals.lines} lines, {totals.words} words, "
            f"{totals.functions} functions, {totals.classes} classes"
        )


def opening(assignment: Assignment, before: Standing) -> str:
    """How far the run was when this process joined it."""
    total, done, running = len(before.files), len(before.done), len(before.running)
    if assignment.why_new is not None:
        return f"{assignment.why_new}: {many(total, 'file')} to read"
    if before.is_finished:
        return f"nothing to do: all {total} files were already done; --fresh starts over"
    parts = [f"{done} of {total} files were already done"]
    if running:
        parts.append(f"{many(running, 'task')} started but not finished")
    return "resumed: " + ", ".join(parts)


def many(count: int, one: str) -> str:
    """A number of things."""
    return f"1 {one}" if count == 1 else f"{count} {one}s"


def _line(file: FileEntry, attempts: int) -> Line:
    return Line(
        file=file.name,
        kind=file.kind,
        title=f"failed: {file.error}" if file.error is not None else file.title or "",
        lines=_number(file.lines),
        words=_number(file.words),
        sha256=(file.sha256 or "")[:HASH_DIGITS],
        attempts=_number(attempts or None),
        failed=file.error is not None,
    )


def _number(count: int | None) -> str:
    return "" if count is None else str(count)
