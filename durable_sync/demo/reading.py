"""What the demo's task does with one file: parse, count, find the title, hash."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from durable_sync import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FileReport", "kind_of", "read"]

LARGEST_TEXT = 16 * 1024 * 1024
"""Bytes; a larger file is hashed, not parsed, so that a few workers never fill the memory."""
TITLE_LENGTH = 200

KINDS = {
    ".py": "python",
    ".pyi": "python",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
}


@frozen
class FileReport:
    """What one file turned out to hold. Counts are None where they make no sense."""

    kind: str
    """`python`, `markdown`, `rst`, `text`, `binary`, or `large`: hashed, not parsed."""
    sha256: str
    title: str | None = None
    lines: int | None = None
    words: int | None = None
    functions: int | None = None
    classes: int | None = None


def kind_of(path: Path) -> str:
    """The kind that a file's name promises."""
    return KINDS.get(path.suffix.lower(), "text")


def read(path: Path) -> FileReport:
    """Read one file. Raises OSError if it can't be read, TaskError if it is Python that does not parse."""
    kind = kind_of(path)
    if path.stat().st_size > LARGEST_TEXT:
        with path.open("rb") as file:
            return FileReport("large", hashlib.file_digest(file, "sha256").hexdigest())
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if kind != "python" and b"\0" in data:
        return FileReport("binary", sha256)
    text = data.decode("utf-8-sig", errors="replace")
    report = FileReport(kind, sha256, lines=_count_lines(text), words=len(text.split()))
    if kind == "python":
        return _with_python(report, data)
    return evolve(report, title=_clean(_heading(text, kind)))


def _with_python(report: FileReport, data: bytes) -> FileReport:
    tree = _parse(data)
    nodes = list(ast.walk(tree))
    return evolve(
        report,
        title=_clean(ast.get_docstring(tree)),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
    )


def _parse(data: bytes) -> ast.Module:
    try:
        return ast.parse(data)
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise TaskError(f"syntax error{where}: {error.msg}", retryable=False) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"not parsable: {str(error) or type(error).__name__}", retryable=False) from error


def _count_lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and text != "")


def _heading(text: str, kind: str) -> str | None:
    """The first heading: `# Title` in Markdown, or a line underlined with === or ---."""
    if kind not in {"markdown", "rst"}:
        return None
    previous = ""
    lines = text.splitlines()
    for line in _prose(lines) if kind == "markdown" else lines:
        if kind == "markdown" and line.startswith("#"):
            mark, _, title = line.partition(" ")
            if title.strip() and set(mark) == {"#"}:
                return title.strip().rstrip("#")
        underlined = len(line) >= 3 and len(set(line)) == 1 and line[0] in "=-~"
        if underlined and previous and previous[0].isalnum():
            return previous
        previous = line.strip()
    return None


def _prose(lines: list[str]) -> Iterator[str]:
    """What is neither front matter nor fenced code."""
    if lines and lines[0] == "---" and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]
    fenced = False
    for line in lines:
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            yield line


def _clean(title: str | None) -> str | None:
    """The first line, without what could steer a terminal."""
    first = (title or "").strip().partition("\n")[0]
    return "".join(char for char in first if char.isprintable())[:TITLE_LENGTH].strip() or None
