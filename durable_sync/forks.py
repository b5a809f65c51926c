"""What a forked child does with what it inherits: use none of it, and let nothing close it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from typing import Protocol

__all__ = ["keep_for_ever", "on_fork"]


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_forkable: weakref.WeakSet[_Forkable] = weakref.WeakSet()
_kept: list[object] = []


def on_fork(thing: _Forkable) -> None:
    """Has `thing.after_fork()` called in every child that this process forks, as long as `thing` lives."""
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


def _in_child() -> None:
    for thing in list(_forkable):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
