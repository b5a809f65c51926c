"""A batch of outcomes, some of which come too late."""

from __future__ import annotations

from durable_sync.execution import ErrorInfo, ExecutionStatus
from durable_sync.storage.records import ClaimedExecution
from durable_sync.storage.statements import Fenced
from durable_sync.transitions import Transition, complete, fail
from tests.races.holding import claim, enqueue, incarnation, open_storage

_ERROR = ErrorInfo("ValueError", "no", "", False).to_json()


def test_a_stale_outcome_is_the_only_one_of_its_batch_that_is_refused(database_url: str) -> None:
    """The others are recorded, once, also where a batch holds outcomes of several kinds."""
    storage = open_storage(database_url)
    storage.register(incarnation("a"))
    ids = enqueue(storage, 6)
    claimed = claim(storage, ids, "a")
    stale = [claimed[1], claimed[4]]
    # One is in the very status that its late outcome is to bring about.
    storage.record([_outcome(stale[0], complete("0"))], uncertain=False)
    storage.cancel(stale[1].execution_id, _ERROR, patience=0)

    connections = storage.database.connections.raw_connections()
    batch = [_outcome(one, complete("1") if place < 3 else fail(_ERROR)) for place, one in enumerate(claimed)]
    recorded = storage.record(batch, uncertain=False)
    assert storage.database.connections.raw_connections() == connections

    fresh = [one for one in claimed if one not in stale]
    assert recorded.won == {(one.execution_id, one.claim_token) for one in fresh}
    assert sorted(recorded.effects.finished) == sorted(one.execution_id for one in fresh)
    rows = storage.get(ids, patience=0)
    assert [rows[execution_id].run_output for execution_id in ids] == ["1", "0", "1", None, None, None]
    assert [rows[execution_id].status for execution_id in ids] == [
        *(ExecutionStatus.COMPLETED,) * 3,
        ExecutionStatus.FAILED,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.FAILED,
    ]


def _outcome(claimed: ClaimedExecution, transition: Transition) -> Fenced:
    return Fenced(claimed.execution_id, claimed.claim_token, transition)
