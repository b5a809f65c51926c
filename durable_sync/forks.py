"""Forks: what the parent brings to rest before, and what the child does with what it inherits.

The child uses none of it, and lets nothing close it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from attrs import frozen

__all__ = ["ForkGate", "OpenSocket", "keep_for_ever", "on_fork"]


class _Forkable(Protocol):
    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork(self) -> None: ...


class ForkGate:
    """Entered for as long as a thread is in something that a fork must not cut in two. For any thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._inside += 1

    def __exit__(self, *_details: object) -> None:
        with self._condition:
            self._inside -= 1
            self._condition.notify_all()

    def close(self, timeout: float) -> bool:
        """Lets nobody in until `open`, and waits up to `timeout` seconds for those inside; True if all have left."""
        with self._condition:
            self._closed = True
            return self._condition.wait_for(lambda: self._inside == 0, timeout)

    def open(self) -> None:
        """Ends `close`."""
        with self._condition:
            self._closed = False
            self._condition.notify_all()


@frozen
class OpenSocket:
    """A socket that some library has open, as it is known to the system."""

    descriptor: int
    device: int
    inode: int

    @classmethod
    def of(cls, descriptor: int) -> OpenSocket:
        """The one that has this number now."""
        found = os.fstat(descriptor)
        return cls(descriptor, found.st_dev, found.st_ino)

    def let_go(self) -> None:
        """In a forked child: has the number mean nothing, without a word to the peer.

        The peer could not tell the parent's end while the child keeps the socket open.
        """
        with suppress(OSError):
            # The number may have been closed and used again since.
            if OpenSocket.of(self.descriptor) == self:
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nothing, self.descriptor, inheritable=False)
                os.close(nothing)


_forkable: weakref.WeakSet[_Forkable] = weakref.WeakSet()
_kept: list[object] = []


def on_fork(thing: _Forkable) -> None:
    """Has `thing` told of every fork of this process, as long as it lives: before, and after in parent and child."""
    _forkable.add(thing)


def keep_for_ever(things: Iterable[object]) -> None:
    """Keeps the garbage collector, also that of the interpreter's end, from finalizing these.

    Closing an inherited connection would say goodbye to the server in the parent's name.
    """
    inherited = list(things)
    _kept.extend(inherited)
    try:
        import ctypes

        for thing in inherited:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    except (ImportError, AttributeError):
        return


def _before() -> None:
    for thing in list(_forkable):
        with suppress(Exception):
            thing.before_fork()


def _in_parent() -> None:
    for thing in list(_forkable):
        thing.after_fork_in_parent()


def _in_child() -> None:
    for thing in list(_forkable):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
