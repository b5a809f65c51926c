"""Which moves an execution of each kind of task can make: parts of the code's own table, for the drawings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from durable_sync import kinds
from durable_sync.execution import ExecutionStatus
from durable_sync.transitions import ALL_MOVES, Transition

# A move that is in none of these belongs to every kind that is claimed.
CHILDREN = {"spawn", "count_down", "complete_children", "fail_children"}
"""Of those that have children."""
FINALIZE = {"spawn_finalize", "begin_finalize", "complete_finalize", "fail_finalize"}
"""Of those that may have a finalize."""
FUNCTION = {"retry", "time_out", "cancel_self"}
"""Of those that run a function of the user's, which can raise and take too long."""
RETURN = {"complete"}
"""Of those whose own attempt may be all that they need."""
SLEEP = {"wake", "wake_failed", "oversleep"}
"""Of those that nobody claims."""


class Edge(NamedTuple):
    """All moves from one status to another: one arrow."""

    source: ExecutionStatus
    target: ExecutionStatus
    moves: tuple[Transition, ...]


class Machine(NamedTuple):
    """The statuses and moves of a kind of task, or of all."""

    title: str
    moves: tuple[Transition, ...]
    entries: tuple[ExecutionStatus, ...]
    """Where `enqueue` puts an execution."""

    def reachable(self) -> set[ExecutionStatus]:
        """The statuses that such an execution can come to."""
        found = set(self.entries)
        while more := {move.target for move in self.moves if move.sources & found} - found:
            found |= more
        return found

    def edges(self) -> list[Edge]:
        """The arrows, in the table's order."""
        grouped: dict[tuple[ExecutionStatus, ExecutionStatus], list[Transition]] = {}
        drawn = self.reachable()
        for move in self.moves:
            for source in sorted(move.sources & drawn):
                grouped.setdefault((source, move.target), []).append(move)
        return [Edge(source, target, tuple(moves)) for (source, target), moves in grouped.items()]


def _without(*groups: set[str]) -> tuple[Transition, ...]:
    absent = set().union(*groups)
    return tuple(move for move in ALL_MOVES if move.name not in absent)


def _only(*names: str) -> tuple[Transition, ...]:
    return tuple(move for move in ALL_MOVES if move.name in names)


READY, SLEEPING = ExecutionStatus.READY, ExecutionStatus.SLEEPING

WHOLE = Machine("The statuses of an execution and the moves between them", ALL_MOVES, (READY, SLEEPING))

KINDS: Mapping[type[kinds.Kind], tuple[str, Machine]] = {
    kinds.Plain: ("plain", Machine("The states of a plain task", _without(CHILDREN, FINALIZE, SLEEP), (READY,))),
    kinds.Parent: ("parents", Machine("The states of a parent task", _without(SLEEP), (READY,))),
    kinds.Sequence: (
        "sequences",
        Machine("The states of a sequence", _without(FINALIZE, SLEEP, FUNCTION, RETURN), (READY,)),
    ),
    kinds.Loop: ("loops", Machine("The states of a loop", _without(FINALIZE, SLEEP, FUNCTION, RETURN), (READY,))),
    kinds.Sleeper: ("sleeping", Machine("The states of a sleeping task", _only(*SLEEP, "cancel"), (SLEEPING,))),
}
"""By kind: the name of its page, and its machine."""
