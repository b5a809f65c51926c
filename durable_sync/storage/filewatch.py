"""Waits until somebody on this machine writes to a file, where the system tells (Linux's inotify)."""

from __future__ import annotations

import os
import select
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["FileWatch"]

# <sys/inotify.h>
_IN_MODIFY, _IN_IGNORED = 0x00000002, 0x00008000
_EVENT = struct.Struct("iIII")
_MISSING_SECONDS = 0.2
"""How often a file that isn't there is looked for."""


class FileWatch:
    """`interrupt` may be called from any thread, the rest from one."""

    def __init__(self, files: Sequence[Path]) -> None:
        """OSError if the system does not tell, or has told too many already."""
        if not sys.platform.startswith("linux") or not hasattr(os, "eventfd"):
            raise OSError("this system has no inotify")
        self._files = list(files)
        self._watched: dict[int, Path] = {}
        self._libc = _libc()
        self._inotify = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._lock = threading.Lock()
        self._interrupted = False
        try:
            self._interruption = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:
            os.close(self._inotify)
            raise
        self._open: tuple[int, ...] = (self._inotify, self._interruption)
        self._poll = select.poll()
        for descriptor in self._open:
            self._poll.register(descriptor, select.POLLIN)
        self._watch_missing()

    def wait(self, seconds: float) -> None:
        """Until one of the files is written to, or `interrupt`, or so long; less long while one isn't there."""
        self._watch_missing()
        complete = len(self._watched) == len(self._files)
        self._poll.poll(1000 * (seconds if complete else min(seconds, _MISSING_SECONDS)))
        self._take_in()

    def interrupt(self) -> None:
        """Ends `wait`, now and for ever."""
        with self._lock:
            if not self._interrupted:
                self._interrupted = True
                os.eventfd_write(self._interruption, 1)

    def close(self) -> None:
        """Lets go of it."""
        with self._lock:
            self._interrupted = True
            self.disown()

    def disown(self) -> None:
        """The same in a forked child, of what it has copies of: nobody else is left there, and locks may be held."""
        descriptors, self._open = self._open, ()
        for descriptor in descriptors:
            os.close(descriptor)

    def _watch_missing(self) -> None:
        for file in set(self._files) - set(self._watched.values()):
            with suppress(OSError):
                number = self._libc.inotify_add_watch(self._inotify, os.fsencode(file), _IN_MODIFY)
                self._watched[_checked(number)] = file

    def _take_in(self) -> None:
        """What happened is of no interest, but for a file that is there no more."""
        with suppress(BlockingIOError):
            while events := os.read(self._inotify, 65_536):
                place = 0
                while place < len(events):
                    number, what, _cookie, length = _EVENT.unpack_from(events, place)
                    if what & _IN_IGNORED:
                        self._watched.pop(number, None)
                    place += _EVENT.size + length


def _libc() -> Any:
    # Some Pythons are built without it.
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        _ = libc.inotify_init1, libc.inotify_add_watch
    except (ImportError, AttributeError) as error:
        raise OSError(f"no way to inotify: {error}") from error
    return libc


def _checked(result: int) -> int:
    import ctypes

    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
