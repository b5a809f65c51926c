"""What the demo shows: a live bar and colours on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

from attrs import define, field, frozen
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

__all__ = ["Bar", "Line", "Screen"]

SECONDS_BETWEEN_LINES = 0.5
NARROW = 100
OTHER_COLUMNS = len("markdown") + 2 * len("12345") + 8 + len("attempts")
SHORTEST_TITLE = 16
LONGEST_TITLE = 60
WIDE = 10_000
"""Columns, where no terminal limits them: a file, a line."""


class Bar(Protocol):
    """Shows how far the run is. One thread."""

    def update(self, done: int, note: str) -> None:
        """`done` files have been dealt with; `note` says what goes on."""


@frozen
class Line:
    """One file of the table at the end."""

    file: str
    kind: str
    title: str
    lines: str
    words: str
    sha256: str
    attempts: str
    failed: bool


@frozen
class Screen:
    """Standard output."""

    console: Console
    live: bool

    @classmethod
    def open(cls, *, live: bool = True) -> Screen:
        """Standard output as it is: a terminal, a dumb one, a pipe or a file. Not `live`: no moving bar."""
        with suppress(AttributeError):  # a title may hold what an ASCII terminal can't show
            cast(Any, sys.stdout).reconfigure(errors="replace")
        terminal = sys.stdout.isatty()
        console = Console(
            force_terminal=terminal,
            width=None if terminal else WIDE,
            markup=False,
            emoji=False,
            highlight=False,
        )
        return cls(console, live=live and terminal and not console.is_dumb_terminal)

    def say(self, text: str, *, style: str | None = None) -> None:
        """Print lines."""
        for line in text.splitlines():
            self.console.print(Text(printable(line), style or ""), soft_wrap=True)
        self.console.file.flush()

    @contextmanager
    def bar(self, total: int, done: int) -> Generator[Bar, None, None]:
        """A bar that is shown until the block ends."""
        if not self.live:
            yield _Lines(self, total)
            return
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=self.console) as progress:
            yield _LiveBar(progress, progress.add_task("", total=total, completed=done))

    def table(self, lines: Sequence[Line]) -> None:
        """One row a file."""
        gap = 1 if self.console.width < NARROW else 2
        file, title = self._widths(lines, gap)
        table = Table(box=None, padding=(0, gap, 0, 0))
        table.add_column("file", width=file, no_wrap=True)
        table.add_column("kind", no_wrap=True)
        table.add_column("title", max_width=title, no_wrap=True, overflow="ellipsis")
        for name in ("lines", "words"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("sha256", no_wrap=True)
        table.add_column("attempts", justify="right", no_wrap=True)
        for line in lines:
            table.add_row(*_cells(line, file), style="red" if line.failed else None)
        self.console.print(table)

    def _widths(self, lines: Sequence[Line], gap: int) -> tuple[int, int]:
        """Of the columns that can be cut: the file, and the title."""
        left = self.console.width - OTHER_COLUMNS - 7 * gap
        longest = max((cell_len(printable(line.file)) for line in lines), default=0)
        file = max(len("file"), min(longest, left - SHORTEST_TITLE))
        return file, max(len("title"), min(left - file, LONGEST_TITLE))


@frozen
class _LiveBar:
    progress: Progress
    task: TaskID

    def update(self, done: int, note: str) -> None:
        self.progress.update(self.task, completed=done, description=note)


@define
class _Lines:
    screen: Screen
    total: int
    _text: str = ""
    _next: float = field(factory=time.monotonic)

    def update(self, done: int, note: str) -> None:
        text = f"{done} of {self.total} done" + (f", {note}" if note else "")
        if text == self._text or (done < self.total and time.monotonic() < self._next):
            return
        self._text = text
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        self.screen.say(text)


def _cells(line: Line, file_width: int) -> Iterable[Text]:
    file = _tail(printable(line.file), file_width)
    values = (file, line.kind, printable(line.title), line.lines, line.words, line.sha256, line.attempts)
    return (Text(value) for value in values)


def _tail(text: str, width: int) -> str:
    """The end of a path says more than its beginning."""
    if cell_len(text) <= width:
        return text
    cut = text[-width:]
    while cell_len(cut) >= width and cut:
        cut = cut[1:]
    return "…" + cut


def printable(text: str) -> str:
    """`text` without what could steer a terminal: a file's name may hold anything."""
    return "".join(char if char.isprintable() else "?" for char in text)
