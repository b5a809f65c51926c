"""Reads one file for the tasks that parse it: TaskError says in a line why it can't be parsed."""

from __future__ import annotations

import ast
import hashlib
import io
import threading
import tokenize
from pathlib import Path

from attrs import frozen

from durable_sync import TaskError

__all__ = ["Document", "kind_of", "printable", "read"]

# CPython 3.11 counts the depth of all threads' trees together: https://github.com/python/cpython/issues/106905
_PARSING = threading.Lock()

LARGEST = 16 * 1024 * 1024
"""Bytes; a larger file is not parsed, so that a few workers never fill the memory."""

KINDS = {
    ".py": "python",
    ".pyi": "python",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
}


@frozen
class Document:
    """A file that could be read and decoded."""

    kind: str
    """`python`, `markdown`, `rst` or `text`."""
    text: str
    sha256: str
    module: ast.Module | None
    """Of Python."""


def kind_of(name: str) -> str:
    """The kind that a file's name promises."""
    return KINDS.get(Path(name).suffix.lower(), "text")


def read(path: Path) -> Document:
    """Raises TaskError if the file can't be read, is too large, is no text, or is Python that does not parse."""
    kind = kind_of(path.name)
    data = _bytes(path)
    module = _parse(data) if kind == "python" else None
    return Document(kind, _decode(data, kind), hashlib.sha256(data).hexdigest(), module)


def printable(text: str) -> str:
    """One line, without what could steer a terminal."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable())


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise TaskError(f"not parsed: larger than {LARGEST // 1024**2} MiB", retryable=False)
        return path.read_bytes()
    except OSError as error:
        raise TaskError(f"can't be read: {error.strerror}", retryable=False) from error


def _decode(data: bytes, kind: str) -> str:
    if b"\0" in data:
        raise TaskError("binary: not parsed", retryable=False)
    encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0] if kind == "python" else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} in line {line}"
        raise TaskError(f"bad encoding: {what} is not UTF-8", retryable=False) from error


def _parse(data: bytes) -> ast.Module:
    try:
        with _PARSING:
            return ast.parse(data)
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise TaskError(f"syntax error{where}: {printable(error.msg)}", retryable=False) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise TaskError(f"not parsable: {str(error) or type(error).__name__}", retryable=False) from error
