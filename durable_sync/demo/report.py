"""The report of a run, put together of what its tasks returned, and of how they failed. Pure.

There is nothing in it that another run over the same files would not find: no times, no ids, no attempts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from attrs import frozen

from durable_sync import ChildExecution, ExecutionStatus, ParentResult
from durable_sync.demo.finding import FoundFolder
from durable_sync.demo.measuring import Measure
from durable_sync.demo.parsing import Summary, Title
from durable_sync.demo.reading import kind_of

__all__ = ["FileEntry", "Report", "Section", "Totals", "report_of", "section_of"]


@frozen
class FileEntry:
    """What came of one file."""

    name: str
    """Relative to the folder of the run, and fit to be encoded."""
    kind: str
    title: str | None = None
    summary: str | None = None
    lines: int | None = None
    words: int | None = None
    functions: int | None = None
    classes: int | None = None
    sha256: str | None = None
    error: str | None = None
    """In one line, why a task of this file failed."""


@frozen
class Section:
    """What came of one folder."""

    name: str
    bytes: int | None
    sha256: str | None
    files: tuple[FileEntry, ...]
    error: str | None = None
    """In one line, why the folder's own task failed."""


@frozen
class Totals:
    """What all files hold together."""

    folders: int
    files: int
    failed: int
    bytes: int
    lines: int
    words: int
    functions: int
    classes: int


@frozen
class Report:
    """What came of all folders, in order of their names."""

    folder: str
    totals: Totals
    sections: tuple[Section, ...]

    @property
    def files(self) -> list[FileEntry]:
        """Those of all sections."""
        return [file for section in self.sections for file in section.files]

    @property
    def failed(self) -> list[FileEntry]:
        """Those that could not be dealt with."""
        return [file for file in self.files if file.error is not None]


def section_of(parent: ParentResult[Measure]) -> Section:
    """What the finalize of a folder gathers: its children are a title and a summary for each file."""
    folder: FoundFolder = parent.input["folder"]
    outputs = parent.children_outputs
    files = [
        _entry(name, outputs[2 * i], outputs[2 * i + 1], parent.children[2 * i : 2 * i + 2])
        for i, name in enumerate(folder.file_names)
    ]
    return Section(_encodable(folder.name), parent.output.bytes, parent.output.sha256, tuple(files))


def report_of(parent: ParentResult[int]) -> Report:
    """What the finalize of a run gathers: its children are folders."""
    folders: list[FoundFolder] = parent.input["folders"]
    sections = tuple(
        _failed_section(folder, _why(child)) if section is None else section
        for folder, child, section in zip(folders, parent.children, parent.children_outputs, strict=True)
    )
    return Report(_encodable(parent.input["name"]), _totals(parent.output, sections), sections)


def _entry(name: str, title: Title | None, summary: Summary | None, children: Iterable[ChildExecution]) -> FileEntry:
    found: dict[str, Any] = {}
    if summary is not None:
        found = {
            "summary": summary.text,
            "lines": summary.lines,
            "words": summary.words,
            "functions": summary.functions,
            "classes": summary.classes,
            "sha256": summary.sha256,
        }
    reasons = dict.fromkeys(_why(child) for child in children if child.status is not ExecutionStatus.COMPLETED)
    return FileEntry(
        name=_encodable(name),
        kind=kind_of(name),
        title=None if title is None else title.text,
        error="; ".join(reasons) or None,
        **found,
    )


def _failed_section(folder: FoundFolder, why: str) -> Section:
    error = f"its folder failed: {why}"
    files = tuple(FileEntry(_encodable(name), kind_of(name), error=error) for name in folder.file_names)
    return Section(_encodable(folder.name), None, None, files, why)


def _totals(files: int, sections: Iterable[Section]) -> Totals:
    made = list(sections)
    entries = [file for section in made for file in section.files]
    return Totals(
        folders=len(made),
        files=files,
        failed=sum(file.error is not None for file in entries),
        bytes=sum(section.bytes or 0 for section in made),
        lines=sum(file.lines or 0 for file in entries),
        words=sum(file.words or 0 for file in entries),
        functions=sum(file.functions or 0 for file in entries),
        classes=sum(file.classes or 0 for file in entries),
    )


def _why(child: ChildExecution) -> str:
    """How a child ended, in a line that another run would end with, too."""
    error = child.error
    status = child.status.value.replace("_", " ")
    if error is None:
        return status
    message = re.sub(r" execution [0-9a-f-]{32,36}", "", " ".join(error.message.split()))
    if child.status is not ExecutionStatus.FAILED:
        return f"{status}: {message}" if message else status
    return message if error.type == "TaskError" else f"{error.type}: {message}"


def _encodable(name: str) -> str:
    """A file's name may hold bytes that are no text: they are shown as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
