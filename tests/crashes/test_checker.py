"""The checker of the storms must reject every kind of bad history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tests.crashes.checker import Account, Crash, End, Final, Move, Start, check, read_history


def move(old: str, new: str, old_token: int, new_token: int, output: str | None = None) -> Move:
    return Move("e", old, new, old_token, new_token, output)


CLAIMED = move("ready", "running", 0, 1)
COMPLETED = move("running", "completed", 1, 1, "a")

GOOD = Account(
    enqueued=["e"],
    starts=[Start("e", "a", 0, "p", 1.0)],
    ends=[End("e", "a", 2.0)],
    moves=[CLAIMED, COMPLETED],
    finals=[Final("e", "completed", "a")],
)
"""One attempt, which completes."""

RECOVERED = Account(
    enqueued=["e"],
    starts=[Start("e", "a", 0, "p", 1.0), Start("e", "b", 1, "q", 4.0)],
    ends=[End("e", "b", 5.0)],
    moves=[
        CLAIMED,
        move("running", "ready", 1, 1),
        move("ready", "running", 1, 2),
        move("running", "completed", 2, 2, "b"),
    ],
    finals=[Final("e", "completed", "b")],
    crashes=[Crash("p", 2.0)],
    recovery_limit=2.5,
)
"""Process p dies at 2, and q starts again what ran there at 4."""


@pytest.mark.parametrize("account", [GOOD, RECOVERED])
def test_a_good_history_passes(account: Account) -> None:
    """Nothing is wrong with an execution that completed once, nor with one that was recovered in time."""
    assert check(account).problems == []


def test_the_time_of_a_recovery_is_measured() -> None:
    """What a crash ended is known, and how long it took until it was started again."""
    assert check(RECOVERED).recoveries == [2.0]


@pytest.mark.parametrize(
    ("account", "changes", "problem"),
    [
        (GOOD, {"finals": []}, "lost"),
        (GOOD, {"finals": [Final("e", "running", None)]}, "ended as running"),
        (GOOD, {"finals": [Final("e", "failed", "a")]}, "ended as failed"),
        (GOOD, {"finals": [Final("e", "completed", "a")] * 2}, "more than one row"),
        (GOOD, {"enqueued": []}, "never enqueued"),
        (GOOD, {"moves": [CLAIMED, COMPLETED, COMPLETED]}, "2 outcomes were recorded"),
        (GOOD, {"moves": [CLAIMED]}, "0 outcomes were recorded"),
        (GOOD, {"moves": [CLAIMED, COMPLETED, move("completed", "completed", 1, 1, "b")]}, "rewrote the finished"),
        (GOOD, {"moves": [CLAIMED, COMPLETED, move("completed", "ready", 1, 1)]}, "left or rewrote"),
        (GOOD, {"moves": [CLAIMED, move("running", "running", 1, 2), COMPLETED]}, "claimed while it was running"),
        (GOOD, {"moves": [move("ready", "running", 0, 0), COMPLETED]}, "claimed under token 0"),
        (GOOD, {"moves": [CLAIMED, move("running", "completed", 1, 2, "a")]}, "without a claim"),
        (GOOD, {"moves": [CLAIMED, evolve(COMPLETED, output="b")]}, "what was recorded first is 'b'"),
        (GOOD, {"starts": []}, "that of no attempt"),
        (GOOD, {"ends": []}, "never ended"),
        (GOOD, {"starts": [*GOOD.starts, Start("e", "b", 0, "q", 1.5)]}, "attempt 0 was started more than once"),
        (
            RECOVERED,
            {"moves": [*RECOVERED.moves[:2], move("ready", "running", 0, 1), *RECOVERED.moves[3:]]},
            "claim token 0 after 1",
        ),
        (
            RECOVERED,
            {
                "ends": [End("e", "a", 3.0), *RECOVERED.ends],
                "finals": [Final("e", "completed", "a")],
                "moves": [*RECOVERED.moves[:3], move("running", "completed", 2, 2, "a")],
            },
            "one of the two was stale",
        ),
        (RECOVERED, {"recovery_limit": 1.9}, "started again 2.00 s after p crashed"),
        (
            GOOD,
            {"finals": [Final("e", "running", None)], "crashes": [Crash("p", 3.0)]},
            "not started again after p crashed",
        ),
    ],
)
def test_a_bad_history_is_rejected(account: Account, changes: dict[str, Any], problem: str) -> None:
    """Each way to break a promise is named."""
    assert problem in " / ".join(check(evolve(account, **changes)).problems)


def test_a_crash_between_claim_and_start_grants_one_more_recovery() -> None:
    """A missing attempt number is a second crash, which has a limit of its own and no more."""
    twice = evolve(RECOVERED, starts=[Start("e", "a", 0, "p", 1.0), Start("e", "b", 2, "q", 6.0)])
    assert check(twice).problems == []
    assert "later than" in check(evolve(twice, recovery_limit=1.9)).problems[0]


def test_what_had_been_recorded_needs_no_recovery() -> None:
    """A crash after the outcome was recorded loses nothing."""
    assert check(evolve(GOOD, crashes=[Crash("p", 3.0)], recovery_limit=0.0)).problems == []


def test_a_torn_line_is_not_overlooked(tmp_path: Path) -> None:
    """A history that is not whole is no evidence."""
    path = tmp_path / "history"
    path.write_text('{"event": "start", "execution_id"')
    with pytest.raises(ValueError, match="Expecting"):
        read_history(path)
