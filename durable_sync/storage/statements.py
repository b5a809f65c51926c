"""Renders transitions as guarded statements, for one row or for many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    Table,
    Update,
    bindparam,
    case,
    column,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.engine import Connection

from durable_sync.clock import Clock
from durable_sync.execution import ExecutionStatus
from durable_sync.storage.dialects import Dialect
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

__all__ = ["BULKY", "Fenced", "Sql", "apply_fenced", "apply_to", "update_for"]

BULKY = 64 * 1024
"""Characters of a text that is sent by itself."""
_MAX_IDS = 1000
"""Ids in one statement."""
_MAX_ROWS = 500
"""Rows in one statement: bounds its text and its locks."""


@frozen
class Sql:
    """What a statement needs to know: the tables, what the database can do, and who tells the time."""

    tables: Tables
    dialect: Dialect
    clock: Clock | None
    """None: the database's own."""

    @property
    def executions(self) -> Table:
        """The table of executions."""
        return self.tables.executions

    def now(self) -> ColumnElement[int]:
        """The present time in microseconds."""
        return self.dialect.now() if self.clock is None else literal(self.clock.now(), BigInteger)

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
    """The transition as a guarded UPDATE, to be narrowed to its rows by the caller."""
    table = sql.executions
    now = sql.now()
    rendered = {name: _render(now, table.c[name], value) for name, value in transition.values.items()}
    return (
        update(table)
        .where(sql.dialect.is_in(table.c.status, sorted(transition.sources)))
        .values(status=transition.target, **rendered)
    )


def apply_to(sql: Sql, connection: Connection, ids: Sequence[str], transition: Transition) -> int:
    """Applies an unfenced transition to those of `ids` that stand in its sources; returns how many did."""
    applied = 0
    for start in range(0, len(ids), _MAX_IDS):
        some = list(ids[start : start + _MAX_IDS])
        statement = update_for(sql, transition).where(sql.dialect.is_in(sql.executions.c.id, some))
        applied += connection.execute(statement).rowcount
    return applied


def apply_fenced(sql: Sql, connection: Connection, changes: Iterable[Fenced]) -> set[tuple[str, int]]:
    """Applies fenced transitions; returns the (execution id, claim token) of those that held.

    There may be several of one execution, under different tokens.
    """
    groups: dict[tuple[object, ...], list[Fenced]] = {}
    for change in changes:
        groups.setdefault(change.transition.shape(), []).append(change)
    won: set[tuple[str, int]] = set()
    for group in _bulky_apart(sql, groups.values()):
        for start in range(0, len(group), _MAX_ROWS):
            won |= _apply_group(sql, connection, group[start : start + _MAX_ROWS])
    return won


def _bulky_apart(sql: Sql, groups: Iterable[list[Fenced]]) -> Iterator[list[Fenced]]:
    """Where rows travel as arrays, whose quoting is slow, puts rows with a long text in groups of one."""
    for group in groups:
        slender: list[Fenced] = []
        for change in group:
            if sql.dialect.arrays and _is_bulky(change.transition):
                yield [change]
            else:
                slender.append(change)
        if slender:
            yield slender


def _is_bulky(transition: Transition) -> bool:
    return any(isinstance(value, str) and len(value) > BULKY for value in transition.values.values())


def _apply_group(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> set[tuple[str, int]]:
    if sql.dialect.arrays and not _is_bulky(group[0].transition):
        return _apply_arrays(sql, connection, group)
    if sql.dialect.single_writer:
        # Nobody can write between two statements, so a full count is an answer.
        with connection.begin_nested() as savepoint:
            if _apply_each(sql, connection, group) == len(group):
                return {change.identity for change in group}
            savepoint.rollback()
    held = _held(sql, connection, group)
    _apply_each(sql, connection, [change for change in group if change.identity in held])
    return held


def _held(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> set[tuple[str, int]]:
    """Which of the group still carry their token, in a source status; locks them."""
    t = sql.executions
    identities = {change.identity for change in group}
    query = (
        select(t.c.id, t.c.claim_token)
        .where(
            sql.dialect.is_in(t.c.id, sorted({change.execution_id for change in group})),
            sql.dialect.is_in(t.c.status, sorted(group[0].transition.sources)),
        )
        .order_by(t.c.id)
        .with_for_update()
    )
    return {(row.id, row.claim_token) for row in connection.execute(query)} & identities


def _apply_each(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> int:
    if not group:
        return 0
    t = sql.executions
    first = group[0].transition
    now = sql.now()
    rendered = {name: _render(now, t.c[name], value, f"v_{name}") for name, value in first.values.items()}
    statement = (
        update(t)
        .where(
            t.c.id == bindparam("v_id"),
            t.c.claim_token == bindparam("v_token"),
            t.c.status == ExecutionStatus.RUNNING,
        )
        .values(status=first.target, **rendered)
    )
    rows = [
        {"v_id": change.execution_id, "v_token": change.claim_token, **_parameters(change.transition.values)}
        for change in group
    ]
    return connection.execute(statement, rows).rowcount


def _apply_arrays(sql: Sql, connection: Connection, group: Sequence[Fenced]) -> set[tuple[str, int]]:
    t = sql.executions
    first = group[0].transition
    varying = [name for name, value in first.values.items() if _parameter(value) is not _CONSTANT]
    rows = func.unnest(
        _array("v_id", t.c.id, [change.execution_id for change in group]),
        _array("v_token", t.c.claim_token, [change.claim_token for change in group]),
        *(
            _array(
                f"v_{name}",
                _carrier(t.c[name], first.values[name]),
                [_parameter(c.transition.values[name]) for c in group],
            )
            for name in varying
        ),
    )
    v = rows.table_valued(
        column("v_id", t.c.id.type),
        column("v_token", BigInteger),
        *(column(f"v_{n}", _carrier(t.c[n], first.values[n]).type) for n in varying),
        name="v",
    ).render_derived()
    now = sql.now()
    rendered = {
        name: _render(now, t.c[name], value, given=v.c[f"v_{name}"] if name in varying else None)
        for name, value in first.values.items()
    }
    statement = (
        update(t)
        .where(t.c.id == v.c.v_id, t.c.claim_token == v.c.v_token, t.c.status == ExecutionStatus.RUNNING)
        .values(status=first.target, **rendered)
        .returning(t.c.id, t.c.claim_token)
    )
    return {(row.id, row.claim_token) for row in connection.execute(statement)}


def _array(name: str, like: ColumnElement[Any], values: list[Any]) -> ColumnElement[Any]:
    return bindparam(name, values, type_=ARRAY(like.type))


def _carrier(target: Column[Any], value: Value) -> ColumnElement[Any]:
    return literal(0, BigInteger) if isinstance(value, Now | Plus) else target


_CONSTANT = object()
"""Stands for a value that the statement's text says whole."""


def _parameter(value: Value) -> Any:
    match value:
        case None | FirstTime() | Lane():
            return _CONSTANT
        case Now(after):
            return after
        case Plus(amount):
            return amount
        case _:
            return value


def _parameters(values: Mapping[str, Value]) -> dict[str, Any]:
    given = {f"v_{name}": _parameter(value) for name, value in values.items()}
    return {name: value for name, value in given.items() if value is not _CONSTANT}


def _render(
    now: ColumnElement[int],
    target: Column[Any],
    value: Value,
    parameter: str | None = None,
    given: ColumnElement[Any] | None = None,
) -> ColumnElement[Any] | None:
    """`value` as SQL; its variable part is `given`, or a parameter of that name, or written in."""

    def part(amount: Any, type_: Any) -> ColumnElement[Any]:
        if given is not None:
            return given
        return literal(amount, type_) if parameter is None else bindparam(parameter, type_=type_)

    match value:
        case None:
            return None
        case FirstTime():
            return func.coalesce(target, now)
        case Lane():
            return lane_case(target.table)
        case Now(after):
            return now + part(after, BigInteger())
        case Plus(amount):
            return target + part(amount, Integer() if given is None else BigInteger())
        case _:
            return part(value, target.type)


def lane_case(table: Table) -> ColumnElement[int]:
    """`transitions.lane_of`, evaluated by the database on the row's own counts."""
    return case(
        (table.c.recoveries == 0, ORDINARY_LANE),
        (table.c.recoveries < table.c.max_recoveries, SUSPECT_LANE),
        else_=SOLO_LANE,
    )
