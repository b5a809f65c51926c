"""The checker of the laboratory names every kind of broken promise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve

from tests.faults.audit import LeaseChange, Move, Row
from tests.faults.checker import Account, check
from tests.faults.history import End, History, Resignation, Start

UID, OTHER = "a" * 32, "b" * 32
SECOND = 1_000_000
"""In the microseconds of a database's time, which in these accounts is the monotonic clock's."""

Changes = dict[str, Any]


def move(old: str, new: str, old_token: int, new_token: int, at: float, **more: Any) -> Move:
    details = {"recovers": 0, "run_output": None, "old_owner": None, "owner_lease": None, "owner_dead": None, **more}
    return Move("e", old, new, old_token, new_token, at=round(at * SECOND), **details)


def start(token: int, uid: str, at: float) -> Start:
    return Start("e", token, "plain", token, uid, "p", at)


def row(**changes: Any) -> Row:
    plain = Row(
        id="e",
        task_id="plain",
        root_id=None,
        parent_id=None,
        child_index=None,
        status="completed",
        claim_token=1,
        starts=1,
        failures=0,
        recoveries=0,
        unfinished_children=0,
        plan=None,
        run_output=f'"{UID}"',
        created_at=0,
        started_at=1 * SECOND,
        finished_at=2 * SECOND,
    )
    return evolve(plain, **changes)


def history(starts: list[Start], ends: list[End], resignations: tuple[Resignation, ...] = ()) -> History:
    return History(starts=starts, ends=ends, resignations=list(resignations))


STARTED, ENDED = start(1, UID, 1.1), End("e", 1, UID, None, 1.9)
CLAIMED = move("ready", "running", 0, 1, 1.0)
COMPLETED = move("running", "completed", 1, 1, 2.0, run_output=f'"{UID}"')
TAKEN = move("running", "ready", 1, 1, 4.0, recovers=1, old_owner="o", owner_lease=3 * SECOND, owner_dead=4 * SECOND)
RECLAIMED = move("ready", "running", 1, 2, 4.5)

GOOD = Account(
    enqueued=["e"],
    history=history([STARTED], [ENDED]),
    moves=[CLAIMED, COMPLETED],
    lease_changes=[],
    rows=[row()],
)
"""One attempt, which completes."""
RECOVERED = Account(
    enqueued=["e"],
    history=history([STARTED, start(2, OTHER, 4.6)], [End("e", 2, OTHER, None, 4.9)]),
    moves=[CLAIMED, TAKEN, RECLAIMED, move("running", "completed", 2, 2, 5.0, run_output=f'"{OTHER}"')],
    lease_changes=[LeaseChange("o", "p", None, 4 * SECOND, 3 * SECOND, 3 * SECOND, 4 * SECOND)],
    rows=[row(claim_token=2, starts=2, recoveries=1, run_output=f'"{OTHER}"', finished_at=5 * SECOND)],
)
"""Its process dies, and another one completes it."""


def failed(task: str, failures: int) -> Account:
    """So many attempts, each of which raised."""
    tokens = range(1, failures + 1)
    moves = []
    for token in tokens:
        last = "failed" if token == failures else "ready"
        moves += [move("ready", "running", token - 1, token, token), move("running", last, token, token, token + 0.5)]
    ended = row(
        task_id=task, status="failed", run_output=None, failures=failures, starts=failures, claim_token=failures
    )
    return Account(
        enqueued=["e"],
        history=history(
            [start(token, f"{token:032}", token + 0.1) for token in tokens],
            [End("e", token, f"{token:032}", "ValueError", token + 0.2) for token in tokens],
        ),
        moves=moves,
        lease_changes=[],
        rows=[ended],
        expected={},
    )


HOPELESS = failed("hopeless", 4)


def family(**of_parent: Any) -> Account:
    """A parent of two children, all of which have completed; without what attempts did."""
    plan = json.dumps({"kind": "children", "fail_fast": True, "finalize": None})
    parent = row(**{"id": "p", "task_id": "sequence", "plan": plan, "finished_at": 9 * SECOND, **of_parent})
    children = [
        row(
            id=name, task_id="sequence", root_id="p", parent_id="p", child_index=place, finished_at=(4 + place) * SECOND
        )
        for place, name in enumerate(("c", "d"))
    ]
    return Account(
        enqueued=["p"],
        history=history([], []),
        moves=[evolve(done, execution_id=name) for name in ("p", "c", "d") for done in (CLAIMED, COMPLETED)],
        lease_changes=[],
        rows=[evolve(one, run_output=None) for one in (parent, *children)],
    )


FAMILY = family()
FINALIZED = family(plan=json.dumps({"kind": "children", "fail_fast": True, "finalize": "d"}))
"""Its second child is its finalize."""
FINALIZED = evolve(
    FINALIZED, rows=[*FINALIZED.rows[:2], evolve(FINALIZED.rows[2], child_index=None, started_at=4 * SECOND)]
)
IN_TURN = family(plan=json.dumps({"kind": "steps", "fail_fast": True, "finalize": None}))
"""Its children follow one another."""


def with_row(account: Account, place: int = 0, **changes: Any) -> Changes:
    rows = list(account.rows)
    rows[place] = evolve(rows[place], **changes)
    return {"rows": rows}


@pytest.mark.parametrize("account", [GOOD, RECOVERED, HOPELESS, FAMILY, FINALIZED])
def test_a_good_run_passes(account: Account) -> None:
    """Nothing is wrong with what completed once, was recovered, failed as often as it may, or was a family."""
    assert check(account) == []


BROKEN: list[tuple[Account, Changes, str]] = [
    (GOOD, {"rows": []}, "there is no row of it"),
    (GOOD, with_row(GOOD, status="running"), "it has not finished, but is running"),
    (GOOD, {"rows": [*GOOD.rows, *GOOD.rows]}, "has 2 rows"),
    (GOOD, {"enqueued": []}, "was never enqueued"),
    (GOOD, {"moves": [CLAIMED]}, "0 outcomes were recorded"),
    (GOOD, {"moves": [CLAIMED, COMPLETED, COMPLETED]}, "2 outcomes were recorded"),
    (GOOD, {"moves": [CLAIMED, COMPLETED, move("completed", "completed", 1, 1, 3.0)]}, "left or rewrote the finished"),
    (GOOD, {"moves": [COMPLETED]}, "tokens went back, or an update is missing"),
    (
        RECOVERED,
        {"moves": [CLAIMED, move("running", "running", 1, 2, 4.5), RECOVERED.moves[3]]},
        "while it was running",
    ),
    (GOOD, {"moves": [move("ready", "running", 0, 0, 1.0), COMPLETED]}, "under token 0, and 0 had been used"),
    (GOOD, {"moves": [CLAIMED, move("running", "completed", 1, 2, 2.0)]}, "became 2 without a claim"),
    (GOOD, {"history": history([STARTED, start(1, OTHER, 1.2)], [ENDED])}, "claim 1 was started 2 times"),
    (GOOD, {"history": history([], [])}, "the recorded outcome is that of no attempt"),
    (RECOVERED, with_row(RECOVERED, run_output=f'"{UID}"'), "it was stale"),
    (GOOD, {"history": history([STARTED], [])}, "of an attempt was recorded that never returned it"),
    (GOOD, with_row(GOOD, run_output=None), "which no attempt has signed"),
    (GOOD, with_row(GOOD, run_output="null"), "which no attempt has signed"),
    (
        HOPELESS,
        {"history": history(HOPELESS.history.starts, HOPELESS.history.ends[:3])},
        "claim 4, its last, raised nothing",
    ),
    (GOOD, {"history": history([start(1, UID, 0.5)], [ENDED])}, "was started under claim 1 before that was made"),
    (
        RECOVERED,
        {"history": history([start(1, UID, 4.3), *RECOVERED.history.starts[1:]], RECOVERED.history.ends)},
        "was started under claim 1 0.300 s after it was another's",
    ),
    (
        RECOVERED,
        {
            "moves": [CLAIMED, move("running", "ready", 1, 1, 4.0), *RECOVERED.moves[2:]],
            "history": history([start(1, UID, 4.8), *RECOVERED.history.starts[1:]], RECOVERED.history.ends),
        },
        "was started under claim 1 0.300 s after it was another's",
    ),
    (
        RECOVERED,
        {"lease_changes": [LeaseChange("o", "p", None, 4 * SECOND, 5 * SECOND, 5 * SECOND, 4 * SECOND)]},
        "was marked dead 1.000 s before its lease ended",
    ),
    (GOOD, {"lease_changes": [LeaseChange("o", "p", 1, None, 2, 2, 3)]}, "came to life again"),
    (GOOD, {"lease_changes": [LeaseChange("o", "p", 1, 1, 2, 3, 3)]}, "renewed after it was marked dead"),
    (RECOVERED, {"moves": [CLAIMED, evolve(TAKEN, owner_dead=None), *RECOVERED.moves[2:]]}, "which was alive"),
    (HOPELESS, with_row(HOPELESS, failures=5), "failed 5 times, and its policy ends at 4"),
    (GOOD, with_row(GOOD, failures=2), "failed 2 times, and its policy ends at 1"),
    (failed("hopeless", 3), {}, "given up after 3 failures, and its policy ends at 4"),
    (HOPELESS, {"history": history(HOPELESS.history.starts, HOPELESS.history.ends[1:])}, "3 attempts raised an error"),
    (GOOD, with_row(GOOD, starts=2), "2 starts, and it became ready again only 0 times"),
    (RECOVERED, with_row(RECOVERED, starts=1), "counts 1 starts, and 2 attempts were started"),
    (GOOD, {"expected": {"plain": {"failed"}}}, "ended as completed, not as failed"),
    (GOOD, {"cancelled": ["e"]}, "its cancel was acknowledged, and it is completed"),
    (FAMILY, with_row(FAMILY, plan=None), "has children and no plan"),
    (FAMILY, with_row(FAMILY, 2, child_index=0), "its children's places are [0, 0]"),
    (FAMILY, with_row(FAMILY, unfinished_children=1), "completed with a count of 1"),
    (FAMILY, with_row(FAMILY, 1, status="failed"), "completed, though a child of it is failed"),
    (FAMILY, with_row(FAMILY, status="children_failed"), "children_failed, and every child completed"),
    (FAMILY, with_row(FAMILY, finished_at=4 * SECOND), "completed before its child d had finished"),
    (FAMILY, with_row(FAMILY, 1, status="running"), "is running below p, which is completed"),
    (FAMILY, with_row(FAMILY, 1, parent_id="x"), "its parent x has no row"),
    (FINALIZED, with_row(FINALIZED, 2, id="x"), "has 1 finalizes; its plan names d"),
    (FINALIZED, with_row(FINALIZED, status="finalize_failed"), "finalize_failed, and its finalize completed"),
    (FINALIZED, with_row(FINALIZED, 2, started_at=3 * SECOND), "its finalize was started before its child c"),
    (FINALIZED, with_row(FINALIZED, 2, status="failed"), "completed, though its finalize is failed"),
    (IN_TURN, {}, "child 1 was started before child 0 had finished"),
]


@pytest.mark.parametrize(("account", "changes", "words"), BROKEN, ids=[words for *_, words in BROKEN])
def test_what_is_broken_is_named(account: Account, changes: Changes, words: str) -> None:
    """Each promise, broken alone, is named."""
    problems = check(evolve(account, **changes))
    assert any(words in problem for problem in problems), problems
