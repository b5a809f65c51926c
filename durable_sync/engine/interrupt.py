"""Stops a thread that runs a task: an exception raised in it from outside, fenced so that nothing leaks.

`PyThreadState_SetAsyncExc` leaves an exception with a thread, and the thread raises it at some later
bytecode, whatever it does by then. Two rules keep ours inside the task's own code:

- The exception is set only while `Interruptible.run` is active and unshielded, and only under the lock.
- On the way out of either, under the same lock, the thread becomes inactive *and* takes back what was set
  and has not arrived.

What is left is an exception that arrives in the few bytecodes before it is taken back. `interrupt` sets it
**at most once**, so whoever has caught it needs no further protection: that is what makes the small
loops below sound. They only assign, never count, so that going round again changes nothing.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Wake = Callable[[], None]

__all__ = ["Interrupted", "Interruptible", "current", "is_interrupted", "shielded"]

T = TypeVar("T")


def _load() -> tuple[Callable[[int, object], int] | None, object]:
    """`PyThreadState_SetAsyncExc(thread id, class)` and its NULL. None where there is none, as on PyPy."""
    try:
        import ctypes

        # A prototype of our own: `argtypes` set on the one that `pythonapi` shares would be felt by others.
        # Calls through it keep the GIL.
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)
        return prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi)), ctypes.py_object()
    except (ImportError, AttributeError):
        return None, None


_set_async_exc, _NULL = _load()


class Interrupted(BaseException):
    """Raised asynchronously in a task's thread to stop it.

    Not an Exception, so that `except Exception` lets it by.
    """


class Interruptible:
    """Runs one task function so that another thread can stop it, and nothing leaks out.

    One object per attempt, and at most one at a time on a thread.
    """

    def __init__(self) -> None:
        # Re-entrant, so that its owner can let go of it without asking whether it has it: see `_let_go`.
        self._lock = threading.RLock()
        self._thread: int | None = None  # set when `run` becomes active
        self._over = False
        self._interrupted = False
        self._sent = False
        self._wakes: tuple[Wake | None, ...] = ()  # one for each shield that is up, outermost first

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt` was called before `run` was over. Any thread."""
        return self._interrupted

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` and return or raise what it does, once, on the worker thread.

        Raises Interrupted if that is what ended the function, or if `interrupt` came before `run`: then the
        function isn't called. If the function returned or raised something of its own in spite of an
        interrupt, so does `run`; look at `interrupted`. Once `run` is over, no exception of ours can
        arrive in this thread any more.
        """
        if self._thread is not None or current() is not None:
            raise RuntimeError("an Interruptible runs once, and not inside another one")
        try:
            _running.interruptible = self
            with self._lock:
                if self._interrupted:
                    raise Interrupted
                self._thread = threading.get_ident()
            return function()
        finally:
            # Nothing is called, and no loop jumps back, between the function's end and the inner `try`: so
            # nothing can arrive there. What arrives below found the function ended: its outcome counts.
            while not self._over:
                try:
                    self._leave()
                except Interrupted:
                    self._let_go()
            _running.interruptible = None

    def interrupt(self) -> bool:
        """Raise Interrupted in the thread that runs the function, or have it raised as soon as may be.

        Inside a shield, its `wake` is called and the exception is raised on the way out; before `run`, `run`
        raises it. Any thread may call this, any number of times: only the first does anything. False if
        `run` is over already, and where the interpreter can't raise exceptions in other threads: there a
        task is stopped at its shields only.

        It is no guarantee: the task may catch the exception, be blocked in C code, or receive it in a
        `__del__`, which drops it.
        """
        with shielded():  # the caller may be a task itself, and must not be cut while it holds our lock
            wakes: tuple[Wake | None, ...] = ()
            with self._lock:
                if self._over:
                    return False
                if not self._interrupted:
                    self._interrupted = True
                    wakes = self._wakes
                    if _set_async_exc is not None and self._thread is not None and not wakes:
                        self._sent = True
                        _set_async_exc(self._thread, Interrupted)
            for wake in reversed(wakes):
                if wake is not None:
                    wake()
            return _set_async_exc is not None

    @contextmanager
    def shield(self, wake: Wake | None = None) -> Generator[None]:
        """No asynchronous exception arrives inside; Interrupted is raised when the outermost shield is left.

        For library code that a task calls, on the worker thread. May be nested. Leaving the outermost shield
        of an interrupted run always raises Interrupted, also when the task has caught one before; it
        replaces what the body raises.

        `wake` is called once if the run is interrupted while the shield is up, or was before: on the
        interrupting thread, or here before the body. It should end a blocking wait in the body. It may still
        be running, or yet to run, when the shield has been left.
        """
        outer = self._wakes
        interrupted_before = self._raise_shield((*outer, wake))
        try:
            if interrupted_before and wake is not None:
                wake()
            yield
        finally:
            self._lower_shield(outer)

    def _raise_shield(self, wakes: tuple[Wake | None, ...]) -> bool:
        """Become shielded by `wakes`, and say whether the run had been interrupted by then."""
        interrupted_before = False
        while self._wakes is not wakes:
            try:
                with self._lock:
                    interrupted_before = self._interrupted
                    self._take_back()
                    self._wakes = wakes
            except Interrupted:
                self._let_go()
        return interrupted_before

    def _lower_shield(self, outer: tuple[Wake | None, ...]) -> None:
        """Go back to the shields `outer`. Nothing can arrive before they are assigned."""
        with self._lock:
            self._wakes = outer
            active = self._thread is not None and not self._over
            due = active and self._interrupted and not outer
        if due:
            raise Interrupted

    def _leave(self) -> None:
        """Become inactive for good."""
        with self._lock:
            self._take_back()
            self._over = True

    def _take_back(self) -> None:
        """Clear what was set and has not arrived yet. Needs the lock; on the worker thread.

        To set NULL where nothing is set any more leaves Python 3.11 and 3.12 looking for an exception at every
        turn, and 3.11 hangs when it then calls a traced function (coverage, a debugger). So another one is
        set in the place of the first, and arrives at once. NULL is for an interpreter that takes its time.
        """
        if self._sent and self._thread is not None and _set_async_exc is not None:
            try:
                _set_async_exc(self._thread, Interrupted)
                _set_async_exc(self._thread, _NULL)
            except Interrupted:
                pass
            self._sent = False

    def _let_go(self) -> None:
        """Release the lock if this thread has it, after an exception that arrived somewhere about it.

        Up to Python 3.13 nothing can arrive between the moment `with` takes a lock and its block. From 3.14
        on, `with` calls `__enter__` by an instruction that may raise when the lock is already taken.
        """
        try:
            while True:
                self._lock.release()
        except RuntimeError:
            pass


class _Running(threading.local):
    interruptible: Interruptible | None = None


_running = _Running()


def current() -> Interruptible | None:
    """The Interruptible that runs on the calling thread, None elsewhere."""
    return _running.interruptible


def is_interrupted() -> bool:
    """True on the thread of a task that is to stop: Interrupted is raised once it leaves its shield."""
    running = current()
    return running is not None and running.interrupted


def shielded(wake: Callable[[], None] | None = None) -> AbstractContextManager[None]:
    """Shield what runs on the calling thread (see `Interruptible.shield`); without a task, do nothing."""
    running = current()
    return nullcontext() if running is None else running.shield(wake)
