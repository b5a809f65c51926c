"""Which folders and files a run is about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from attrs import frozen

import durable_sync
from durable_sync.demo.errors import DemoError

__all__ = ["Folder", "FoundFolder", "Listing", "find_files", "own_sources", "user_folder"]

LEFT_OUT = {"__pycache__", "_build"}
FORMAT = "1"
"""Of what is recorded and reported: another one makes every run a new one."""


@frozen
class Folder:
    """The folder of a run; names are shown relative to `base`."""

    base: Path
    roots: tuple[Path, ...]

    @property
    def id(self) -> str:
        """The same for the same folder; serves as the name of its queue."""
        return "demo-" + hashlib.sha256(os.fsencode(self.roots[0])).hexdigest()[:16]

    def __str__(self) -> str:
        return " and ".join(str(root) for root in self.roots)


@frozen
class FoundFolder:
    """A folder, and the files that lie in it, not those further down."""

    path: str
    name: str
    """Its path relative to the folder of the run, which itself is `.`."""
    files: tuple[str, ...]

    @property
    def file_names(self) -> list[str]:
        """The files' paths relative to the folder of the run."""
        return [file if self.name == "." else f"{self.name}/{file}" for file in self.files]


@frozen
class Listing:
    """What there is on disk now."""

    folders: tuple[FoundFolder, ...]
    fingerprint: str
    """Changes when a file does, and when one comes or goes."""

    @property
    def files(self) -> list[str]:
        """All of them, relative to the folder of the run."""
        return [file for folder in self.folders for file in folder.file_names]


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


def find_files(folder: Folder, *, leave_out: Collection[Path] = (), warn: Callable[[str], None]) -> Listing:
    """Every folder from `folder` down, with its regular files, in order of their names.

    Without `leave_out` and what is hidden. Symbolic links to folders are not followed. `warn` is told which folders
    could not be read.
    """
    folders: list[FoundFolder] = []
    seen = hashlib.sha256(FORMAT.encode())
    for path, files in sorted(pair for root in folder.roots for pair in _walk(root, warn)):
        described = {file.name: _describe(file) for file in files if file.resolve() not in leave_out}
        kept = tuple(sorted(name for name, state in described.items() if state is not None))
        folders.append(FoundFolder(str(path), path.relative_to(folder.base).as_posix(), kept))
        for text in (folders[-1].name, *(f"{name}\0{described[name]}" for name in kept)):
            seen.update(os.fsencode(text) + b"\0\0")
    return Listing(tuple(folders), seen.hexdigest())


def _walk(root: Path, warn: Callable[[str], None]) -> Iterator[tuple[Path, list[Path]]]:
    def skipped(error: OSError) -> None:
        warn(f"skipped {error.filename}: {error.strerror}")

    for parent, folders, files in os.walk(root, onerror=skipped):
        folders[:] = [name for name in folders if _wanted(name)]
        yield Path(parent), [Path(parent, name) for name in files if _wanted(name)]


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name not in LEFT_OUT


def _describe(path: Path) -> str | None:
    """How the file is now; None if it is no regular file, or has just been deleted."""
    with suppress(FileNotFoundError):
        if path.is_file():
            status = path.stat()
            readable = "readable" if os.access(path, os.R_OK) else "unreadable"
            return f"{status.st_size} {status.st_mtime_ns} {readable}"
    return None
