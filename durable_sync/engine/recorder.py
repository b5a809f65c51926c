"""Writes outcomes: all that wait, in one fenced transaction."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from durable_sync.engine.attempts import Attempt, Attempts, Outcome, StopReason
from durable_sync.engine.loop import Loop
from durable_sync.engine.recent import Recent
from durable_sync.errors import SerializationError
from durable_sync.execution import ErrorInfo, ExecutionStatus
from durable_sync.storage.dialects import MAX_PACKET, Fault
from durable_sync.storage.recording import ProgressMade, Recorded
from durable_sync.storage.statements import Fenced
from durable_sync.storage.storage import Storage
from durable_sync.storage.trees import Effects
from durable_sync.transitions import fail

__all__ = ["Recorder"]

_SPACING_SECONDS = 0.005
"""The next batch is given so long to gather, unless there are `_ENOUGH`: each costs as much as many outcomes."""
_SPACING_OF_MANY = 0.02
"""The same after a batch of `_MANY`: where so much ends, a batch must not be of a few."""
_MANY = 20
_ENOUGH = 100
_MAX_BATCH = 500
_BYTES_A_BIRTH = 400
"""What a child's row takes beside its input."""


@frozen
class _Entry:
    attempt: Attempt
    outcome: Outcome

    @property
    def fenced(self) -> Fenced:
        claimed = self.attempt.claimed
        return Fenced(
            claimed.execution_id,
            claimed.claim_token,
            self.outcome.transition,
            claimed.task_id,
            claimed.lineage,
            self.outcome.births,
            self.outcome.is_done,
        )

    @property
    def output(self) -> str | None:
        """The output as JSON text, if that is all there is to tell."""
        values = self.outcome.transition.values
        output = values.get("run_output")
        whole = self.outcome.transition.target is ExecutionStatus.COMPLETED and "plan" not in values
        return output if whole and isinstance(output, str) else None

    @property
    def size(self) -> int:
        own = sum(len(value) for value in self.outcome.transition.values.values() if isinstance(value, str))
        return own + sum(len(birth.input) + _BYTES_A_BIRTH for birth in self.outcome.births)


class Recorder(Loop):
    """Takes outcomes from any thread and holds them until the database has answered, however long that takes."""

    name = "record"

    def __init__(
        self,
        label: str,
        storage: Storage,
        attempts: Attempts,
        *,
        recent: Recent,
        recorded: Callable[[Effects], None],
    ) -> None:
        super().__init__(label)
        self._storage = storage
        self._attempts = attempts
        self._recent = recent
        self._recorded = recorded
        self._waiting: deque[_Entry] = deque()
        self._batch: list[_Entry] = []
        self._uncertain = False
        self._turn = threading.Lock()

    def put(self, attempt: Attempt, outcome: Outcome) -> None:
        """Hands over the outcome of an attempt that the caller has settled."""
        self._waiting.append(_Entry(attempt, outcome))
        self.wake()

    def record(self, attempt: Attempt, outcome: Outcome) -> None:
        """The same; the calling thread writes it, with all that waits, if nobody else is writing.

        That saves two changes of threads, and is worth it where the caller has nothing else to do.
        """
        self._waiting.append(_Entry(attempt, outcome))
        if not self._turn.acquire(blocking=False):
            self.wake()
            return
        try:
            self._write_batch()
        except Exception as error:
            # The loop's turn: it tries again, and complains.
            self.log.debug("record: %s", error)
        finally:
            self._turn.release()
        if not self.idle:
            self.wake()

    @property
    def idle(self) -> bool:
        """True if every outcome so far has been answered for."""
        return not self._waiting and not self._batch

    def step(self) -> float:
        """Writes one batch; the next has gathered meanwhile, or is given a little time to."""
        with self._turn:
            written = self._write_batch()
        if not written:
            return float("inf")
        if len(self._waiting) < _ENOUGH:
            # Not cut short by a wake: what comes within this time goes together.
            self._stopping.wait(_SPACING_OF_MANY if written >= _MANY else _SPACING_SECONDS)
        return 0.0

    def _write_batch(self) -> int:
        if not self._batch:
            self._batch = self._gather()
        batch = list(self._batch)
        if batch:
            self._save_last_progress(batch)
            self._write(batch)
            self._uncertain = False
        return len(batch)

    def _gather(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while self._waiting and len(batch) < _MAX_BATCH:
            size += self._waiting[0].size
            if batch and size > MAX_PACKET:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _save_last_progress(self, batch: Sequence[_Entry]) -> None:
        save_progress(self._storage, [entry.attempt for entry in batch])

    def _write(self, batch: Sequence[_Entry]) -> None:
        try:
            recorded = self._storage.record([entry.fenced for entry in batch], uncertain=self._uncertain)
        except Exception as error:
            fault = self._storage.database.dialect.fault(error)
            if fault is not Fault.REFUSED and fault is not Fault.CONFLICT and not isinstance(error, UnicodeError):
                self._uncertain = True
                raise
            self._split(batch, error)
            return
        self._settle(batch, recorded)

    def _split(self, batch: Sequence[_Entry], error: Exception) -> None:
        """One outcome that the database refuses must not hold up the others."""
        if len(batch) > 1:
            middle = len(batch) // 2
            self._write(batch[:middle])
            self._write(batch[middle:])
            return
        (offender,) = batch
        self.log.error("record: %s: the database refuses its outcome, so it fails: %s", offender.attempt, error)
        reason = ErrorInfo.of(SerializationError(f"the database refuses the outcome: {_first_line(error)}"))
        refused = fail(ErrorInfo(reason.type, reason.message, "", False).to_json())
        # In the place of what it came to, which is the first that is not settled: should this COMMIT get no answer, it
        # is this that may have been written.
        entry = self._batch[0] = _Entry(offender.attempt, Outcome(refused))
        try:
            recorded = self._storage.record([entry.fenced], uncertain=self._uncertain)
        except Exception:
            self._uncertain = True
            raise
        self._settle([entry], recorded)

    def _settle(self, batch: Sequence[_Entry], recorded: Recorded) -> None:
        # Batches are settled from their beginning on; what is left is what a later failure tries again.
        del self._batch[: len(batch)]
        for entry in batch:
            if entry.attempt.identity not in recorded.won:
                self._tell_fenced(entry)
            elif entry.output is not None:
                self._recent.put(entry.attempt.claimed.execution_id, entry.output)
            self._attempts.drop(entry.attempt)
        self._recorded(recorded.effects)

    def _tell_fenced(self, entry: _Entry) -> None:
        if entry.attempt.reason is StopReason.REVOKED:
            self.log.info("record: %s: ended after it was cancelled or taken over; nothing written", entry.attempt)
            return
        self.log.warning(
            "record: %s: outcome %r of claim %d was fenced off: the execution was cancelled, or recovered because this "
            "process's lease had ended. If it was not cancelled, lengthen `lease` or find what holds this process up",
            entry.attempt,
            entry.outcome.transition.name,
            entry.attempt.claimed.claim_token,
        )


def save_progress(storage: Storage, attempts: Sequence[Attempt]) -> None:
    """Writes the progress that these attempts have made since it was last written."""
    unsaved = [(attempt, attempt.progress) for attempt in attempts if attempt.progress is not attempt.progress_saved]
    made = [ProgressMade(*attempt.identity, told.to_json()) for attempt, told in unsaved if told is not None]
    if made:
        storage.save_progress(made)
        for attempt, progress in unsaved:
            attempt.progress_saved = progress


def _first_line(error: Any) -> str:
    text = str(getattr(error, "orig", None) or error)
    return text.splitlines()[0][:500] if text else type(error).__name__
