"""Which executor runs what, in which order, and when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta, timezone

import pytest

from durable_sync import DurableExecutor, ExecutionStatus, TaskRegistry
from tests.behaviour.conftest import NewExecutor
from tests.clocks import START, ManualClock
from tests.gates import Gate
from tests.paths import every_path, one_database

SOON = 10.0


class Log:
    """A registry with one task, which notes its argument."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.registry = TaskRegistry()
        self.note = self.registry.task(id="note")(self._note())

    def _note(self) -> Callable[[str], None]:
        def note(name: str) -> None:
            self.names.append(name)

        return note


# queues


@every_path
def test_an_executor_runs_only_the_queues_it_serves(new_executor: NewExecutor) -> None:
    """`queues` names what an executor claims from; the rest is left for others, whatever its priority."""
    log = Log()
    mails = new_executor(tasks=log.registry, queues=["mails", "letters"])
    reports = new_executor(tasks=log.registry, queues=["reports"])
    note = log.note
    report = reports.enqueue(note.options(queue="reports", priority=9), "report")
    mail = mails.enqueue(note.options(queue="mails"), "mail")
    letter = mails.enqueue(note.options(queue="letters"), "letter")

    mails.start()
    mail.wait(timeout=SOON)
    letter.wait(timeout=SOON)
    assert report.get_execution().status is ExecutionStatus.READY
    assert sorted(log.names) == ["letter", "mail"]

    reports.start()
    assert report.wait(timeout=SOON).queue == "reports"


def test_an_executor_of_all_queues_finds_unknown_ones(new_executor: NewExecutor) -> None:
    """With `queues=None` also those are served that only an enqueue in another process names."""
    log = Log()
    client, worker = new_executor(tasks=log.registry), new_executor(tasks=log.registry)
    worker.start()

    handles = [
        client.enqueue(log.note.options(queue=queue), queue) for queue in ("zebra", "Alpha", "default", "mü", "a b")
    ]

    for handle in handles:
        handle.wait(timeout=SOON)
    assert sorted(log.names) == sorted(["zebra", "Alpha", "default", "mü", "a b"])


def test_queues_are_compared_byte_by_byte(new_executor: NewExecutor) -> None:
    """A queue whose name differs in case or accent is another queue, whatever the server's collation says."""
    log = Log()
    worker = new_executor(tasks=log.registry, queues=["mail"])
    others = [worker.enqueue(log.note.options(queue=queue), queue) for queue in ("Mail", "maïl", " mail")]
    mine = worker.enqueue(log.note.options(queue="mail"), "mail")
    worker.start()

    mine.wait(timeout=SOON)
    assert [handle.get_execution().status for handle in others] == [ExecutionStatus.READY] * 3


@one_database
def test_a_task_declares_its_queue_and_priority(new_executor: NewExecutor) -> None:
    """`queue` and `priority` of the declaration hold unless `options` says otherwise; both are stored."""
    executor = new_executor()

    @executor.task(queue="mails", priority=3)
    def send() -> None: ...

    declared = executor.enqueue(send).get_execution()
    given = executor.enqueue(send.options(queue="urgent", priority=-7)).get_execution()

    assert (declared.queue, declared.priority) == ("mails", 3)
    assert (given.queue, given.priority) == ("urgent", -7)


# order


@every_path
def test_higher_priorities_run_first_then_the_one_ready_longest(new_executor: NewExecutor) -> None:
    """What waits is run by priority, highest first; among equals, in the order of enqueueing."""
    log = Log()
    executor = new_executor(tasks=log.registry, max_workers=1)
    plan = [("a", 0), ("b", 5), ("c", -5), ("d", 0), ("e", 5), ("f", 2_147_483_647), ("g", -2_147_483_647)]
    handles = [executor.enqueue(log.note.options(priority=priority), name) for name, priority in plan]

    executor.start()
    for handle in handles:
        handle.wait(timeout=SOON)

    assert "".join(log.names) == "fbeadcg"


def test_enqueue_many_is_run_in_its_order(new_executor: NewExecutor) -> None:
    """Calls of equal priority that were enqueued in one transaction are run in their order."""
    log = Log()
    executor = new_executor(tasks=log.registry, max_workers=1)
    names = [f"{number:03}" for number in range(300)]
    executor.enqueue_many([log.note.bind(name) for name in names])

    executor.start()
    executor.drain(timeout=SOON)

    assert log.names == names


@one_database
def test_a_higher_priority_overtakes_what_waits(new_executor: NewExecutor, gate: Gate) -> None:
    """Work of higher priority that comes while all threads are busy runs before the older work that waits."""
    log = Log()
    executor = new_executor(tasks=log.registry, max_workers=1)
    executor.start()

    @executor.task
    def occupy() -> None:
        gate.pass_through()

    executor.enqueue(occupy)
    gate.wait_for_arrivals()
    executor.enqueue(log.note, "old")
    executor.enqueue(log.note.options(priority=1), "urgent")
    gate.open()
    executor.drain(timeout=SOON)

    assert log.names == ["urgent", "old"]


# times


@every_path
def test_a_delay_is_waited_for(new_executor: NewExecutor, clock: ManualClock) -> None:
    """Delayed work starts when its delay has passed by the clock, not before; work that is ready goes ahead."""
    log = Log()
    executor = new_executor(tasks=log.registry, clock=clock, poll_interval=0.01)
    executor.start()

    late = executor.enqueue(log.note.options(delay=timedelta(hours=2)), "late")
    soon = executor.enqueue(log.note.options(delay=3600), "soon")
    executor.enqueue(log.note.options(delay=3601), "next")
    assert late.get_execution().ready_at == START + timedelta(hours=2)
    clock.advance(3599)
    executor.enqueue(log.note, "a").wait(timeout=SOON)
    assert log.names == ["a"]

    clock.advance(1)
    assert soon.wait(timeout=SOON).started_at == START + timedelta(hours=1)
    executor.enqueue(log.note, "b").wait(timeout=SOON)
    assert log.names == ["a", "soon", "b"]

    clock.advance(3600)
    executor.drain(timeout=SOON)
    assert sorted(log.names[3:]) == ["late", "next"]


@every_path
def test_run_at_names_the_moment(new_executor: NewExecutor, clock: ManualClock) -> None:
    """`run_at` is a moment in any time zone; one that has passed is now."""
    log = Log()
    executor = new_executor(tasks=log.registry, clock=clock, poll_interval=0.01)
    executor.start()
    moment = (START + timedelta(seconds=60, microseconds=1)).astimezone(timezone(timedelta(hours=-8)))

    later = executor.enqueue(log.note.options(run_at=moment), "later")
    past = executor.enqueue(log.note.options(run_at=START - timedelta(days=400)), "past")

    past.wait(timeout=SOON)
    clock.advance(60)
    executor.enqueue(log.note, "between").wait(timeout=SOON)
    clock.advance(0.000001)
    assert later.wait(timeout=SOON).ready_at == moment
    assert log.names == ["past", "between", "later"]


def test_delays_in_enqueue_many(new_executor: NewExecutor, clock: ManualClock) -> None:
    """Calls with delays, with `run_at` and with neither may go in one transaction; each keeps its own."""
    log = Log()
    executor = new_executor(tasks=log.registry, clock=clock, max_workers=1)
    note = log.note
    handles = executor.enqueue_many(
        [
            note.bind("now"),
            note.options(delay=60).bind("in a minute"),
            note.options(run_at=START + timedelta(hours=1)).bind("at one"),
            note.options(delay=0, priority=4).bind("first"),
        ]
    )

    waits = [(handle.get_execution().ready_at - START).total_seconds() for handle in handles]
    assert waits == pytest.approx([0, 60, 3600, 0], abs=0.001)
    executor.start()
    handles[0].wait(timeout=SOON)
    assert log.names == ["first", "now"]


@one_database
def test_a_declared_delay(new_executor: NewExecutor, clock: ManualClock) -> None:
    """`delay` of the declaration counts from each enqueue, unless `options` gives another, or `run_at`."""
    executor = new_executor(clock=clock)

    @executor.task(delay=timedelta(minutes=1))
    def later() -> None: ...

    clock.advance(5)

    assert executor.enqueue(later).get_execution().ready_at == START + timedelta(seconds=65)
    assert executor.enqueue(later.options(delay=0)).get_execution().ready_at == START + timedelta(seconds=5)
    given = executor.enqueue(later.options(run_at=START)).get_execution()
    assert given.ready_at == START


def test_time_is_the_databases(new_executor: NewExecutor) -> None:
    """Without a clock of the test's own, work that is due in a moment starts by itself."""
    log = Log()
    executor: DurableExecutor = new_executor(tasks=log.registry)
    executor.start()

    ended = executor.enqueue(log.note.options(delay=0.2), "soon").wait(timeout=SOON)

    assert ended.started_at is not None
    assert timedelta(0) <= ended.started_at - ended.ready_at < timedelta(seconds=1)
    assert (ended.ready_at - ended.created_at).total_seconds() == pytest.approx(0.2, abs=0.05)
