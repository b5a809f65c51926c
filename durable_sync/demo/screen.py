"""What the demo shows: a live bar and colours on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

from attrs import define, field, frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

__all__ = ["Bar", "Line", "Screen"]

SECONDS_BETWEEN_LINES = 0.5
TITLE_WIDTH = 60
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
    def open(cls) -> Screen:
        """Standard output as it is: a terminal, a dumb one, a pipe or a file."""
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
        return cls(console, live=terminal and not console.is_dumb_terminal)

    def say(self, text: str, *, style: str | None = None) -> None:
        """Print a line."""
        self.console.print(Text(text, style or ""), soft_wrap=True)
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
        table = Table(box=SIMPLE_HEAD if self.live else None, padding=(0, 1) if self.live else (0, 2, 0, 0))
        table.add_column("file", overflow="fold")
        table.add_column("kind", no_wrap=True)
        table.add_column("title", no_wrap=True, max_width=TITLE_WIDTH, overflow="ellipsis")
        for name in ("lines", "words"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("sha256", no_wrap=True)
        table.add_column("attempts", justify="right", no_wrap=True)
        for line in lines:
            table.add_row(*_cells(line), style="red" if line.failed else None)
        self.console.print(table)


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


def _cells(line: Line) -> Iterable[Text]:
    values = (line.file, line.kind, line.title, line.lines, line.words, line.sha256, line.attempts)
    return (Text(printable(value)) for value in values)


def printable(text: str) -> str:
    """`text` without what could steer a terminal: a file's name may hold anything."""
    return "".join(char if char.isprintable() else "?" for char in text)
