"""A report as text: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from attrs import asdict

from durable_sync.demo.report import FileEntry, Report, Section, Totals

__all__ = ["escaped", "to_json", "to_markdown", "visible"]

_MARKUP = re.compile(r"([\\`*\[\]<>|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=[A-Za-z0-9#]))")


def to_json(report: Report) -> str:
    """All that the report holds."""
    return json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"


def to_markdown(report: Report) -> str:
    """A table a folder; what failed comes first."""
    blocks = [f"# Report on {code(report.folder)}", _overview(report.totals), *_failed(report.failed)]
    for section in report.sections:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, also within a table."""
    return _MARKUP.sub(r"\\\1", visible(text))


def code(text: str) -> str:
    """A name as code, outside of tables."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    padding = " " if {text[:1], text[-1:]} & {"`", " "} else ""
    return f"{fence}{padding}{visible(text)}{padding}{fence}"


def _cell(name: str) -> str:
    # In a table a bar ends the cell, also within code.
    return escaped(name) if "|" in name else code(name)


def visible(text: str) -> str:
    """One line: a line break shows as a backslash and an n, and so on for what else can't be printed."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _overview(totals: Totals) -> str:
    found = (_many(totals.files, "file"), _many(totals.folders, "folder"), _many(totals.bytes, "byte"))
    held = (_many(totals.lines, "line"), _many(totals.words, "word"), _many(totals.functions, "function"))
    read, failed = totals.files - totals.failed, totals.failed
    return (
        f"{found[0]} in {found[1]}, {found[2]}: {read:,} read, {failed:,} failed.\n"
        f"{', '.join(held)}, {_many(totals.classes, 'class', 'classes')}."
    )


def _failed(files: Iterable[FileEntry]) -> list[str]:
    rows = [(_cell(file.name), escaped(file.error or "")) for file in files]
    return ["## Failed", _table(("file", "why"), rows)] if rows else []


def _section(section: Section) -> list[str]:
    blocks = [f"## {code(section.name)}"]
    if section.error is not None:
        return [*blocks, f"{_many(len(section.files), 'file')}; the folder failed: {escaped(section.error)}"]
    if not section.files:
        return [*blocks, "No files of its own."]
    size = _many(section.bytes or 0, "byte")
    blocks.append(f"{_many(len(section.files), 'file')}, {size}, SHA-256 `{section.sha256}`")
    return [*blocks, _table(("file", "title", "summary", "lines", "words"), map(_row, section.files), right=2)]


def _row(file: FileEntry) -> tuple[str, ...]:
    name = _cell(file.name.rpartition("/")[2])
    if file.error is not None:
        return name, escaped(file.title or ""), f"**failed**: {escaped(file.error)}", "", ""
    return name, escaped(file.title or ""), escaped(file.summary or ""), _count(file.lines), _count(file.words)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, right: int = 0) -> str:
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, tuple(rule), *rows))


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _many(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
