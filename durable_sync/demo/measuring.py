"""What a folder's own task finds out: how much lies in it, and the hash of all that."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from attrs import frozen

from durable_sync.demo.finding import FoundFolder

__all__ = ["Measure", "measure"]


@frozen
class Measure:
    """Of the files that lie in one folder."""

    files: int
    bytes: int
    sha256: str
    """Of the files' names and contents; a file that can't be read counts with its name alone."""


def measure(folder: FoundFolder) -> Measure:
    """Read every file of the folder, whatever its size."""
    total = 0
    whole = hashlib.sha256()
    for name in folder.files:
        whole.update(os.fsencode(name) + b"\0")
        try:
            with Path(folder.path, name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
                total += file.tell()
        except OSError:
            continue  # the tasks of this file fail, and say why
    return Measure(len(folder.files), total, whole.hexdigest())
