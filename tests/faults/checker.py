"""Judges one run: `check` returns every broken promise as a sentence.

It trusts none of the library's own ideas of what happened. What attempts did comes from the history that the processes
wrote (`history.py`), what happened to rows from triggers (`audit.py`), and both are held against the rows at the end.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from attrs import field, frozen

from tests.faults.audit import LeaseChange, Move, Row
from tests.faults.history import End, History, Start
from tests.faults.workload import EXPECTED, MAX_FAILURES, RETRIED, UNSIGNED

__all__ = ["Account", "check"]

FINISHED = frozenset({"completed", "failed", "timed_out", "children_failed", "finalize_failed", "cancelled"})
CLOCK_ERROR = 50_000
"""Microseconds by which two readings of a database's time may be out of order."""
_UID = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T")


@frozen(kw_only=True)
class Account:
    """All that is known of a run."""

    enqueued: Collection[str]
    history: History
    moves: Sequence[Move]
    lease_changes: Sequence[LeaseChange]
    rows: Sequence[Row]
    cancelled: Collection[str] = ()
    """Roots whose cancel was acknowledged."""
    may_be_cancelled: Collection[str] = ()
    """Roots that somebody tried to cancel."""
    expected: Mapping[str, Collection[str]] = field(factory=lambda: EXPECTED)
    """How a root of each task may end."""
    clock_offset: float = 0.0
    """What to add to the monotonic clock, in microseconds, for the database's time."""

    def database_time(self, monotonic: float) -> float:
        """Microseconds, of seconds by the processes' clock."""
        return monotonic * 1e6 + self.clock_offset

    def taken_at(self) -> dict[tuple[str, int], int]:
        """When an execution was taken from the owner of a claim: by its id and claim token."""
        return {(move.execution_id, move.old_token): move.at for move in self.moves if move.recovers}


def check(account: Account) -> list[str]:
    """Every broken promise as a sentence; none, if all were kept."""
    rules: Sequence[Callable[[_Run], Iterable[str]]] = (
        _lost,
        _one_outcome,
        _tokens,
        _owner_of_the_outcome,
        _owner_of_the_error,
        _starts,
        _leases,
        _retries,
        _endings,
        _families,
        _descendants,
        _cancels,
    )
    run = _Run(account)
    return [problem for rule in rules for problem in rule(run)]


class _Run:
    """The account, sorted."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.rows = {row.id: row for row in account.rows}
        self.starts: Mapping[str, list[Start]] = _grouped(account.history.starts, lambda start: start.execution_id)
        self.ends: Mapping[str, End] = {end.uid: end for end in account.history.ends}
        self.errors: Mapping[str, list[End]] = _grouped(
            [end for end in account.history.ends if end.error is not None], lambda end: end.execution_id
        )
        self.moves: Mapping[str, list[Move]] = _grouped(account.moves, lambda move: move.execution_id)
        self.children: Mapping[str, list[Row]] = _grouped(
            [row for row in account.rows if row.parent_id is not None], lambda row: str(row.parent_id)
        )


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> defaultdict[str, list[T]]:
    grouped: defaultdict[str, list[T]] = defaultdict(list)
    for item in items:
        grouped[key(item)].append(item)
    return grouped


def _lost(run: _Run) -> Iterator[str]:
    for name in run.account.enqueued:
        if name not in run.rows:
            yield f"{name}: lost: it was enqueued, and there is no row of it"
    counts = Counter(row.id for row in run.account.rows)
    for row in run.account.rows:
        if row.status not in FINISHED:
            yield f"{row.id} ({row.task_id}): lost: it has not finished, but is {row.status}"
        if counts[row.id] > 1:
            yield f"{row.id}: has {counts[row.id]} rows"
        if row.parent_id is None and row.id not in run.account.enqueued:
            yield f"{row.id} ({row.task_id}): was never enqueued"


def _one_outcome(run: _Run) -> Iterator[str]:
    for name, moves in run.moves.items():
        outcomes = sum(move.new_status in FINISHED and move.old_status not in FINISHED for move in moves)
        if name in run.rows and outcomes != 1:
            yield f"{name}: {outcomes} outcomes were recorded, not one"
        for move in moves:
            if move.old_status in FINISHED:
                yield f"{name}: left or rewrote the finished status {move.old_status} (for {move.new_status})"


def _tokens(run: _Run) -> Iterator[str]:
    for name, moves in run.moves.items():
        highest = 0
        for move in moves:
            if move.old_token != highest:
                yield f"{name}: claim token {move.old_token} after {highest}: tokens went back, or an update is missing"
            claims = move.new_status == "running"
            if claims and move.old_status not in {"absent", "ready"}:
                yield f"{name}: was claimed while it was {move.old_status}"
            if claims and move.new_token <= highest:
                yield f"{name}: was claimed under token {move.new_token}, and {highest} had been used"
            if not claims and move.new_token != move.old_token:
                yield f"{name}: token {move.old_token} became {move.new_token} without a claim"
            highest = max(highest, move.new_token)
    for name, starts in run.starts.items():
        tokens = Counter(start.token for start in starts)
        for token, times in tokens.items():
            if times > 1:
                yield f"{name}: claim {token} was started {times} times"


def _owner_of_the_outcome(run: _Run) -> Iterator[str]:
    """What is recorded is what the attempt of the row's last claim returned, and it had returned it."""
    for row in run.rows.values():
        found = _UID.search(row.run_output or "")
        if found is None:
            if row.status == "completed" and row.task_id not in UNSIGNED:
                yield f"{row.id} ({row.task_id}): completed with {row.run_output!r}, which no attempt has signed"
            continue
        by = [start for start in run.starts[row.id] if start.uid == found.group()]
        if not by:
            yield f"{row.id} ({row.task_id}): the recorded outcome is that of no attempt"
            continue
        if by[0].token != row.claim_token:
            yield (
                f"{row.id} ({row.task_id}): the outcome of claim {by[0].token} was recorded, and the last claim is "
                f"{row.claim_token}: it was stale"
            )
        end = run.ends.get(found.group())
        if end is None or end.error is not None:
            yield f"{row.id} ({row.task_id}): the outcome of an attempt was recorded that never returned it"


def _owner_of_the_error(run: _Run) -> Iterator[str]:
    """What is recorded as failed is what the attempt of the row's last claim raised."""
    for row in run.rows.values():
        if row.status == "failed" and not any(end.token == row.claim_token for end in run.errors[row.id]):
            yield f"{row.id} ({row.task_id}): failed, and claim {row.claim_token}, its last, raised nothing"


def _starts(run: _Run) -> Iterator[str]:
    """Who starts has the claim: it was made before, and nobody has taken the execution from him or claimed it since."""
    taken_at = run.account.taken_at()
    for name, starts in run.starts.items():
        claims = {move.new_token: move.at for move in run.moves[name] if move.new_token != move.old_token}
        for start in starts:
            at = run.account.database_time(start.at)
            if claims.get(start.token, at + 2 * CLOCK_ERROR) > at + CLOCK_ERROR:
                yield f"{name}: was started under claim {start.token} before that was made"
            later = [claimed_at for token, claimed_at in claims.items() if token > start.token]
            ended_at = min([*later, taken_at.get((name, start.token), at)])
            if ended_at < at - CLOCK_ERROR:
                late = (at - ended_at) / 1e6
                yield f"{name}: was started under claim {start.token} {late:.3f} s after it was another's"


def _leases(run: _Run) -> Iterator[str]:
    """Nothing is taken from an owner whose lease has not ended; the dead stay dead."""
    resigned = {resignation.owner for resignation in run.account.history.resignations}
    for change in run.account.lease_changes:
        if change.old_dead is not None and change.new_dead is None:
            yield f"executor {change.owner}: was dead, and came to life again"
        if change.old_dead is not None and change.new_lease != change.old_lease:
            yield f"executor {change.owner}: its lease was renewed after it was marked dead"
        dies = change.old_dead is None and change.new_dead is not None
        if dies and change.owner not in resigned and change.old_lease > change.at + CLOCK_ERROR:
            early = (change.old_lease - change.at) / 1e6
            yield f"executor {change.owner}: was marked dead {early:.3f} s before its lease ended"
    for move in run.account.moves:
        if move.recovers and move.owner_lease is not None and move.owner_dead is None:
            yield f"{move.execution_id}: was taken from executor {move.old_owner}, which was alive"


def _retries(run: _Run) -> Iterator[str]:
    for row in run.rows.values():
        most = MAX_FAILURES if row.task_id in RETRIED else 1
        if row.failures > most:
            yield f"{row.id} ({row.task_id}): failed {row.failures} times, and its policy ends at {most}"
        if row.status == "failed" and row.failures < most:
            yield f"{row.id} ({row.task_id}): was given up after {row.failures} failures, and its policy ends at {most}"
        raised = len(run.errors[row.id])
        if row.task_id in RETRIED and row.failures > raised:
            yield f"{row.id} ({row.task_id}): counts {row.failures} failures, and {raised} attempts raised an error"
        started = len(run.starts[row.id])
        if started > row.starts:
            yield f"{row.id} ({row.task_id}): counts {row.starts} starts, and {started} attempts were started"
        lost = sum(move.old_status == "running" and move.new_status == "ready" for move in run.moves[row.id])
        if row.starts > 1 + lost:
            yield f"{row.id} ({row.task_id}): {row.starts} starts, and it became ready again only {lost} times"


def _endings(run: _Run) -> Iterator[str]:
    for row in run.rows.values():
        if row.parent_id is not None or row.status not in FINISHED:
            continue
        wanted = set(run.account.expected.get(row.task_id, FINISHED))
        if row.id in run.account.may_be_cancelled:
            wanted.add("cancelled")
        if row.status not in wanted:
            yield f"{row.id} ({row.task_id}): ended as {row.status}, not as {' or '.join(sorted(wanted))}"


def _families(run: _Run) -> Iterator[str]:
    for row in run.rows.values():
        if row.plan is None:
            if run.children[row.id]:
                yield f"{row.id} ({row.task_id}): has children and no plan"
            continue
        plan: dict[str, Any] = json.loads(row.plan)
        children = [child for child in run.children[row.id] if child.child_index is not None]
        finalizes = [child for child in run.children[row.id] if child.child_index is None]
        places = sorted(child.child_index for child in children if child.child_index is not None)
        if places != list(range(len(places))):
            yield f"{row.id} ({row.task_id}): its children's places are {places}"
        if [child.id for child in finalizes] != [name for name in [plan.get("finalize")] if name is not None]:
            yield f"{row.id} ({row.task_id}): has {len(finalizes)} finalizes; its plan names {plan.get('finalize')}"
        for problem in _ends_of_family(row, plan, children, finalizes):
            yield f"{row.id} ({row.task_id}): {problem}"


def _ends_of_family(
    row: Row, plan: Mapping[str, Any], children: Sequence[Row], finalizes: Sequence[Row]
) -> Iterator[str]:
    failed = [child for child in children if child.status != "completed"]
    if row.status == "completed":
        yield from _completed_too_soon(row, plan, failed, [*children, *finalizes])
    if row.status == "children_failed" and not failed:
        yield "children_failed, and every child completed"
    if row.status == "finalize_failed" and all(finalize.status == "completed" for finalize in finalizes):
        yield "finalize_failed, and its finalize completed"
    for finalize in finalizes:
        for child in children:
            if finalize.started_at is not None and _after(child.finished_at, finalize.started_at):
                yield f"its finalize was started before its child {child.id} had finished"
    if plan["kind"] != "children":
        yield from _out_of_turn(sorted(children, key=lambda child: child.child_index or 0))


def _completed_too_soon(
    row: Row, plan: Mapping[str, Any], failed: Sequence[Row], below: Sequence[Row]
) -> Iterator[str]:
    if row.unfinished_children != 0:
        yield f"completed with a count of {row.unfinished_children} unfinished children"
    if failed and (plan["fail_fast"] or plan["kind"] != "children"):
        yield f"completed, though a child of it is {failed[0].status}"
    for child in below:
        if _after(child.finished_at, row.finished_at):
            yield f"completed before its child {child.id} had finished"
        if child.child_index is None and child.status != "completed":
            yield f"completed, though its finalize is {child.status}"


def _out_of_turn(children: Sequence[Row]) -> Iterator[str]:
    for before, after in pairwise(children):
        early = before.finished_at is None or _after(before.finished_at, after.started_at)
        if after.started_at is not None and early:
            yield f"child {after.child_index} was started before child {before.child_index} had finished"


def _after(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one > other + CLOCK_ERROR


def _descendants(run: _Run) -> Iterator[str]:
    for row in run.rows.values():
        parent = None if row.parent_id is None else run.rows.get(row.parent_id)
        if row.parent_id is not None and parent is None:
            yield f"{row.id} ({row.task_id}): its parent {row.parent_id} has no row"
        if parent is not None and parent.status in FINISHED and row.status not in FINISHED:
            yield f"{row.id} ({row.task_id}): is {row.status} below {parent.id}, which is {parent.status}"


def _cancels(run: _Run) -> Iterator[str]:
    for name in run.account.cancelled:
        row = run.rows.get(name)
        if row is not None and row.status != "cancelled":
            yield f"{name} ({row.task_id}): its cancel was acknowledged, and it is {row.status}"
