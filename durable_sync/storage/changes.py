"""Whether another process has committed, seen without a statement, where the database is a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from durable_sync.storage.database import Database
from durable_sync.storage.filewatch import FileWatch

__all__ = ["Changes"]


class Changes:
    """Looks at what the system says of the files that each commit writes to. For one thread, but for `interrupt`.

    A hint: a commit that is written together with one through the same `Database`, or in the same tick of the system's
    time as the last, may leave no trace.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._files = [Path(name) for name in database.dialect.files_written(database.url)]
        self._watch: FileWatch | None = None
        self._own_commits = database.own_commits
        self._states = self._look()
        self._changed = False

    @property
    def possible(self) -> bool:
        """False where the database is no file, or its file isn't known."""
        return bool(self._files)

    def watch(self) -> bool:
        """Has the system tell of changes from now on; False if it doesn't, and one has to look."""
        with suppress(OSError):
            self._watch = FileWatch(self._files)
        return self._watch is not None

    def wait(self, seconds: float) -> None:
        """Until the system tells of a change, be it one's own, or so long, or `interrupt`; after `watch`."""
        if self._watch is not None:
            self._watch.wait(seconds)

    def interrupt(self) -> None:
        """Ends `wait`, for ever. For any thread."""
        if self._watch is not None:
            self._watch.interrupt()

    def disown(self) -> None:
        """In a forked child: lets go of what the parent waits with."""
        if self._watch is not None:
            self._watch.disown()

    def close(self) -> None:
        """Ends `watch`."""
        if self._watch is not None:
            self._watch.close()

    def seen(self) -> bool:
        """True if somebody else has probably committed since the last call but one.

        What is written can be read only once it has been made durable: so each change is told of twice.
        """
        own_commits, states, changed = self._own_commits, self._states, self._changed
        self._own_commits, self._states = self._database.own_commits, self._look()
        self._changed = self._own_commits == own_commits and self._states != states
        return self._changed or changed

    def _look(self) -> Sequence[object]:
        return [_state(file) for file in self._files]


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
