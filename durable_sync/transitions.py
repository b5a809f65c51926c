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
    "cancel",
    "cancel_self",
    "claim",
    "complete",
    "due",
    "fail",
    "give_up",
    "lane_of",
    "recover",
    "release",
    "retry",
    "time_out",
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
        forms = tuple(
            (column, None if value is None else type(value) if _is_form(value) else "parameter")
            for column, value in self.values.items()
        )
        return (self.name, self.target, forms)


def _is_form(value: Value) -> bool:
    return isinstance(value, Now | Plus | FirstTime | Lane)


_READY = frozenset({ExecutionStatus.READY})
_RUNNING = frozenset({ExecutionStatus.RUNNING})

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


def complete(run_output: str) -> Transition:
    """running -> completed, with the function's output as JSON text."""
    return Transition(
        "complete", _RUNNING, ExecutionStatus.COMPLETED, {**_FINISHES, "run_output": run_output, "error": None}
    )


def retry(error: str, delay: int) -> Transition:
    """running -> ready: the attempt failed, and the retry policy wants another after `delay` microseconds."""
    waits: Mapping[str, Value] = (
        {"lane": None, "timer_at": Now(delay)} if delay > 0 else {"lane": LANE, "timer_at": None}
    )
    return Transition(
        "retry",
        _RUNNING,
        ExecutionStatus.READY,
        {
            **waits,
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
    complete(""),
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
