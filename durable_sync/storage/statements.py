"""Renders transitions as guarded statements, for one row or for many."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from attrs import field, frozen
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Table,
    Update,
    bindparam,
    case,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.engine import Connection

from durable_sync.clock import Clock
from durable_sync.execution import ExecutionStatus
from durable_sync.storage.database import UndoneError
from durable_sync.storage.dialects import MAX_PACKET, Dialect
from durable_sync.storage.records import Lineage, NewExecution
from durable_sync.storage.tables import Tables
from durable_sync.transitions import (
    ORDINARY_LANE,
    SOLO_LANE,
    SUSPECT_LANE,
    FirstTime,
    Lane,
    Now,
    Plus,
    Transition,
    Value,
)

__all__ = [
    "BULKY",
    "Fenced",
    "NotAllHeldError",
    "Sql",
    "apply_fenced",
    "apply_to",
    "parameters_of",
    "rendered",
    "update_for",
    "without_index",
]

T = TypeVar("T")

BULKY = 64 * 1024
"""Characters of a text that is sent by itself."""
_MAX_IDS = 1000
"""Ids in one statement."""
_MAX_ROWS = 500
"""Rows in one statement: bounds its text and its locks."""
_MAX_BUILT = 1000
"""Statements that are kept: one for each shape, of which there are a few dozen, and a few more as queues are met."""


@frozen
class Sql:
    """What a statement needs to know: the tables, what the database can do, and who tells the time."""

    tables: Tables
    dialect: Dialect
    clock: Clock | None
    """None: the database's own."""
    _built: dict[object, Any] = field(factory=dict[object, Any], init=False, eq=False, repr=False)

    @property
    def executions(self) -> Table:
        """The table of executions."""
        return self.tables.executions

    def now(self) -> ColumnElement[int]:
        """The present time in microseconds, as it is when the statement is run."""
        if self.clock is None:
            return self.dialect.now()
        return bindparam(None, callable_=self.clock.now, type_=BigInteger, unique=True)

    def built(self, key: Hashable, build: Callable[[], T]) -> T:
        """What `build` made when it was first asked for by this key: to build a statement costs more than to run it."""
        found: T | None = self._built.get(key)
        if found is None:
            if len(self._built) >= _MAX_BUILT:
                self._built.clear()
            found = self._built[key] = build()
        return found

    def built_last(self, key: Hashable, shape: Hashable, build: Callable[[], T]) -> T:
        """The same, of a statement that has many shapes: only the last, which is likely to be wanted again, is kept."""
        found: tuple[Hashable, T] | None = self._built.get(key)
        if found is None or found[0] != shape:
            found = self._built[key] = (shape, build())
        return found[1]

    def now_value(self, connection: Connection) -> int:
        """The present time in microseconds, fetched."""
        if self.clock is not None:
            return self.clock.now()
        return int(connection.execute(select(self.dialect.now())).scalar_one())


@frozen
class Fenced:
    """A transition of one claimed execution, with what its tree must know of it."""

    execution_id: str
    claim_token: int
    transition: Transition
    task_id: str = ""
    lineage: Lineage | None = None
    births: tuple[NewExecution, ...] = ()
    """The children that are born with it."""
    is_done: bool = False
    """The output is a Done, which ends a loop."""

    @property
    def identity(self) -> tuple[str, int]:
        """(execution id, claim token): of which claim this is an outcome."""
        return (self.execution_id, self.claim_token)


def update_for(sql: Sql, transition: Transition) -> Update:
    """The transition, or one of its shape, as a guarded UPDATE, to be narrowed to its rows by the caller.

    To be run with `parameters_of` it.
    """
    table = sql.executions
    return (
        update(table)
        .where(sql.dialect.is_in(table.c.status, sorted(transition.sources)))
        .values(status=transition.target, **rendered(sql, transition))
    )


def without_index(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """An integer column that is no less than 0, or -1 if it is null: for a condition beside a list of ids.

    Were it "is not null", PostgreSQL would find the rows by a partial index, if its statistics are of a time when there
    were few of them, and compare each with each id: 4.8 s instead of 2 ms for 1,000 ids beside 60,000 active rows.
    """
    return func.coalesce(column, -1)


def parameters_of(transition: Transition) -> dict[str, Any]:
    """What the statement of the transition's shape is run with."""
    return {
        f"v_{name}": given for name, value in transition.values.items() if (given := _parameter(value)) is not _CONSTANT
    }


def apply_to(sql: Sql, connection: Connection, ids: Sequence[str], transition: Transition) -> int:
    """Applies an unfenced transition to those of `ids` that stand in its sources; returns how many did."""
    statement = sql.built(
        ("apply_to", transition.shape()),
        lambda: update_for(sql, transition).where(sql.dialect.is_among(sql.executions.c.id, "v_ids")),
    )
    applied = 0
    for start in range(0, len(ids), _MAX_IDS):
        some = list(ids[start : start + _MAX_IDS])
        applied += connection.execute(statement, {"v_ids": some, **parameters_of(transition)}).rowcount
    return applied


class NotAllHeldError(UndoneError):
    """Of changes that were expected to hold, some did not, and which is not known: the transaction must not commit."""


def apply_fenced(
    sql: Sql, connection: Connection, changes: Iterable[Fenced], *, hopeful: bool = False
) -> set[tuple[str, int]]:
    """Applies fenced transitions; returns the (execution id, claim token) of those that held.

    There may be several of one execution, under different tokens. `hopeful`: where that saves a statement, all are
    expected to hold, and NotAllHeldError is raised if they don't.
    """
    groups: dict[tuple[object, ...], list[Fenced]] = {}
    for change in changes:
        groups.setdefault(change.transition.shape(), []).append(change)
    won: set[tuple[str, int]] = set()
    for group in _bulky_apart(groups.values()):
        for start in range(0, len(group), _MAX_ROWS):
            won |= _apply_group(sql, connection, group[start : start + _MAX_ROWS], hopeful=hopeful)
    return won


def _bulky_apart(groups: Iterable[list[Fenced]]) -> Iterator[list[Fenced]]:
    """Puts rows with a long text in groups of one: many rows in one parameter are quoted slowly, and twice."""
    for group in groups:
        slender: list[Fenced] = []
        for change in group:
            if _is_bulky(change.transition):
                yield [change]
            else:
                slender.append(change)
        if slender:
            yield slender


def _is_bulky(transition: Transition) -> bool:
    return any(isinstance(value, str) and len(value) > BULKY for value in transition.values.values())


def _apply_group(sql: Sql, connection: Connection, group: Sequence[Fenced], *, hopeful: bool) -> set[tuple[str, int]]:
    if len(group) == 1:
        return {group[0].identity} if _apply_each(sql, connection, group) == 1 else set()
    if sql.dialect.json_rows and sql.dialect.update_returning:
        return _apply_returning(sql, connection, group)
    if sql.dialect.single_writer and hopeful:
        if _apply_all(sql, connection, group) != len(group):
            raise NotAllHeldError
        return {change.identity for change in group}
    held = _held(sql, connection, group)
    _apply_all(sql, connection, [change for change in group if change.identity in held])
    return held


def _held(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> set[tuple[str, int]]:
    """Which of the group still carry their token, in a source status; locks them."""
    sources = sorted(group[0].transition.sources)
    identities = {change.identity for change in group}
    query = sql.built(("held", *sources), lambda: _holding(sql, sources))
    ids = sorted({change.execution_id for change in group})
    return {(row.id, row.claim_token) for row in connection.execute(query, {"v_ids": ids}).all()} & identities


def _holding(sql: Sql, sources: Sequence[str]) -> Any:
    t = sql.executions
    return (
        select(t.c.id, t.c.claim_token)
        .where(sql.dialect.is_among(t.c.id, "v_ids"), sql.dialect.is_in(t.c.status, sources))
        .order_by(t.c.id)
        .with_for_update()
    )


def _apply_each(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> int:
    if not group:
        return 0
    first = group[0].transition
    statement = sql.built(("apply_each", first.shape()), lambda: _fenced_update(sql, first))
    rows = [
        {"v_id": change.execution_id, "v_token": change.claim_token, **parameters_of(change.transition)}
        for change in group
    ]
    # A list of one would be prepared as many are, which costs more.
    return connection.execute(statement, rows if len(rows) > 1 else rows[0]).rowcount


def _fenced_update(sql: Sql, transition: Transition) -> Update:
    t = sql.executions
    return (
        update(t)
        .where(
            t.c.id == bindparam("v_id"),
            t.c.claim_token == bindparam("v_token"),
            t.c.status == ExecutionStatus.RUNNING,
        )
        .values(status=transition.target, **rendered(sql, transition))
    )


def _apply_all(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> int:
    """Applies what holds of these; returns how many did."""
    if not group or not sql.dialect.json_rows:
        return _apply_each(sql, connection, group)
    first = group[0].transition
    statement = sql.built(("apply_json", first.shape()), lambda: _update_by_json(sql, first))
    return sum(connection.execute(statement, {"v_rows": listed}).rowcount for listed in _as_json(group))


def _apply_returning(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> set[tuple[str, int]]:
    """Applies what holds of these; returns which did."""
    t = sql.executions
    first = group[0].transition
    statement = sql.built(
        ("apply_returning", first.shape()),
        lambda: _update_by_json(sql, first).returning(t.c.id, t.c.claim_token),
    )
    return {
        (row.id, row.claim_token)
        for listed in _as_json(group)
        for row in connection.execute(statement, {"v_rows": listed}).all()
    }


def _as_json(group: Sequence[Fenced]) -> Iterator[str]:
    """The changes, in texts that fit a packet."""
    rows: list[list[Any]] = []
    size = 0
    varying = _varying(group[0].transition)
    for change in group:
        values = change.transition.values
        row = [change.execution_id, change.claim_token, *[_parameter(values[name]) for name in varying]]
        # Quotes are escaped twice, so that a text may double twice.
        length = 4 * sum([len(value) for value in row if isinstance(value, str)])
        if rows and size + length > MAX_PACKET:
            yield _encode(rows)
            rows, size = [], 0
        rows.append(row)
        size += length
    yield _encode(rows)


# Not as ASCII: half a character, which no database takes, must not come through as an escape.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _types_of(sql: Sql, transition: Transition) -> dict[str, Any]:
    """The columns of a row that stands for a change of this shape."""
    t = sql.executions
    varying = {f"v_{name}": _carrier(t.c[name], transition.values[name]).type for name in _varying(transition)}
    return {"v_id": t.c.id.type, "v_token": BigInteger(), **varying}


def _varying(transition: Transition) -> list[str]:
    """The columns in which transitions of this shape may differ."""
    return [name for name, value in transition.values.items() if _parameter(value) is not _CONSTANT]


def _update_by_json(sql: Sql, transition: Transition) -> Any:
    """Of the rows that `v_rows` lists, each in the order of `_types_of`."""
    t = sql.executions
    v = sql.dialect.rows_of_json("v_rows", _types_of(sql, transition))
    now = sql.now()
    rendered = {name: _render(now, t.c[name], value, v.c.get(f"v_{name}")) for name, value in transition.values.items()}
    return (
        update(t)
        .where(t.c.id == v.c.v_id, t.c.claim_token == v.c.v_token, t.c.status == ExecutionStatus.RUNNING)
        .where(sql.dialect.is_first_of_rows(t.c.id, "v_rows"))
        .values(status=transition.target, **rendered)
    )


def _carrier(target: Column[Any], value: Value) -> ColumnElement[Any]:
    return literal(0, BigInteger) if isinstance(value, Now | Plus) else target


_CONSTANT = object()
"""Stands for a value that the statement's text says whole."""


def _parameter(value: Value) -> Any:
    # What there is most of comes first: this is asked of every column of every outcome.
    if value is None or isinstance(value, FirstTime | Lane):
        return _CONSTANT
    if isinstance(value, Now):
        return value.after
    return value.amount if isinstance(value, Plus) else value


def rendered(sql: Sql, transition: Transition) -> dict[str, ColumnElement[Any] | None]:
    """The columns of a transition as SQL, with a parameter for all in which others of its shape may differ."""
    now, t = sql.now(), sql.executions
    return {
        name: _render(now, t.c[name], value, bindparam(f"v_{name}", type_=_carrier(t.c[name], value).type))
        for name, value in transition.values.items()
    }


def _render(
    now: ColumnElement[int], target: Column[Any], value: Value, given: ColumnElement[Any] | None
) -> ColumnElement[Any] | None:
    """`value` as SQL; its variable part, if it has one, is `given`."""
    match value:
        case None:
            return None
        case FirstTime():
            return func.coalesce(target, now)
        case Lane():
            return lane_case(target.table)
        case Now():
            return now + _present(given)
        case Plus():
            return target + _present(given)
        case _:
            return given


def _present(given: ColumnElement[Any] | None) -> ColumnElement[Any]:
    assert given is not None
    return given


def lane_case(table: Table) -> ColumnElement[int]:
    """`transitions.lane_of`, evaluated by the database on the row's own counts."""
    return case(
        (table.c.recoveries == 0, ORDINARY_LANE),
        (table.c.recoveries < table.c.max_recoveries, SUSPECT_LANE),
        else_=SOLO_LANE,
    )
