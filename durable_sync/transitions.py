"""The state machine: every move between statuses, each built by one constructor. Pure.

Storage applies a transition as one guarded statement: the row must stand in one of `sources`, and if
the transition is `fenced` it must still carry the claim token of the attempt whose outcome this is.
No status is written anywhere else.

The values a transition gives to columns are plain values, or one of the few forms below, which storage
renders as SQL and a model can evaluate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from attrs import field, frozen

from durable_sync.execution import ACTIVE, ExecutionStatus

__all__ = [
    "ALL_MOVES",
    "FIRST",
    "LANE",
    "FirstTime",
    "Lane",
    "Now",
    "Plus",
    "Transition",
    "Value",
    "begin_finalize",
    "cancel",
    "cancel_self",
    "claim",
    "complete",
    "complete_children",
    "complete_finalize",
    "count_down",
    "due",
    "fail",
    "fail_children",
    "fail_finalize",
    "give_up",
    "lane_of",
    "oversleep",
    "recover",
    "release",
    "retry",
    "spawn",
    "spawn_finalize",
    "take_turn",
    "time_out",
    "wake",
    "wake_failed",
]


@frozen
class Now:
    """The database's present time, plus `after` microseconds."""

    after: int = 0


@frozen
class Plus:
    """The column's own value plus `amount`."""

    amount: int


@frozen
class FirstTime:
    """The column's own value, or the present time if it has none."""


@frozen
class Lane:
    """The lane that the row's own `recoveries` and `max_recoveries` put it in: see `lane_of`."""


Value: TypeAlias = str | int | float | Now | Plus | FirstTime | Lane | None

FIRST: Final = FirstTime()
LANE: Final = Lane()

ORDINARY_LANE = 0
SUSPECT_LANE = 1
SOLO_LANE = 2


def lane_of(recoveries: int, max_recoveries: int) -> int:
    """How a ready execution may be claimed.

    0: freely. 1: it was recovered before, so one such at a time in a process, for blame to find
    the right one. 2: one more recovery would fail it, so it runs with nothing beside it.
    """
    if recoveries == 0:
        return ORDINARY_LANE
    return SUSPECT_LANE if recoveries < max_recoveries else SOLO_LANE


@frozen
class Transition:
    """One move: from any of `sources` to `target`, with what it writes besides the status."""

    name: str
    sources: frozenset[ExecutionStatus]
    target: ExecutionStatus
    values: Mapping[str, Value] = field(factory=dict[str, Value])
    fenced: bool = True

    def shape(self) -> tuple[object, ...]:
        """Equal for transitions that one statement can apply, with only parameters differing."""
        return (self.name, self.target, *self.values, *map(type, self.values.values()))


_READY = frozenset({ExecutionStatus.READY})
_RUNNING = frozenset({ExecutionStatus.RUNNING})
_WAITING_FOR_CHILDREN = frozenset({ExecutionStatus.WAITING_FOR_CHILDREN})
_WAITING_FOR_FINALIZE = frozenset({ExecutionStatus.WAITING_FOR_FINALIZE})
_SLEEPING = frozenset({ExecutionStatus.SLEEPING})

_LEAVES_THE_QUEUE: Mapping[str, Value] = {"lane": None, "timer_at": None}
_FINISHES: Mapping[str, Value] = {**_LEAVES_THE_QUEUE, "active_key": None, "finished_at": Now(), "updated_at": Now()}


def claim(executor_id: str) -> Transition:
    """ready -> running: an executor takes it, under a claim token that no other claim has."""
    return Transition(
        "claim",
        _READY,
        ExecutionStatus.RUNNING,
        {
            **_LEAVES_THE_QUEUE,
            "executor_id": executor_id,
            "claim_token": Plus(1),
            "starts": Plus(1),
            "first_started_at": FIRST,
            "started_at": Now(),
            "updated_at": Now(),
        },
        fenced=False,
    )


def due() -> Transition:
    """ready -> ready: its `ready_at` has come, so it may be claimed."""
    return Transition("due", _READY, ExecutionStatus.READY, {"lane": LANE, "timer_at": None}, fenced=False)


def take_turn(delay: int) -> Transition:
    """ready -> ready: what it waited for among its parent's children has ended; `delay` microseconds to go."""
    return Transition(
        "take_turn",
        _READY,
        ExecutionStatus.READY,
        {**_queued_after(delay), "ready_at": Now(delay), "updated_at": Now()},
        fenced=False,
    )


def _queued_after(delay: int) -> Mapping[str, Value]:
    return {"lane": None, "timer_at": Now(delay)} if delay > 0 else {"lane": LANE, "timer_at": None}


def complete(run_output: str, plan: str | None = None) -> Transition:
    """running -> completed, with the function's output as JSON text.

    With a plan (see `durable_sync.plans`): a parent without children and finalize.
    """
    return Transition(
        "complete",
        _RUNNING,
        ExecutionStatus.COMPLETED,
        {**_FINISHES, "run_output": run_output, "error": None, **({} if plan is None else {"plan": plan})},
    )


def spawn(run_output: str, plan: str, children: int) -> Transition:
    """running -> waiting_for_children: the function has returned, and its children are born with this."""
    return Transition(
        "spawn",
        _RUNNING,
        ExecutionStatus.WAITING_FOR_CHILDREN,
        {
            "run_output": run_output,
            "plan": plan,
            "unfinished_children": children,
            "error": None,
            "updated_at": Now(),
        },
    )


def spawn_finalize(run_output: str, plan: str) -> Transition:
    """running -> waiting_for_finalize: the function has returned without children."""
    return Transition(
        "spawn_finalize",
        _RUNNING,
        ExecutionStatus.WAITING_FOR_FINALIZE,
        {"run_output": run_output, "plan": plan, "error": None, "updated_at": Now()},
    )


def count_down(ended: int) -> Transition:
    """waiting_for_children -> waiting_for_children: so many children have ended, and others have not."""
    return Transition(
        "count_down",
        _WAITING_FOR_CHILDREN,
        ExecutionStatus.WAITING_FOR_CHILDREN,
        {"unfinished_children": Plus(-ended), "updated_at": Now()},
        fenced=False,
    )


def complete_children(ended: int, output_from: str | None) -> Transition:
    """waiting_for_children -> completed: the last children have ended, and there is no finalize.

    `output_from` is the execution whose output is its own; None if its output is put together of its children's.
    """
    return Transition(
        "complete_children",
        _WAITING_FOR_CHILDREN,
        ExecutionStatus.COMPLETED,
        {**_FINISHES, "unfinished_children": Plus(-ended), "output_from": output_from},
        fenced=False,
    )


def fail_children(error: str, ended: int) -> Transition:
    """waiting_for_children -> children_failed: a child did not complete, and nothing provides for that."""
    return Transition(
        "fail_children",
        _WAITING_FOR_CHILDREN,
        ExecutionStatus.CHILDREN_FAILED,
        {**_FINISHES, "unfinished_children": Plus(-ended), "error": error},
        fenced=False,
    )


def begin_finalize(ended: int) -> Transition:
    """waiting_for_children -> waiting_for_finalize: the last children have ended."""
    return Transition(
        "begin_finalize",
        _WAITING_FOR_CHILDREN,
        ExecutionStatus.WAITING_FOR_FINALIZE,
        {"unfinished_children": Plus(-ended), "updated_at": Now()},
        fenced=False,
    )


def complete_finalize(output_from: str) -> Transition:
    """waiting_for_finalize -> completed: its output is that of the execution `output_from`."""
    return Transition(
        "complete_finalize",
        _WAITING_FOR_FINALIZE,
        ExecutionStatus.COMPLETED,
        {**_FINISHES, "output_from": output_from},
        fenced=False,
    )


def fail_finalize(error: str) -> Transition:
    """waiting_for_finalize -> finalize_failed: its finalize did not complete.

    From waiting_for_children, too: the finalize may be cancelled before its turn.
    """
    return Transition(
        "fail_finalize",
        _WAITING_FOR_CHILDREN | _WAITING_FOR_FINALIZE,
        ExecutionStatus.FINALIZE_FAILED,
        {**_FINISHES, "error": error},
        fenced=False,
    )


def wake(output: str) -> Transition:
    """sleeping -> completed: somebody has woken it, with its output as JSON text."""
    return Transition(
        "wake",
        _SLEEPING,
        ExecutionStatus.COMPLETED,
        {**_FINISHES, "run_output": output, "error": None},
        fenced=False,
    )


def wake_failed(error: str) -> Transition:
    """sleeping -> failed: somebody has woken it, with an error."""
    return Transition("wake_failed", _SLEEPING, ExecutionStatus.FAILED, {**_FINISHES, "error": error}, fenced=False)


def oversleep(error: str) -> Transition:
    """sleeping -> timed_out: nobody has woken it in time."""
    return Transition("oversleep", _SLEEPING, ExecutionStatus.TIMED_OUT, {**_FINISHES, "error": error}, fenced=False)


def retry(error: str, delay: int) -> Transition:
    """running -> ready: the attempt failed, and the retry policy wants another after `delay` microseconds."""
    return Transition(
        "retry",
        _RUNNING,
        ExecutionStatus.READY,
        {
            **_queued_after(delay),
            "ready_at": Now(delay),
            "failures": Plus(1),
            "idle_for": Plus(delay),
            "error": error,
            "updated_at": Now(),
        },
    )


def fail(error: str) -> Transition:
    """running -> failed: the attempt failed, and is not to be retried."""
    return Transition("fail", _RUNNING, ExecutionStatus.FAILED, {**_FINISHES, "failures": Plus(1), "error": error})


def time_out(error: str) -> Transition:
    """running -> timed_out: the attempt overran its timeout, and is not to be retried."""
    return Transition(
        "time_out", _RUNNING, ExecutionStatus.TIMED_OUT, {**_FINISHES, "failures": Plus(1), "error": error}
    )


def cancel_self(error: str) -> Transition:
    """running -> cancelled: the task itself raised TaskCancelledError."""
    return Transition("cancel_self", _RUNNING, ExecutionStatus.CANCELLED, {**_FINISHES, "error": error})


def cancel(error: str) -> Transition:
    """Any active status -> cancelled, by somebody's wish. Not fenced: it ends whatever attempt there is."""
    return Transition("cancel", ACTIVE, ExecutionStatus.CANCELLED, {**_FINISHES, "error": error}, fenced=False)


def release(*, started: bool) -> Transition:
    """running -> ready: its living owner gives it back; counted neither as failure nor as recovery."""
    uncounted: Mapping[str, Value] = {} if started else {"starts": Plus(-1)}
    return Transition(
        "release" if started else "release_unstarted",
        _RUNNING,
        ExecutionStatus.READY,
        {**uncounted, "lane": LANE, "timer_at": None, "updated_at": Now()},
    )


def recover(lane: int) -> Transition:
    """running -> ready: its owner is dead."""
    return Transition(
        "recover",
        _RUNNING,
        ExecutionStatus.READY,
        {"recoveries": Plus(1), "lane": lane, "timer_at": None, "updated_at": Now()},
    )


def give_up(error: str) -> Transition:
    """running -> failed: its owner is dead, once too often."""
    return Transition("give_up", _RUNNING, ExecutionStatus.FAILED, {**_FINISHES, "recoveries": Plus(1), "error": error})


ALL_MOVES: Final = (
    claim(""),
    due(),
    take_turn(0),
    complete(""),
    spawn("", "", 1),
    spawn_finalize("", ""),
    count_down(1),
    begin_finalize(1),
    complete_children(1, None),
    fail_children("", 1),
    complete_finalize(""),
    fail_finalize(""),
    wake(""),
    wake_failed(""),
    oversleep(""),
    retry("", 0),
    fail(""),
    time_out(""),
    cancel_self(""),
    cancel(""),
    release(started=True),
    release(started=False),
    recover(ORDINARY_LANE),
    give_up(""),
)
"""One of each move, for the drawing in the docs and for tests of the machine."""
