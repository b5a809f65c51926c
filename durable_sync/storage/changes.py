"""Whether somebody has committed, seen without a statement, where the database is a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["Changes"]


class Changes:
    """Looks at what the system says of the files that each commit writes to. For one thread."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = [Path(file) for file in files]
        self._seen = self._look()
        self._doubted = True

    def seen(self) -> bool:
        """True if something may have been committed since the last call.

        The file's time goes in ticks of some milliseconds, and a second commit within the tick may leave no trace:
        what has changed counts as changed at the next call, too.
        """
        now = self._look()
        changed = now != self._seen
        told, self._seen, self._doubted = changed or self._doubted, now, changed
        return told

    def _look(self) -> list[tuple[int, int] | None]:
        return [_state(file) for file in self._files]


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
