"""Which files a run is about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from attrs import frozen

import durable_sync
from durable_sync.demo.errors import DemoError

__all__ = ["Folder", "FoundFile", "find_files", "own_sources", "user_folder"]

LEFT_OUT = {"__pycache__", "_build"}


@frozen
class Folder:
    """The folder of a run; names are shown relative to `base`."""

    base: Path
    roots: tuple[Path, ...]

    @property
    def id(self) -> str:
        """The same for the same folder; serves as the name of its queue."""
        return "demo-" + _digest(self.roots[0])[:16]

    def __str__(self) -> str:
        return " and ".join(str(root) for root in self.roots)


@frozen
class FoundFile:
    """A file as it is on disk now."""

    path: Path
    name: str
    """Its path relative to the folder."""
    key: str
    """One folder's file, as a string of fixed length whatever its path holds."""
    fingerprint: str
    """Changes when the file does."""


def user_folder(folder: Path) -> Folder:
    """The folder that the user named. Raises DemoError if it is none."""
    if not folder.exists():
        raise DemoError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise DemoError(f"{folder} is not a folder")
    root = folder.resolve()
    return Folder(root, (root,))


def own_sources() -> Folder:
    """The sources of this library, and its docs where it runs from its repository."""
    package = Path(durable_sync.__file__).resolve().parent
    base = package.parent
    in_repository = (base / "pyproject.toml").is_file()
    docs = (base / "docs",) if in_repository and (base / "docs").is_dir() else ()
    return Folder(base, (package, *docs))


def find_files(folder: Folder, *, leave_out: Collection[Path] = (), warn: Callable[[str], None]) -> list[FoundFile]:
    """Every regular file below `folder`, in order of its name, without `leave_out` and hidden ones.

    Symbolic links to folders are not followed. `warn` is told which folders could not be read.
    """
    found: list[FoundFile] = []
    for root in folder.roots:
        for path in _walk(root, warn):
            if path.is_file() and path.resolve() not in leave_out:
                with suppress(FileNotFoundError):  # deleted while we look
                    found.append(_describe(path, folder))
    return sorted(found, key=lambda file: file.name)


def _walk(root: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    def skipped(error: OSError) -> None:
        warn(f"skipped {error.filename}: {error.strerror}")

    for parent, folders, files in os.walk(root, onerror=skipped):
        folders[:] = [name for name in folders if _wanted(name)]
        yield from (Path(parent, name) for name in files if _wanted(name))


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name not in LEFT_OUT


def _describe(path: Path, folder: Folder) -> FoundFile:
    status = path.stat()
    readable = "readable" if os.access(path, os.R_OK) else "unreadable"
    return FoundFile(
        path=path,
        name=path.relative_to(folder.base).as_posix(),
        key=_digest(folder.roots[0], path),
        fingerprint=f"{status.st_size} {status.st_mtime_ns} {readable}",
    )


def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(os.fsencode(path) for path in paths)).hexdigest()
