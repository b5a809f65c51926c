"""What the tasks of one file find out: its title, and a summary of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from durable_sync.demo.reading import Document, printable, read

__all__ = ["Summary", "Title", "extract_title", "summarize"]

TITLE_LENGTH = 200
SUMMARY_LENGTH = 400


@frozen
class Title:
    """What a file says it is."""

    kind: str
    """`python`, `markdown`, `rst` or `text`."""
    text: str | None


@frozen
class Summary:
    """What a file holds. Counts are None where they make no sense."""

    text: str | None
    sha256: str
    lines: int
    words: int
    functions: int | None = None
    classes: int | None = None


def extract_title(path: Path) -> Title:
    """The first heading, or the first line of a docstring. Raises as `read`."""
    document = read(path)
    return Title(document.kind, _title(document))


def summarize(path: Path, *, words: int) -> Summary:
    """The counts, and no more than so many words of what comes after the title. Raises as `read`."""
    document = read(path)
    text = document.text
    nodes = [] if document.module is None else list(ast.walk(document.module))
    python = document.module is not None
    return Summary(
        text=_shortened(_gist(document), words),
        sha256=document.sha256,
        lines=text.count("\n") + (not text.endswith("\n") and text != ""),
        words=len(text.split()),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes) if python else None,
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes) if python else None,
    )


def _title(document: Document) -> str | None:
    if document.module is not None:
        title: str | None = (ast.get_docstring(document.module) or "").strip().partition("\n")[0]
    else:
        title = _heading(document)
    return printable(title or "")[:TITLE_LENGTH].strip() or None


def _heading(document: Document) -> str | None:
    """The first heading: `# Title` in Markdown, or a line underlined with === or ---."""
    if document.kind == "text":
        return None
    previous = ""
    for line in _prose(document):
        if document.kind == "markdown" and line.startswith("#"):
            mark, _, title = line.partition(" ")
            if title.strip() and set(mark) == {"#"}:
                return title.strip().rstrip("#")
        if _underlines(line) and previous and previous[0].isalnum():
            return previous
        previous = line.strip()
    return None


def _gist(document: Document) -> str:
    if document.module is not None:
        _, _, rest = (ast.get_docstring(document.module) or "").partition("\n")
        return next(_paragraphs(rest.splitlines()), "") or _definitions(document.module)
    title = _heading(document)
    for paragraph in _paragraphs(_prose(document)):
        if paragraph != title and (paragraph[0].isalnum() or paragraph[0] in "\"'(*_`"):
            return paragraph
    return ""


def _definitions(module: ast.Module) -> str:
    defined = (n.name for n in module.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
    names = ", ".join(name for name in defined if not name.startswith("_"))
    return f"Defines {names}." if names else ""


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Lines that belong together, as one; headings are left out."""
    current: list[str] = []
    for line in [*lines, ""]:
        if _underlines(line):
            current = []
        elif not line.strip() or line.startswith("#"):
            if current:
                yield " ".join(current)
            current = []
        else:
            current.append(line.strip())


def _underlines(line: str) -> bool:
    return len(line) >= 3 and len(set(line)) == 1 and line[0] in "=-~"


def _prose(document: Document) -> list[str]:
    """What is, in Markdown, neither front matter nor fenced code."""
    lines = document.text.splitlines()
    if document.kind != "markdown":
        return lines
    if lines and lines[0] == "---" and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]
    prose: list[str] = []
    fenced = False
    for line in lines:
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            prose.append(line)
    return prose


def _shortened(text: str, words: int) -> str | None:
    parts = printable(text).split()
    short = " ".join(parts[:words])
    if len(parts) > words or len(short) > SUMMARY_LENGTH:
        short = short[:SUMMARY_LENGTH].rstrip(" .,:;") + " …"
    return short or None
