"""Judges what happened in a storm of crashes: `check` returns every broken promise as a sentence.

It is given four accounts, none of which comes from the library's own idea of what happened:

- `starts` and `ends`: lines that the task itself appends to a file, with monotonic times;
- `moves`: what a trigger in the database wrote at every change of an execution's status or claim token,
  without a unique key, so that duplicates show;
- `finals`: the rows at the end;
- `crashes`: when the test killed which process.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

FINISHED = {"completed", "failed", "timed_out", "children_failed", "finalize_failed", "cancelled"}


@frozen
class Start:
    """An attempt began. `uid` is its own; `attempt` is how often the execution had been started before."""

    execution_id: str
    uid: str
    attempt: int
    process: str
    at: float


@frozen
class End:
    """The function of an attempt came to its end."""

    execution_id: str
    uid: str
    at: float


@frozen
class Move:
    """One UPDATE of an execution, in the order in which they were committed for that execution."""

    execution_id: str
    old_status: str
    new_status: str
    old_token: int
    new_token: int
    output: str | None


@frozen
class Final:
    """A row at the end; `output` is the uid that its outcome carries."""

    execution_id: str
    status: str
    output: str | None


@frozen
class Crash:
    """A process was dead by `at`."""

    process: str
    at: float


@frozen(kw_only=True)
class Account:
    """All that is known of a storm."""

    enqueued: Collection[str]
    starts: Sequence[Start]
    ends: Sequence[End]
    moves: Sequence[Move]
    finals: Sequence[Final]
    crashes: Sequence[Crash] = ()
    recovery_limit: float = float("inf")
    """Seconds from a crash until all that ran in it has been started again."""


@frozen
class Verdict:
    """What the checker found."""

    problems: list[str] = field(factory=list)
    recoveries: list[float] = field(factory=list)
    """Seconds from each crash to the new start of each attempt that it ended."""


def check(account: Account) -> Verdict:
    """Every broken promise as a sentence."""
    starts = _by_execution(account.starts)
    moves = _by_execution(account.moves)
    finals = _by_execution(account.finals)
    ended = {end.uid for end in account.ends}
    verdict = Verdict()
    for execution_id in sorted(set(finals) - set(account.enqueued)):
        verdict.problems.append(f"{execution_id}: was never enqueued")
    for execution_id in account.enqueued:
        found = [
            *_lost(finals.get(execution_id, [])),
            *_written_after_the_end(moves.get(execution_id, [])),
            *_token_reused(moves.get(execution_id, [])),
            *_stale(starts.get(execution_id, []), ended, finals.get(execution_id, [])),
            *_not_what_was_recorded(moves.get(execution_id, []), finals.get(execution_id, [])),
        ]
        verdict.problems.extend(f"{execution_id}: {problem}" for problem in found)
    _check_recoveries(account, starts, {final.output for final in account.finals}, verdict)
    return verdict


def _by_execution(entries: Iterable[object]) -> Mapping[str, list]:
    grouped = defaultdict(list)
    for entry in entries:
        grouped[entry.execution_id].append(entry)
    return grouped


def _lost(finals: Sequence[Final]) -> Iterable[str]:
    if not finals:
        yield "lost: there is no row of it"
    for final in finals:
        if final.status != "completed":
            yield f"ended as {final.status}, not completed"
    if len(finals) > 1:
        yield "has more than one row"


def _written_after_the_end(moves: Sequence[Move]) -> Iterable[str]:
    outcomes = [move for move in moves if move.new_status in FINISHED]
    if len(outcomes) != 1:
        yield f"{len(outcomes)} outcomes were recorded, not one"
    for move in moves:
        if move.old_status in FINISHED:
            yield f"left or rewrote the finished status {move.old_status} (for {move.new_status})"


def _token_reused(moves: Sequence[Move]) -> Iterable[str]:
    highest = 0
    for move in moves:
        if move.old_token != highest:
            yield f"claim token {move.old_token} after {highest}: an update is missing, or tokens went back"
        if move.new_status == "running":
            if move.old_status != "ready":
                yield f"was claimed while it was {move.old_status}"
            if move.new_token <= highest:
                yield f"was claimed under token {move.new_token}, and {highest} had been used"
        elif move.new_token != move.old_token:
            yield f"token {move.old_token} became {move.new_token} without a claim"
        highest = max(highest, move.new_token)


def _stale(starts: Sequence[Start], ended: Collection[str], finals: Sequence[Final]) -> Iterable[str]:
    numbers = [start.attempt for start in starts]
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield f"attempt {number} was started more than once"
    by_uid = {start.uid: start for start in starts}
    for final in finals:
        accepted = by_uid.get(final.output or "")
        if accepted is None:
            yield f"the recorded outcome {final.output!r} is that of no attempt"
            continue
        if accepted.uid not in ended:
            yield f"the outcome of attempt {accepted.attempt} was recorded, which never ended"
        later = [start for start in starts if start.attempt > accepted.attempt]
        if later:
            # A later claim makes every earlier one void, and a finished execution can't be claimed.
            yield (
                f"the outcome of attempt {accepted.attempt} was recorded, though attempt "
                f"{max(start.attempt for start in later)} was started: one of the two was stale"
            )


def _not_what_was_recorded(moves: Sequence[Move], finals: Sequence[Final]) -> Iterable[str]:
    recorded = [move.output for move in moves if move.new_status in FINISHED]
    for final in finals:
        if recorded and final.output != recorded[0]:
            yield f"the outcome is {final.output!r}, and what was recorded first is {recorded[0]!r}"


def _check_recoveries(
    account: Account, starts: Mapping[str, list[Start]], accepted: Collection[str | None], verdict: Verdict
) -> None:
    for crash in account.crashes:
        for execution_id, attempts in starts.items():
            before = [start for start in attempts if start.at <= crash.at]
            last = max(before, key=lambda start: start.attempt, default=None)
            if last is None or last.process != crash.process or last.uid in accepted:
                continue
            after = [start for start in attempts if start.attempt > last.attempt]
            if not after:
                verdict.problems.append(f"{execution_id}: was not started again after {crash.process} crashed")
                continue
            following = min(after, key=lambda start: start.at)
            took = following.at - crash.at
            # A number that is missing is a claim whose process died before it started it: one more recovery.
            recoveries = following.attempt - last.attempt
            if recoveries == 1:
                verdict.recoveries.append(took)
            if took > account.recovery_limit * recoveries:
                verdict.problems.append(
                    f"{execution_id}: was started again {took:.2f} s after {crash.process} crashed (after "
                    f"{recoveries} crashes), later than {account.recovery_limit:g} s each"
                )


def read_history(path: Path) -> tuple[list[Start], list[End]]:
    """The lines that tasks wrote; a torn line raises, for each is one write."""
    starts: list[Start] = []
    ends: list[End] = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        event = entry.pop("event")
        if event == "start":
            starts.append(Start(**entry))
        else:
            ends.append(End(**entry))
    return starts, ends
