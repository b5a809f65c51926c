"""Judges trees by their rows: `problems` returns every broken promise as a sentence.

What it asks holds after every commit, so it may be asked while work goes on: `members` reads all rows at one moment.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import fields_dict, frozen
from sqlalchemy import text
from sqlalchemy.engine import Engine

FINISHED = {"completed", "failed", "timed_out", "children_failed", "finalize_failed", "cancelled"}
WAITING = {"waiting_for_children", "waiting_for_finalize"}


@frozen(kw_only=True)
class Member:
    """One row."""

    id: str
    task_id: str
    root_id: str | None = None
    parent_id: str | None = None
    child_index: int | None = None
    status: str
    plan: str | None = None
    unfinished_children: int = 0
    lane: int | None = None
    timer_at: int | None = None
    finished_at: int | None = None
    active_key: str | None = None
    output_from: str | None = None
    starts: int = 0
    error: str | None = None

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def is_parked(self) -> bool:
        """Ready, and yet nobody would ever claim it: it waits for its turn."""
        return self.status == "ready" and self.lane is None and self.timer_at is None

    @property
    def kind(self) -> str | None:
        """How its children follow each other; None if it has not spawned."""
        return None if self.plan is None else str(json.loads(self.plan)["kind"])

    @property
    def promises_finalize(self) -> bool:
        return self.plan is not None and json.loads(self.plan)["finalize"] is not None

    def __str__(self) -> str:
        return f"{self.task_id}[{self.id[-6:]}] {self.status}"


def members(engine: Engine) -> list[Member]:
    """All rows, as one statement sees them."""
    names = list(fields_dict(Member))
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT {', '.join(names)} FROM durable_executions ORDER BY id"))
        return [Member(**dict(zip(names, row, strict=True))) for row in found]


def problems(rows: Iterable[Member]) -> list[str]:
    """Every broken promise."""
    by_id = {row.id: row for row in rows}
    born: dict[str, list[Member]] = defaultdict(list)
    for row in by_id.values():
        if row.parent_id is not None:
            born[row.parent_id].append(row)
    found: list[str] = []
    for row in by_id.values():
        children = sorted((c for c in born[row.id] if c.child_index is not None), key=lambda c: c.child_index or 0)
        finalizes = [child for child in born[row.id] if child.child_index is None]
        found += [
            f"{row}: {problem}"
            for problem in (
                *_of_the_row(row),
                *_of_its_place(row, by_id),
                *_of_its_birth(row, children, finalizes),
                *_while_it_waits(row, children, finalizes),
                *_once_it_has_finished(row, children, finalizes),
            )
        ]
    return found


def _of_the_row(row: Member) -> Iterator[str]:
    if row.is_finished != (row.finished_at is not None):
        yield "its status and finished_at differ"
    if row.is_finished and (row.active_key is not None or row.lane is not None or row.timer_at is not None):
        yield "has finished, and still has its key, a lane or a timer"
    if row.status in WAITING and row.plan is None:
        yield "waits without a plan"


def _of_its_place(row: Member, by_id: Mapping[str, Member]) -> Iterator[str]:
    if row.parent_id is None:
        if row.is_parked:
            yield "is a root that waits for a turn"
        return
    parent = by_id.get(row.parent_id)
    if parent is None:
        yield "its parent is not there"
        return
    if row.root_id != (parent.root_id or parent.id):
        yield "has another root than its parent"
    if not row.is_finished and (parent.is_finished or parent.status not in WAITING):
        yield f"is active below {parent}"
    may_park = row.child_index is None or (parent.kind == "sequence" and row.child_index > 0)
    if row.is_parked and not may_park:
        yield "can never be claimed"


def _of_its_birth(row: Member, children: Sequence[Member], finalizes: Sequence[Member]) -> Iterator[str]:
    if row.plan is None and (children or finalizes):
        yield "has children and has not spawned"
    if [child.child_index for child in children] != list(range(len(children))):
        yield f"its children have the places {[child.child_index for child in children]}"
    if row.plan is not None and len(finalizes) != row.promises_finalize:
        yield f"has {len(finalizes)} finalizes"


def _while_it_waits(row: Member, children: Sequence[Member], finalizes: Sequence[Member]) -> Iterator[str]:
    unfinished = [child for child in children if not child.is_finished]
    if row.status == "waiting_for_children":
        if row.unfinished_children != len(unfinished):
            yield f"counts {row.unfinished_children} unfinished children, and has {len(unfinished)}"
        if not unfinished:
            yield "waits for nobody"
        if any(not finalize.is_parked for finalize in finalizes):
            yield "its finalize has begun before its turn"
        if row.kind in {"sequence", "loop"}:
            yield from _of_their_order(row, children)
    if row.status == "waiting_for_finalize":
        if unfinished:
            yield f"{len(unfinished)} of its children are active"
        if any(finalize.is_finished for finalize in finalizes):
            yield "its finalize has finished"
        if any(finalize.is_parked for finalize in finalizes):
            yield "its finalize never gets its turn"


def _of_their_order(row: Member, children: Sequence[Member]) -> Iterator[str]:
    ended = [child for child in children if child.is_finished]
    if list(children[: len(ended)]) != ended or any(child.status != "completed" for child in ended):
        yield f"its {row.kind} went on past one that has not completed"
        return
    turn, *later = children[len(ended) :] or [None]
    if turn is not None and turn.is_parked:
        yield f"the next of its {row.kind} never gets its turn"
    if any(child is not None and not child.is_parked for child in later):
        yield f"more than one of its {row.kind} has begun"


def _once_it_has_finished(row: Member, children: Sequence[Member], finalizes: Sequence[Member]) -> Iterator[str]:
    if row.status != "completed" or row.plan is None:
        return
    if row.unfinished_children and row.kind != "loop":
        yield f"has completed, and counts {row.unfinished_children} unfinished children"
    if any(child.status != "completed" for child in finalizes):
        yield "has completed, and its finalize has not"
    tolerates = not json.loads(row.plan)["fail_fast"]
    if any(child.status != "completed" for child in children) and not tolerates:
        yield "has completed, and one of its children has not"
    if row.kind == "sequence" and row.output_from is None:
        yield "has completed, and nobody knows with what"
