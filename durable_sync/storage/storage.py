"""The verbs on stored executions, one transaction each.

Every method may be called from any thread. `patience` is how long, in seconds, an outage is waited out before
its error is raised; loops pass none, and back off by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from durable_sync.clock import Clock, SteadyClock
from durable_sync.errors import ConfigurationError
from durable_sync.storage import (
    claiming,
    enqueueing,
    keys,
    leases,
    migrations,
    reading,
    recording,
    sleepers,
    timers,
    trees,
)
from durable_sync.storage.claiming import Glimpse
from durable_sync.storage.clocks import adopt_offset, agree_offset
from durable_sync.storage.database import Database, Transaction
from durable_sync.storage.dialects import MAX_PACKET, Fault
from durable_sync.storage.keys import Enqueued
from durable_sync.storage.leases import Incarnation, Reaped, Survey
from durable_sync.storage.recording import ProgressMade, Recorded
from durable_sync.storage.records import ClaimedExecution, NewExecution, OutputRow, StoredExecution, TreeRow
from durable_sync.storage.sleepers import Awakening, FormerSleeper
from durable_sync.storage.statements import Fenced, NotAllHeldError, Sql
from durable_sync.storage.tables import Tables
from durable_sync.storage.trees import Effects
from durable_sync.transitions import cancel

__all__ = ["Storage"]

_MIGRATION_TRIES = 5


class Storage:
    """The executions in one database."""

    def __init__(self, database: Database, tables: Tables, clock: Clock | None, *, max_payload_bytes: int) -> None:
        self.database = database
        self._max_payload_bytes = max_payload_bytes
        if clock is None and not database.dialect.server_clock:
            clock = SteadyClock()
        self.sql = Sql(tables, database.dialect, clock)

    @classmethod
    def open(
        cls,
        source: str | URL | Engine,
        tables: Tables,
        clock: Clock | None,
        *,
        busy_seconds: float,
        max_payload_bytes: int,
    ) -> Storage:
        """Prepares, without connecting; ConfigurationError for a URL that can't serve."""
        return cls(Database(source, busy_seconds=busy_seconds), tables, clock, max_payload_bytes=max_payload_bytes)

    def sibling(self, *, limit: float) -> Storage:
        """The same through a connection of its own, which nobody else can keep busy.

        `limit` is how many seconds one of its operations may last.
        """
        sibling = self.database.sibling(pool_size=1, limit=limit)
        return Storage(sibling, self.sql.tables, self.sql.clock, max_payload_bytes=self._max_payload_bytes)

    # --- the tables ---------------------------------------------------------------------------

    def migrate(self, *, patience: float = 0.0) -> None:
        """Makes or upgrades the tables, safely from several processes at once."""
        for tries_left in reversed(range(_MIGRATION_TRIES)):
            try:
                # Looking first takes no lock, which a session of the caller's own may hold.
                if not self.database.read("migrate", lambda c: migrations.is_latest(self.sql, c), patience=patience):
                    self.database.transact(
                        "migrate", lambda tx: migrations.migrate(self.sql, tx.connection), patience=patience
                    )
                break
            except DBAPIError as error:
                # Where nothing keeps two processes from making the same table, one of them meets an error.
                if tries_left == 0 or self.database.dialect.fault(error) is Fault.OUTAGE:
                    raise self._unusable(error) from error
        self._look_around()

    def check_version(self, *, patience: float = 0.0) -> None:
        """Raises DatabaseVersionError unless the tables are those that this library uses."""
        try:
            self.database.read("migrate", lambda c: migrations.check_version(self.sql, c), patience=patience)
        except DBAPIError as error:
            raise self._unusable(error) from error
        self._look_around()

    def _look_around(self) -> None:
        """What is worth knowing of a database whose tables are in order."""
        self._adopt_clock()
        self.database.read("migrate", self._refuse_small_packets)

    def _refuse_small_packets(self, connection: Connection) -> None:
        limit = self.database.dialect.largest_packet(connection)
        needed = max(self._max_payload_bytes * 4 // 3, 2 * MAX_PACKET) + 65_536
        if limit is not None and limit < needed:
            raise ConfigurationError(
                f"the server's max_allowed_packet is {limit} bytes; max_payload_bytes={self._max_payload_bytes} needs "
                f"{needed}: raise the one or lower the other (never under {2 * MAX_PACKET + 65_536})"
            )

    def _adopt_clock(self) -> None:
        if isinstance(self.sql.clock, SteadyClock):
            self.database.read("migrate", self._on_time)

    def _on_time(self, connection: Connection) -> None:
        """Sets the clock by what is agreed now: a caller's process lives on while that is agreed anew."""
        if isinstance(self.sql.clock, SteadyClock):
            adopt_offset(self.sql, connection, self.sql.clock)

    def _agree_clock(self, connection: Connection) -> None:
        if isinstance(self.sql.clock, SteadyClock):
            agree_offset(self.sql, connection, self.sql.clock)

    def _unusable(self, error: DBAPIError) -> ConfigurationError:
        url = self.database.url.render_as_string(hide_password=True)
        return ConfigurationError(f"can't use the database {url}: {error.orig}")

    # --- enqueue, cancel, read ----------------------------------------------------------------

    def enqueue(self, rows: Sequence[NewExecution], *, patience: float, uncertain: bool = False) -> list[Enqueued]:
        """Inserts all of the rows or none, but those whose key is taken.

        `uncertain`: an earlier call with these rows may have inserted them.
        """

        def insert(tx: Transaction) -> list[Enqueued]:
            if _timed(rows):
                self._on_time(tx.connection)
            return enqueueing.enqueue(self.sql, tx.connection, rows, uncertain=uncertain or tx.uncertain)

        return self.database.transact("enqueue", insert, patience=patience)

    def enqueue_claimed(self, row: NewExecution, *, executor_id: str, patience: float) -> tuple[bool, bool]:
        """Inserts a row that this executor has claimed already: whether the row is there, and whether it is claimed.

        Not there: the executor is dead. There and not claimed: an earlier try wrote it, and it has been released since.
        """
        return self.database.transact(
            "enqueue",
            lambda tx: enqueueing.enqueue_claimed(
                self.sql, tx.connection, row, executor_id=executor_id, uncertain=tx.uncertain
            ),
            patience=patience,
        )

    def enqueue_within(self, connection: Connection, rows: Sequence[NewExecution]) -> list[Enqueued]:
        """Inserts the rows in a transaction of the caller's."""
        self.database.dialect.adopt(connection.connection.dbapi_connection)
        if _timed(rows):
            self._adopt_clock()
        # Looked up outside of it: to collide with a holder inside would lock its row until the caller commits.
        keyed = [row for row in rows if row.key is not None]
        held: dict[tuple[str, str], str] = {}
        if keyed:
            held = self.database.read("enqueue", lambda c: keys.key_holders(self.sql, c, keyed))
        fresh = [row for row in rows if row.key is None or (row.task_id, row.key) not in held]
        stored = iter(enqueueing.enqueue(self.sql, connection, fresh, uncertain=False) if fresh else [])
        return [
            Enqueued(held[row.task_id, row.key], False)
            if row.key is not None and (row.task_id, row.key) in held
            else next(stored)
            for row in rows
        ]

    def cancel(self, execution_id: str, error: str, *, patience: float) -> Effects:
        """Ends an active execution, with all that is below it; it is not among the finished if it was not active."""

        def ended(tx: Transaction) -> Effects:
            self._on_time(tx.connection)
            effects = trees.end(self.sql, tx.connection, [execution_id], cancel(error))
            if tx.uncertain and not effects.finished:
                found = reading.get(self.sql, tx.connection, [execution_id])
                effects.finished += [stored.execution_id for stored in found.values() if stored.error == error]
            return effects

        return self.database.transact("cancel", ended, patience=patience)

    def wake(self, awakening: Awakening, *, patience: float) -> bool:
        """Ends the sleeper of a task and key; False if none sleeps."""

        def woken(tx: Transaction) -> bool:
            self._on_time(tx.connection)
            return sleepers.wake(self.sql, tx.connection, awakening, uncertain=tx.uncertain)

        return self.database.transact("wake", woken, patience=patience)

    def former_sleeper(self, task_id: str, key: str, *, patience: float) -> FormerSleeper | None:
        """Of those that slept under this key and have ended, the last."""
        return self.database.read(
            "wake", lambda c: sleepers.former_sleeper(self.sql, c, task_id, key), patience=patience
        )

    def get(self, ids: Sequence[str], *, patience: float) -> dict[str, StoredExecution]:
        """The executions of these ids that exist, by id."""
        return self.database.read("get", lambda c: reading.get(self.sql, c, ids), patience=patience)

    def outputs(self, ids: Sequence[str], *, patience: float) -> list[OutputRow]:
        """What is needed to read the outputs of these."""
        return self.database.read("get", lambda c: reading.outputs(self.sql, c, ids), patience=patience)

    def children(
        self, parents: Sequence[tuple[str, str]], *, with_outputs: bool, patience: float
    ) -> dict[str, list[OutputRow]]:
        """The children of these parents, each given as (root of its tree, its id), in order."""
        return self.database.read(
            "get", lambda c: reading.children(self.sql, c, parents, with_outputs=with_outputs), patience=patience
        )

    def tree(self, root_id: str, *, patience: float) -> tuple[int, list[TreeRow]]:
        """The present time, and the whole tree of this root."""
        return self.database.read("get", lambda c: reading.tree(self.sql, c, root_id), patience=patience)

    def finished(self, ids: Sequence[str], *, patience: float = 0.0) -> set[str]:
        """Those of these ids that have finished or don't exist."""
        return self.database.read("watch", lambda c: reading.finished(self.sql, c, ids), patience=patience)

    def any_active(self, tasks: Sequence[str], *, patience: float) -> bool:
        """True if an execution of one of these tasks is ready, running or waiting."""
        return self.database.read("drain", lambda c: reading.any_active(self.sql, c, tasks), patience=patience)

    # --- claim, record, release ---------------------------------------------------------------

    def peek(self, *, queues: Mapping[str, Sequence[str]], lane: int, limit: int, discovers: bool) -> Glimpse:
        """Looks for what may be claimed."""
        return self.database.read(
            "claim",
            lambda c: claiming.peek(self.sql, c, queues=queues, lane=lane, limit=limit, discovers=discovers),
        )

    def claim(self, candidates: Sequence[str], *, limit: int, executor_id: str) -> list[ClaimedExecution]:
        """Claims up to `limit` of the candidates."""
        return self.database.transact(
            "claim",
            lambda tx: claiming.take(
                self.sql, tx.connection, candidates=candidates, limit=limit, executor_id=executor_id
            ),
        )

    def promote_due(self) -> int:
        """Makes executions whose time has come claimable; returns how many."""
        return self.database.transact("wake", lambda tx: timers.promote_due(self.sql, tx.connection))

    def end_oversleepers(self, *, error: str) -> Effects:
        """Ends sleepers that nobody has woken in time."""
        return self.database.transact("wake", lambda tx: timers.end_oversleepers(self.sql, tx.connection, error=error))

    def record(self, outcomes: Sequence[Fenced], *, uncertain: bool) -> Recorded:
        """Writes outcomes, and what they do to their trees.

        `uncertain`: an earlier call with these outcomes ended in an outage.
        """

        def write(tx: Transaction) -> Recorded:
            nonlocal uncertain
            uncertain = uncertain or tx.uncertain
            return recording.record(self.sql, tx.connection, outcomes, uncertain=uncertain, hopeful=hopeful)

        hopeful = True
        try:
            return self.database.transact("record", write)
        except NotAllHeldError:
            hopeful = False
            return self.database.transact("record", write)

    def save_progress(self, made: Sequence[ProgressMade]) -> None:
        """Writes how far running attempts say they are."""
        self.database.transact("record", lambda tx: recording.save_progress(self.sql, tx.connection, made))

    # --- register, renew, reap ----------------------------------------------------------------

    def register(self, incarnation: Incarnation, *, patience: float = 0.0) -> None:
        """Enters an incarnation with a fresh lease."""

        def enter(tx: Transaction) -> None:
            self._agree_clock(tx.connection)
            leases.register(self.sql, tx.connection, incarnation)

        self.database.transact("register", enter, patience=patience)

    def renew(self, incarnation: Incarnation) -> bool:
        """Extends the lease; False if the incarnation is dead."""
        return self.database.transact("renew", lambda tx: leases.renew(self.sql, tx.connection, incarnation))

    def resign(self, executor_id: str) -> None:
        """Marks the incarnation dead by its own wish."""
        self.database.transact("resign", lambda tx: leases.resign(self.sql, tx.connection, executor_id))

    def owned(self, executor_id: str) -> set[tuple[str, int]]:
        """(execution id, claim token) of all that the database says this incarnation runs."""
        return self.database.read("renew", lambda c: leases.owned(self.sql, c, executor_id))

    def look_for_dead(self, *, spare: str = "") -> Survey:
        """Whether a sweep has anything to do, without taking a lock. `spare` is as for `reap`."""
        return self.database.read("reap", lambda c: leases.survey(self.sql, c, spare=spare))

    def reap(self, *, gave_up: str, may_mark: Callable[[], bool] = lambda: True, spare: str = "") -> Reaped:
        """Marks lapsed incarnations dead and recovers a batch of what dead ones held.

        `spare` is the caller's own incarnation: it is alive, if late. `may_mark` is asked inside the transaction, when
        nobody else can write any more where writers take turns.
        """
        dead = self.database.transact(
            "reap", lambda tx: leases.mark_dead(self.sql, tx.connection, spare=spare) if may_mark() else []
        )
        return self.database.transact("reap", lambda tx: leases.reap(self.sql, tx.connection, dead, gave_up=gave_up))

    def bury(self) -> int:
        """Deletes tombstones that nothing refers to; returns how many."""
        return self.database.transact("prune", lambda tx: leases.bury(self.sql, tx.connection))


def _timed(rows: Sequence[NewExecution]) -> bool:
    """True if something about these is due at a time that is counted from now."""
    return any(row.delay > 0 or row.sleeps for row in rows)
