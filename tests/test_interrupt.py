"""Stopping a thread: promptly, and without anything that leaks out of the task."""

from __future__ import annotations

import ctypes
import dis
import importlib.util
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from attrs import define, field

from durable_sync.engine import interrupt
from durable_sync.engine.interrupt import Interrupted, Interruptible, current, shielded
from tests.stress.test_cancel_stress import ActiveWindow, NoLoop, Stress
from tests.waiting import wait_until

DEADLINE = 20.0


@define
class Attempt:
    """Runs `function` on a thread of its own, and keeps what `run` did."""

    function: Callable[[], Any]
    interruptible: Interruptible = field(factory=Interruptible)
    result: Any = None
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.interruptible.run(self.function)
        except BaseException as error:
            self.error = error

    def join(self) -> Attempt:
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive(), "still running"
        return self


def spin_until(event: threading.Event) -> None:
    """Wait in pure Python, where an exception can arrive."""
    deadline = time.monotonic() + DEADLINE
    while not event.is_set():
        assert time.monotonic() < deadline


# run


def test_run_returns_what_the_function_returns() -> None:
    """Without an interrupt, `run` is a plain call."""
    assert Interruptible().run(lambda: 42) == 42


def test_run_raises_what_the_function_raises() -> None:
    """An error of the function's own passes unchanged."""
    error = ValueError("mine")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        Interruptible().run(fail)
    assert caught.value is error


def test_run_is_for_once() -> None:
    """One object serves one attempt, and a thread runs one at a time."""
    interruptible = Interruptible()
    interruptible.run(int)
    with pytest.raises(RuntimeError):
        interruptible.run(int)
    with pytest.raises(RuntimeError):
        Interruptible().run(lambda: Interruptible().run(int))


def test_current_is_what_runs_on_this_thread() -> None:
    """`current` is the running Interruptible inside the task, None before, after and on other threads."""
    inside: list[Interruptible | None] = []
    interruptible = Interruptible()
    interruptible.run(lambda: inside.append(current()))
    assert inside == [interruptible]
    assert current() is None


# interrupt


def test_an_interrupt_stops_pure_python() -> None:
    """A function that loops is stopped, its `finally` runs, and `except Exception` does not hold it."""
    started, cleaned = threading.Event(), threading.Event()

    def forever() -> None:
        try:
            started.set()
            while True:
                try:
                    time.monotonic()
                except Exception:
                    continue
        finally:
            cleaned.set()

    attempt = Attempt(forever)
    assert started.wait(DEADLINE)
    assert attempt.interruptible.interrupt()
    assert type(attempt.join().error) is Interrupted
    assert cleaned.is_set()
    assert attempt.interruptible.interrupted


def test_an_interrupt_before_the_run_keeps_the_function_from_being_called() -> None:
    """What was interrupted while it waited for a thread never starts."""
    interruptible, calls = Interruptible(), []
    assert interruptible.interrupt()
    with pytest.raises(Interrupted):
        interruptible.run(lambda: calls.append(1))
    assert not calls
    assert current() is None


def test_an_interrupt_after_the_run_does_nothing() -> None:
    """A run that is over can't be interrupted, and says so."""
    interruptible = Interruptible()
    interruptible.run(int)
    assert not interruptible.interrupt()
    assert not interruptible.interrupted


def test_interrupts_after_the_first_do_nothing() -> None:
    """A task that lives through its interrupt isn't shot at again."""
    started, interrupted_again, survived = (threading.Event() for _ in range(3))

    def survive() -> str:
        try:
            started.set()
            spin_until(interrupted_again)
        except Interrupted:
            survived.set()
        spin_until(interrupted_again)
        return "survived"

    attempt = Attempt(survive)
    assert started.wait(DEADLINE)
    assert attempt.interruptible.interrupt()
    assert survived.wait(DEADLINE)
    assert attempt.interruptible.interrupt()
    interrupted_again.set()
    assert attempt.join().result == "survived"
    assert attempt.interruptible.interrupted


def test_a_task_may_interrupt_itself() -> None:
    """`interrupt` on the running thread raises before it returns."""
    interruptible, after = Interruptible(), []

    def suicidal() -> None:
        interruptible.interrupt()
        after.append(1)

    with pytest.raises(Interrupted):
        interruptible.run(suicidal)
    assert not after


# shield


def test_a_shield_holds_the_interrupt_back_until_it_is_left() -> None:
    """The shielded body runs to its end, nested shields included; then Interrupted is raised."""
    started, interrupted = threading.Event(), threading.Event()
    done: list[str] = []

    def task() -> None:
        with shielded():
            with shielded():
                started.set()
                spin_until(interrupted)
                done.append("inner")
            done.append("outer")
        done.append("outside")

    attempt = Attempt(task)
    assert started.wait(DEADLINE)
    assert attempt.interruptible.interrupt()
    interrupted.set()
    assert type(attempt.join().error) is Interrupted
    assert done == ["inner", "outer"]


def test_an_interrupt_wakes_what_waits_inside_a_shield() -> None:
    """`wake` ends a blocking wait early, from every nested shield, on the interrupting thread."""
    started, woken = threading.Event(), threading.Event()
    wakers: list[tuple[str, int]] = []

    def wake(name: str) -> None:
        wakers.append((name, threading.get_ident()))
        woken.set()

    def task() -> None:
        with shielded(lambda: wake("outer")), shielded(), shielded(lambda: wake("inner")):
            started.set()
            assert woken.wait(DEADLINE)
            wait_until(lambda: len(wakers) == 2)

    attempt = Attempt(task)
    assert started.wait(DEADLINE)
    attempt.interruptible.interrupt()
    assert type(attempt.join().error) is Interrupted
    assert wakers == [("inner", threading.get_ident()), ("outer", threading.get_ident())]


def test_a_shield_that_is_entered_after_the_interrupt_wakes_at_once() -> None:
    """A task that has swallowed its interrupt doesn't block in the library, and is stopped there."""
    interruptible, done = Interruptible(), []
    woken = threading.Event()

    def task() -> None:
        try:
            interruptible.interrupt()
        except BaseException:
            done.append("swallowed")
        with shielded(woken.set):
            assert woken.is_set()
            done.append("shielded")
        done.append("outside")

    with pytest.raises(Interrupted):
        interruptible.run(task)
    assert done == ["swallowed", "shielded"]


def test_a_wake_that_fails_lowers_the_shield() -> None:
    """An error in `wake` at the entry doesn't leave the thread shielded, nor hide the interrupt."""
    interruptible = Interruptible()

    def task() -> None:
        with pytest.raises(Interrupted):
            interruptible.interrupt()
        with shielded(lambda: 1 / 0):
            pytest.fail("entered")

    with pytest.raises(Interrupted) as caught:
        interruptible.run(task)
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    assert interruptible._wakes == ()


def test_interrupted_replaces_what_a_shielded_body_raises() -> None:
    """An interrupted task is stopped, whatever the library call it was in came to."""
    interruptible = Interruptible()

    def task() -> None:
        with shielded():
            interruptible.interrupt()
            raise ValueError("mine")

    with pytest.raises(Interrupted) as caught:
        interruptible.run(task)
    assert isinstance(caught.value.__context__, ValueError)


def test_a_shield_lets_errors_and_loops_by() -> None:
    """Without an interrupt a shield changes nothing, and neither does one without a task."""

    def task() -> None:
        for number in range(3):
            with shielded():
                if number:
                    raise ValueError("mine")

    for run in (Interruptible().run, lambda function: function()):
        with pytest.raises(ValueError, match="mine"):
            run(task)


def test_a_shield_that_outlives_its_run_is_harmless() -> None:
    """A generator that was left in the middle of a shield raises nothing when it is closed later."""
    interruptible = Interruptible()

    def shielding() -> Iterator[None]:
        with interruptible.shield():
            yield

    generator = shielding()

    def task() -> None:
        next(generator)
        interruptible.interrupt()

    interruptible.run(task)
    generator.close()


# an interpreter that can't


def test_without_the_c_function_only_shields_stop_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no exception can be raised in another thread, `interrupt` says so; shields raise all the same."""
    monkeypatch.delattr(ctypes, "pythonapi")
    assert interrupt.__file__ is not None
    spec = importlib.util.spec_from_file_location("interrupt_on_pypy", interrupt.__file__)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    interruptible = module.Interruptible()

    def task() -> None:
        thread = threading.Thread(target=lambda: answers.append(interruptible.interrupt()))
        thread.start()
        thread.join()
        with module.shielded():
            answers.append("shielded")
        answers.append("outside")

    answers: list[Any] = []
    with pytest.raises(module.Interrupted):
        interruptible.run(task)
    assert answers == [False, "shielded"]


# every bytecode


@define
class Sweep:
    """One attempt, interrupted at the `at`-th bytecode, as if by another thread.

    The tracer does what `interrupt` would do, and does it last: no bytecode of its own looks for the
    exception between that and the next traced one.
    """

    at: int
    make: Callable[[], Interruptible]
    function: Callable[[], None]
    interruptible: Interruptible = field(init=False)
    bytecodes: int = 0
    ended: bool = False  # the function
    where: str = ""
    faults: list[str] = field(factory=list)

    def run(self) -> Sweep:
        self.interruptible = self.make()
        tracer = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one when a tracer is set
        sys.settrace(self._trace)
        try:
            self._attempt()
        except Interrupted:
            self.faults.append("leaked")
        finally:
            sys.settrace(tracer)
        if current() is not None or not self.interruptible._over or self._is_locked():
            self.faults.append("left active")
        return self

    def _attempt(self) -> None:
        try:
            self.interruptible.run(self._function)
        except Interrupted:
            if self.ended:
                self.faults.append("lost the outcome")
        for _ in range(3):
            pass

    def _function(self) -> None:
        self.function()
        self.ended = True

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        if event != "opcode":
            return self._trace
        self.bytecodes += 1
        if self.bytecodes <= self.at or self._is_locked():
            return self._trace
        self.where = describe(frame)
        sys.settrace(None)  # or it would arrive in the next call of this tracer
        it = self.interruptible
        if it._thread is None or it._over or it._wakes:
            it.interrupt()
        else:
            it._interrupted = it._sent = True
            send = map(interrupt._set_async_exc, (it._thread,), (Interrupted,))
            [_] = send  # not by a call: those look for exceptions
        return None

    def _is_locked(self) -> bool:
        """Whether another thread would have to wait for the lock."""
        return self.interruptible._lock._is_owned()


def describe(frame: FrameType) -> str:
    code = frame.f_code
    opname = next((i.opname for i in dis.get_instructions(code) if i.offset == frame.f_lasti), "?")
    return f"{code.co_name}:{frame.f_lineno}:{opname}"


def sweep(function: Callable[[], None], make: Callable[[], Interruptible] = Interruptible) -> list[str]:
    """Interrupt at every bytecode of an attempt in turn; what went wrong, and where."""
    faults: list[str] = []
    for at in range(10_000):
        one = Sweep(at, make, function).run()
        if not one.where:
            assert at > 50, "nothing was traced"
            return faults
        faults += [f"{one.where} {fault}" for fault in one.faults]
    raise AssertionError("no end")


def plain() -> None:
    for _ in range(2):
        pass


def cleaning() -> None:
    try:
        plain()
    finally:
        plain()


class Guard:
    """What is done inside a shield is done to the end, once it has begun."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def once(self) -> None:
        with shielded():
            self.begun += 1
            with shielded(lambda: None):
                plain()
            self.ended += 1

    def twice(self) -> None:
        self.once()
        self.once()

    def swallowing(self) -> None:
        try:
            self.once()
        except BaseException:
            plain()
        plain()

    def failing(self) -> None:
        try:
            with shielded():
                raise ValueError
        except ValueError:
            self.once()

    def in_a_generator(self) -> None:
        def numbers() -> Iterator[int]:
            for number in range(2):
                self.once()
                yield number

        for _ in numbers():
            pass

    def in_a_block(self) -> None:
        @contextmanager
        def block() -> Iterator[None]:
            try:
                yield
            finally:
                self.once()

        with block():
            plain()


@pytest.mark.parametrize("function", [plain, cleaning, int])
def test_no_bytecode_leaks(function: Callable[[], None]) -> None:
    """Wherever an interrupt finds the thread, it stays inside `run`, and a function that ended has ended."""
    assert sweep(function) == []


@pytest.mark.parametrize("name", ["once", "twice", "swallowing", "failing", "in_a_generator", "in_a_block"])
def test_no_bytecode_tears_a_shield(name: str) -> None:
    """Wherever an interrupt finds the thread, a shielded body that has begun runs to its end."""
    guard = Guard()
    assert sweep(getattr(guard, name)) == []
    assert guard.begun == guard.ended > 0


@pytest.mark.parametrize("broken", [NoLoop, ActiveWindow])
def test_the_sweep_sees_a_missing_fence(broken: type[Interruptible]) -> None:
    """The sweep can fail: it finds the gap in fences that are known to have one."""
    assert sweep(plain, broken)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_sweep_sees_a_missing_shield() -> None:
    """The sweep can fail: it finds a shield that holds nothing back."""

    class Careless(Interruptible):
        def _raise_shield(self, wakes: Any) -> bool:
            return self._interrupted

    guard = Guard()
    sweep(guard.twice, Careless)
    assert guard.begun != guard.ended


def test_a_debugger_can_trace_after_an_interrupt() -> None:
    """What an interrupt leaves behind in the interpreter doesn't hang whoever traces next (Python 3.11 did)."""
    started = threading.Event()

    def forever() -> None:
        started.set()
        while True:
            pass

    attempt = Attempt(forever)
    assert started.wait(DEADLINE)
    attempt.interruptible.interrupt()
    attempt.join()
    traced = "import sys; sys.settrace(lambda *_: None); (lambda: None)(); sys.settrace(None)"
    tracer = sys.gettrace()
    try:
        exec(traced)
    finally:
        sys.settrace(tracer)


# at random


def test_nothing_leaks_at_random_moments() -> None:
    """The short form of the stress: no leak, no torn shield, no lost wake-up, no deadlock."""
    figures = Stress(5_000, seed=random.randrange(2**32), deadline=60).run()
    assert figures.is_clean, figures
    assert figures.stopped > 1_000, figures
