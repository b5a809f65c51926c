"""Interrupts at random moments, by the hundred thousand, in tasks of many shapes.

Asked for by its name only: `pytest tests/stress/test_cancel_stress.py`. The short form, and the sweep that
interrupts at every single bytecode, are in tests/test_interrupt.py.
"""

from __future__ import annotations

import faulthandler
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import pytest
from attrs import define, field, frozen

from durable_sync.engine import interrupt
from durable_sync.engine.interrupt import Interrupted, Interruptible, shielded

T = TypeVar("T")

INTERRUPTS = 100_000
DEADLINE = 300.0  # seconds; a run takes a fifth of it


@frozen
class Figures:
    """What was seen. `runs` to `late` say that the stress was one, the rest must be nought."""

    seconds: float
    runs: int
    interrupts: int  # runs that `interrupt` found not yet over
    stopped: int  # of those, that raised Interrupted
    late: int  # of those, that had ended by themselves before it arrived
    leaked: int  # Interrupted, outside `run`
    lost: int  # Interrupted from `run`, though the function had ended
    torn: int  # shielded sections that were entered and not left, or not left whole
    overslept: int  # waits that their `wake` did not end
    stuck: bool

    @property
    def is_clean(self) -> bool:
        return not (self.leaked or self.lost or self.torn or self.overslept or self.stuck)


@define
class Account:
    """Two numbers that are equal whenever the lock is free."""

    lock: threading.Lock = field(factory=threading.Lock)
    left: int = 0
    right: int = 0
    torn: int = 0

    def move(self) -> None:
        try:
            with self.lock:
                if self.left != self.right:
                    self.torn += 1
                    self.right = self.left
                self.left += 1
                spin(3)
                self.right += 1
        except Interrupted:
            self.torn += 1
            raise


def spin(times: int) -> None:
    for _ in range(times):
        pass


@define
class Shapes:
    """Task functions: short, so that interrupts find them at their beginnings and ends too."""

    random: random.Random
    account: Account  # shared by all workers
    overslept: int = 0

    def all(self) -> list[Callable[[], object]]:
        return [
            self.loop,
            self.cleans_up,
            self.with_blocks,
            self.shields,
            self.nested_shields,
            self.waits,
            self.generator,
            self.nothing,
            partial(sum, range(500)),
            self.swallows,
            self.fails,
        ]

    def loop(self) -> int:
        spin(self.random.randrange(2_000))
        return 1

    def cleans_up(self) -> None:
        try:
            spin(self.random.randrange(500))
        finally:
            spin(50)

    def with_blocks(self) -> None:
        @contextmanager
        def block() -> Iterator[None]:
            spin(10)
            try:
                yield
            finally:
                spin(10)

        for _ in range(self.random.randrange(20)):
            with block(), block():
                spin(10)

    def shields(self) -> None:
        for _ in range(self.random.randrange(30)):
            with shielded():
                self.account.move()

    def nested_shields(self) -> None:
        for _ in range(self.random.randrange(20)):
            with shielded():
                self.account.move()
                with shielded(), shielded():
                    self.account.move()
                self.account.move()

    def waits(self) -> None:
        """Nothing but its interrupt ends it."""
        spin(self.random.randrange(200))
        woken = threading.Event()
        with shielded(woken.set):
            if not woken.wait(20):
                self.overslept += 1

    def generator(self) -> int:
        def numbers() -> Iterator[int]:
            try:
                yield from range(self.random.randrange(300))
            finally:
                spin(5)

        return sum(number for number in numbers())

    def nothing(self) -> None:
        pass

    def swallows(self) -> None:
        for _ in range(10):
            try:
                spin(50)
                with shielded():
                    self.account.move()
            except BaseException:
                spin(10)

    def fails(self) -> None:
        spin(self.random.randrange(200))
        raise ValueError("mine")


@define(eq=False)
class Worker(threading.Thread):
    """What a pool's thread does: attempt after attempt, with code of its own between."""

    stress: Stress
    shapes: Shapes
    running: Interruptible
    runs: int = 0
    interrupts: int = 0
    stopped: int = 0
    leaked: int = 0
    lost: int = 0

    def __attrs_pre_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        while not self.stress.stopping.is_set():
            try:
                self.work()
            except Interrupted:
                self.leaked += 1

    def work(self) -> None:
        shapes = self.shapes.all()
        while not self.stress.stopping.is_set():
            try:
                self.attempt(self.shapes.random.choice(shapes))
                spin(self.shapes.random.randrange(100))
            except Interrupted:
                self.leaked += 1

    def attempt(self, function: Callable[[], object]) -> None:
        interruptible = self.running = self.stress.make()
        ended = stopped = False

        def and_say_so() -> None:
            nonlocal ended
            function()
            ended = True  # nothing can arrive between here and the end

        try:
            interruptible.run(function if isinstance(function, partial) else and_say_so)
        except Interrupted:
            stopped = True
        except ValueError:
            pass
        self.runs += 1
        self.interrupts += interruptible.interrupted
        self.stopped += stopped
        self.lost += stopped and ended


@define
class Stress:
    """`interrupts` of them by some threads, at random moments, in the tasks of some others."""

    interrupts: int
    seed: int = 0
    make: Callable[[], Interruptible] = Interruptible
    deadline: float = DEADLINE
    workers: list[Worker] = field(factory=list)
    stopping: threading.Event = field(factory=threading.Event)

    def run(self) -> Figures:
        started = time.monotonic()
        account = Account()
        shapes = [Shapes(random.Random(self.seed + number), account) for number in range(4)]
        self.workers = [Worker(self, each, self.make()) for each in shapes]
        threads = [
            *self.workers,
            *(threading.Thread(target=self._interrupt, args=(n,), daemon=True) for n in range(2)),
        ]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            stuck = not self._finish(started + self.deadline)
        finally:
            sys.setswitchinterval(interval)
        if stuck:
            faulthandler.dump_traceback()
        return Figures(
            seconds=round(time.monotonic() - started, 1),
            runs=sum(worker.runs for worker in self.workers),
            interrupts=self._count(),
            stopped=(stopped := sum(worker.stopped for worker in self.workers)),
            late=self._count() - stopped,
            leaked=sum(worker.leaked for worker in self.workers),
            lost=sum(worker.lost for worker in self.workers),
            torn=account.torn + (account.left != account.right),
            overslept=sum(each.overslept for each in shapes),
            stuck=stuck,
        )

    def _count(self) -> int:
        return sum(worker.interrupts for worker in self.workers)

    def _finish(self, deadline: float) -> bool:
        """Wait for the interrupts, then for the workers. False if they don't end before the deadline."""
        while time.monotonic() < deadline:
            if self._count() >= self.interrupts:
                self.stopping.set()
            if not any(worker.is_alive() for worker in self.workers):
                return True
            if self.stopping.is_set():
                for worker in self.workers:
                    worker.running.interrupt()
            time.sleep(0.005)
        self.stopping.set()
        return False

    def _interrupt(self, number: int) -> None:
        chance = random.Random(self.seed + 100 + number)
        while not self.stopping.is_set():
            spin(chance.randrange(300))
            chance.choice(self.workers).running.interrupt()


class OutsideTheLock(Interruptible):
    """Looks under the lock whether the thread is active, and raises when it has let go of the lock."""

    def interrupt(self) -> bool:
        with self._lock:
            if self._over or self._interrupted:
                return False
            self._interrupted = True
            wakes = self._wakes
        for wake in wakes:
            if wake is not None:
                wake()
        if self._thread is not None and not wakes and interrupt._set_async_exc is not None:
            self._sent = True
            interrupt._set_async_exc(self._thread, Interrupted)
        return True


class NoLoop(Interruptible):
    """Does not expect the exception while it leaves, though it takes back what has not arrived by then."""

    def run(self, function: Callable[[], T]) -> T:
        try:
            interrupt._running.interruptible = self
            with self._lock:
                if self._interrupted:
                    raise Interrupted
                self._thread = threading.get_ident()
            return function()
        finally:
            try:
                self._leave()
            finally:
                interrupt._running.interruptible = None


class ActiveWindow(NoLoop):
    """Raised under a lock while the thread is active, and no more than that."""

    def _take_back(self) -> None:
        pass


BROKEN = [OutsideTheLock, NoLoop, ActiveWindow]


@pytest.mark.timeout(DEADLINE + 30)
def test_nothing_leaks() -> None:
    """A hundred thousand interrupts at random moments: none leaks, tears a shielded section, or hangs."""
    figures = Stress(INTERRUPTS, seed=random.randrange(2**32)).run()
    print(sys.version.split()[0], figures)
    assert figures.is_clean, figures
    assert figures.stopped > INTERRUPTS / 4, figures


@pytest.mark.timeout(DEADLINE + 30)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # a leak may end a thread
@pytest.mark.parametrize("broken", BROKEN)
def test_sees_a_missing_fence(broken: type[Interruptible]) -> None:
    """The stress can fail: it finds what leaks through a gap in the fence."""
    for seed in range(10):
        figures = Stress(INTERRUPTS // 5, seed, broken, deadline=60).run()
        print(sys.version.split()[0], broken.__name__, figures)
        if not figures.is_clean:
            return
    pytest.fail("seen nothing")
