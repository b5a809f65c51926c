"""Several executors share one database; several registries, and tasks added late, share one executor."""

from __future__ import annotations

import ctypes
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from durable_sync import DurableExecutor, ExecutionStatus, TaskContext, TaskHandle, TaskRegistry, as_completed
from durable_sync.engine import claimer, prefetch, queued, watcher
from durable_sync.storage import changes
from tests.behaviour.conftest import NewExecutor, fall_silent
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.processes import Script
from tests.waiting import wait_until

SOON = 10.0


@every_path
def test_each_execution_is_run_once(new_executor: NewExecutor) -> None:
    """However many executors look for work, each execution is started by one of them, once."""
    registry = TaskRegistry()
    runs: Counter[int] = Counter()

    @registry.task
    def work(ctx: TaskContext, number: int) -> int:
        runs[number] += 1
        return ctx.attempt

    executors = [new_executor(tasks=registry) for _ in range(3)]
    handles = executors[0].enqueue_many([work.bind(number) for number in range(50)])
    for executor in executors:
        executor.start()
    for number, executor in enumerate(executors):
        handles += [executor.enqueue(work, 50 + 5 * number + one) for one in range(5)]

    assert [handle.result(timeout=SOON) for handle in handles] == [0] * 65
    assert runs == Counter(range(65))


def test_of_very_many_waits_each_gets_its_turn(new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one look is not enough for all that are waited for, the ones in the middle are seen to end, too."""
    monkeypatch.setattr(watcher, "_AT_ONCE", 2)
    monkeypatch.setattr(watcher, "_LOOK_SECONDS", 0.02)
    caller, worker = new_executor(), new_executor(poll_interval=0.1)
    sleeper = caller.sleeping_task("sleeper")

    def double(number: int) -> int:
        return 2 * number

    work = caller.task(id="work")(double)
    worker.task(id="work")(double)

    def asleep(*keys: str) -> list[TaskHandle[Any]]:
        return list(caller.enqueue_many([sleeper.options(key=key).bind() for key in keys]))

    first = asleep("a", "b", "c")
    handles = caller.enqueue_many([work.bind(number) for number in range(20)])
    last = asleep("x", "y", "z")
    worker.start()

    finished = as_completed([*first, *handles, *last], timeout=SOON)
    assert {next(finished) for _ in handles} == set(handles)


@one_database
def test_work_goes_to_who_is_free(new_executor: NewExecutor, gate: Gate) -> None:
    """Work that one executor claimed ahead and can't start soon is given back, and another runs it."""
    busy, free = new_executor(max_workers=1), new_executor(max_workers=1)

    def wait_or_not(waits: bool) -> None:
        if waits:
            gate.pass_through()

    work = busy.task(id="work")(wait_or_not)
    free.task(id="work")(wait_or_not)
    busy.start()
    # Many quick runs teach it that it may claim ahead.
    busy.enqueue_many([work.bind(False) for _ in range(50)])
    busy.drain(timeout=SOON)
    handles = busy.enqueue_many([work.bind(number == 0) for number in range(10)])
    gate.wait_for_arrivals()
    free.start()

    for handle in handles[1:]:
        handle.wait(timeout=SOON)
    assert handles[0].running()


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_one_at_rest_hears_of_work(new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database tells, or lets itself be used as a bell, or its file shows it: no poll is waited for."""
    _hears_of_work(new_executor, monkeypatch)


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_one_at_rest_hears_of_the_last_that_was_enqueued(
    new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its process shuts down at once."""
    monkeypatch.setattr(claimer, "_QUICKEST_POLL", 600.0)
    monkeypatch.setattr(claimer, "_RECENT_POLL", 600.0)
    worker = new_executor(lease=600, poll_interval=600)

    def double(number: int) -> int:
        return 2 * number

    work = worker.task(id="work")(double)
    worker.start()
    assert worker.enqueue(work, 1).result(timeout=SOON) == 2
    for number in range(5):
        wait_until(lambda: _is_at_rest(worker))
        caller = new_executor()
        handle = caller.enqueue(caller.task(id="work")(double), number)
        caller.shutdown()
        assert worker.get_handle(work, handle.execution_id).result(timeout=SOON) == 2 * number


@one_database
def test_one_at_rest_looks_at_the_file(new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not tell that SQLite's file was written to."""

    def none(_files: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(changes, "FileWatch", none)
    _hears_of_work(new_executor, monkeypatch)


def _hears_of_work(new_executor: NewExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimer, "_QUICKEST_POLL", 600.0)
    monkeypatch.setattr(claimer, "_RECENT_POLL", 600.0)
    caller, worker = new_executor(lease=600), new_executor(lease=600, poll_interval=600)

    def double(number: int) -> int:
        return 2 * number

    work = caller.task(id="work")(double)
    worker.task(id="work")(double)
    caller.migrate()
    worker.start()
    # Whenever it comes: while others still get ready to hear, and when all are at rest.
    assert caller.enqueue(work, 1).result(timeout=SOON) == 2
    wait_until(lambda: _is_at_rest(worker))
    assert caller.enqueue(work, 4).result(timeout=SOON) == 8


def _is_at_rest(executor: DurableExecutor) -> bool:
    """True if it knows of no work, and its own last commit can't be confused with one of others."""
    desk = executor._desk
    assert desk.background is not None
    listener, own = desk._messenger._change_listener, desk.storage.database.own_commits
    told_apart = listener is None or listener._changes._own_commits == own
    return not desk.background.claimer.backlog and own[0] == own[1] and told_apart


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Claims far ahead, and gives back late, so that a test has time to hold the interpreter; what it logs of that.

    So late that what else holds up a process among others (a collection of garbage, half a second) gives back nothing.
    """
    monkeypatch.setattr(prefetch, "_WITHIN_SECONDS", 0.3)
    monkeypatch.setattr(queued, "_TOO_LONG", 2.5)
    monkeypatch.setattr(queued, "_STANDSTILL", 2.0)
    monkeypatch.setattr(queued, "_HELD_UP", 0.25)
    caplog.set_level(logging.DEBUG, logger=claimer.__name__)
    return caplog


@pytest.mark.parametrize("moment", ["at any time", "during a look"])
def test_nothing_is_given_back_because_the_whole_process_stood_still(
    new_executor: NewExecutor, unhurried: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """While nobody had the interpreter, nobody could begin on anything, and what is queued goes on here."""
    executor = new_executor(max_workers=2)

    @executor.task
    def work() -> None:
        time.sleep(0.05)

    handles = executor.enqueue_many(work.bind() for _ in range(40))
    with executor:
        background = executor._desk.background
        assert background is not None
        wait_until(lambda: background.pool.room < -4)
        if moment == "at any time":
            _stand_still()
        else:
            storage = background.claimer._storage
            monkeypatch.setattr(storage, "peek", _standing_still_once(storage.peek))
        for handle in handles:
            handle.result(timeout=SOON)
    assert "gave back" not in unhurried.text


def _stand_still() -> None:
    # In a call of this kind a thread keeps the interpreter to itself.
    ctypes.PyDLL(None).usleep(3_000_000)


def _standing_still_once(verb: Callable[..., Any]) -> Callable[..., Any]:
    stops = [_stand_still]

    def slow(*args: Any, **options: Any) -> Any:
        if stops:
            stops.pop()()
        return verb(*args, **options)

    return slow


def test_what_waits_behind_who_keeps_the_interpreter_is_given_back(
    new_executor: NewExecutor, gate: Gate, unhurried: pytest.LogCaptureFixture
) -> None:
    """That all stand still excuses nobody again and again: others may be free."""
    executor = new_executor(max_workers=2)

    @executor.task
    def work() -> None:
        time.sleep(0.01)

    @executor.task
    def hog() -> None:
        gate.pass_through()

    calls = [*(work.bind() for _ in range(40)), hog.bind(), hog.bind(), *(work.bind() for _ in range(5))]
    handles = executor.enqueue_many(calls)
    with executor:
        gate.wait_for_arrivals(2)
        deadline = time.monotonic() + SOON
        while "gave back" not in unhurried.text and time.monotonic() < deadline:
            ctypes.PyDLL(None).usleep(300_000)
            time.sleep(0.01)
        gate.open()
        for handle in handles:
            handle.result(timeout=SOON)
    assert "gave back" in unhurried.text


@every_path
def test_unknown_tasks_are_left_alone(new_executor: NewExecutor) -> None:
    """An executor leaves executions of tasks that it doesn't know to those who do, whatever their priority."""
    new, old = new_executor(), new_executor()

    @new.task
    def added() -> str:
        return "added"

    def both() -> str:
        return "both"

    known = new.task(both)
    old.task(both)
    unknown = new.enqueue(added.options(priority=9))
    handle = new.enqueue(known)

    old.start()
    assert handle.result(timeout=SOON) == "both"
    assert unknown.get_execution().status is ExecutionStatus.READY
    assert unknown.get_execution().attempt == 0
    assert unknown.get_execution().started_at is None

    new.start()
    assert unknown.result(timeout=SOON) == "added"


def test_tasks_may_be_added_while_the_executor_runs(executor: DurableExecutor, new_executor: NewExecutor) -> None:
    """A task declared after the start is run, also what was enqueued for it before it was declared here."""
    client = new_executor()

    def late() -> str:
        return "late"

    waiting = client.enqueue(client.task(late))
    added = executor.task(late)

    assert executor.enqueue(added).result(timeout=SOON) == "late"
    assert waiting.result(timeout=SOON) == "late"


@one_database
def test_two_registries(new_executor: NewExecutor) -> None:
    """An executor takes several registries, and what is added to them later."""
    one, other = TaskRegistry(), TaskRegistry()

    @one.task
    def first() -> str:
        return "first"

    @other.task
    def second() -> str:
        return "second"

    executor = new_executor(tasks=[one, other])
    executor.start()

    @other.task
    def third() -> str:
        return "third"

    @executor.task
    def own() -> str:
        return "own"

    handles = executor.enqueue_many([task.bind() for task in (first, second, third, own)])
    assert [handle.result(timeout=SOON) for handle in handles] == ["first", "second", "third", "own"]
    assert len(one) == 1


@one_database
def test_a_registry_of_several_executors(new_executor: NewExecutor) -> None:
    """One registry may belong to several executors; what an executor adds is its own."""
    registry = TaskRegistry()
    executors = [new_executor(tasks=registry, name=name) for name in ("one", "other")]

    @registry.task
    def shared() -> str:
        return "shared"

    for executor in executors:
        executor.task(id="own")(lambda: "own")
        executor.start()
        assert executor.enqueue(shared).result(timeout=SOON) == "shared"
    assert [task.id for task in registry] == ["shared"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_executors_of_different_prefixes_do_not_meet(new_executor: NewExecutor) -> None:
    """Executors with different tables neither see nor wake nor run each other's work."""
    registry = TaskRegistry()

    @registry.task
    def work() -> str:
        return "done"

    ours, theirs = new_executor(tasks=registry, table_prefix="our_"), new_executor(tasks=registry)
    theirs.migrate()
    ours.start()
    waiting = theirs.enqueue(work)

    assert ours.enqueue(work).result(timeout=SOON) == "done"
    assert waiting.get_execution().status is ExecutionStatus.READY


WORKER = """
    import sys
    from durable_sync import DurableExecutor

    executor = DurableExecutor(sys.argv[1], poll_interval=0.05)

    @executor.task
    def double(number: int) -> int:
        return 2 * number

    with executor:
        print("ready", flush=True)
        sys.stdin.readline()
"""


def test_another_process_runs_the_work(new_executor: NewExecutor, url: str) -> None:
    """What is enqueued here is run by another process, and its result comes back soon."""
    client = new_executor()

    @client.task
    def double(number: int) -> int: ...

    with Script(WORKER, url) as worker:
        assert worker.hear() == "ready"
        assert list(client.map(double, range(20))) == list(range(0, 40, 2))
        worker.say("stop")
        assert worker.wait() == 0


@every_path
def test_work_of_an_executor_that_is_gone_is_recovered(new_executor: NewExecutor, gate: Gate) -> None:
    """What ran in an executor that says nothing for a lease is run by another; the late outcome is refused."""
    gone, alive = new_executor(lease=1), new_executor(lease=1)
    second = Gate()

    def work(ctx: TaskContext) -> str:
        (second if ctx.attempt else gate).pass_through()
        return f"attempt {ctx.attempt}"

    task = gone.task(work)
    alive.task(work)
    gone.start()
    handle = gone.enqueue(task)
    gate.wait_for_arrivals()
    fall_silent(gone)
    alive.start()
    second.wait_for_arrivals()
    gate.open()
    wait_until(lambda: not gone.running_execution_ids)
    gone.shutdown()  # returns once the outcome has been answered for

    running = handle.get_execution()
    assert (running.status, running.attempt, running.output) == (ExecutionStatus.RUNNING, 1, None)
    second.open()
    assert handle.result(timeout=SOON) == "attempt 1"
