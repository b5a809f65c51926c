"""A pure model of the tables: dictionaries, to which transitions are applied by their own table of values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.records import NewExecution
from durable_sync.transitions import (
    FirstTime,
    Lane,
    Now,
    Plus,
    Transition,
    cancel,
    claim,
    due,
    give_up,
    lane_of,
    recover,
)

Row = dict[str, Any]
"""A row of executions, by column."""


def applied(transition: Transition, row: Mapping[str, Any], now: int) -> Row:
    """The row after the transition."""
    values = {name: _evaluated(value, name, row, now) for name, value in transition.values.items()}
    return {**row, **values, "status": transition.target}


def _evaluated(value: Any, name: str, row: Mapping[str, Any], now: int) -> Any:
    match value:
        case Now(after):
            return now + after
        case Plus(amount):
            return row[name] + amount
        case FirstTime():
            return now if row[name] is None else row[name]
        case Lane():
            return lane_of(row["recoveries"], row["max_recoveries"])
        case _:
            return value


def holds(transition: Transition, row: Mapping[str, Any], token: int | None) -> bool:
    """Whether the guard lets the transition through; `token` is that of the claim it speaks for."""
    return row["status"] in transition.sources and (
        not transition.fenced or token is None or row["claim_token"] == token
    )


@define
class Lease:
    """Of one incarnation."""

    expires_at: int
    dead: bool = False


@define
class Model:
    """The same verbs as Storage's."""

    rows: dict[str, Row] = field(factory=dict)
    leases: dict[str, Lease] = field(factory=dict)

    def enqueue(self, new: NewExecution, now: int) -> str:
        """Its id, or that of the active execution that has its key."""
        for row in self.rows.values():
            if new.key is not None and row["active_key"] == new.key and row["task_id"] == new.task_id:
                return str(row["id"])
        waits = new.delay > 0
        self.rows[new.execution_id] = {
            "id": new.execution_id,
            "task_id": new.task_id,
            "status": ExecutionStatus.READY,
            "lane": None if waits else 0,
            "timer_at": now + new.delay if waits else None,
            "active_key": new.key,
            "executor_id": None,
            "claim_token": 0,
            "starts": 0,
            "failures": 0,
            "recoveries": 0,
            "max_recoveries": new.max_recoveries,
            "idle_for": 0,
            "created_at": now,
            "ready_at": now + new.delay,
            "first_started_at": None,
            "started_at": None,
            "finished_at": None,
            "updated_at": now,
            "run_output": None,
            "error": None,
        }
        return new.execution_id

    def claim(self, candidates: Iterable[str], owner: str, now: int) -> dict[str, int]:
        """The tokens under which they were claimed, by id."""
        won = {}
        for execution_id in candidates:
            row = self.rows[execution_id]
            if self.leases[owner].dead:
                continue
            if holds(claim(owner), row, None) and row["lane"] is not None:
                self.rows[execution_id] = applied(claim(owner), row, now)
                won[execution_id] = self.rows[execution_id]["claim_token"]
        return won

    def record(self, execution_id: str, token: int, transition: Transition, now: int) -> bool:
        """Whether the outcome was written."""
        row = self.rows[execution_id]
        if not holds(transition, row, token):
            return False
        self.rows[execution_id] = applied(transition, row, now)
        return True

    def cancel(self, execution_id: str, error: str, now: int) -> bool:
        """Whether this ended it."""
        row = self.rows[execution_id]
        if not holds(cancel(error), row, None):
            return False
        self.rows[execution_id] = applied(cancel(error), row, now)
        return True

    def promote_due(self, now: int) -> int:
        """How many have come due."""
        waiting = [
            row
            for row in self.rows.values()
            if holds(due(), row, None) and row["timer_at"] is not None and row["timer_at"] <= now
        ]
        for row in waiting:
            self.rows[row["id"]] = applied(due(), row, now)
        return len(waiting)

    def register(self, owner: str, lease: int, now: int) -> None:
        """Enters an incarnation; one that is there is left alone."""
        self.leases.setdefault(owner, Lease(now + lease))

    def renew(self, owner: str, lease: int, now: int) -> bool:
        """Whether it is alive."""
        held = self.leases[owner]
        if not held.dead:
            held.expires_at = now + lease
        return not held.dead

    def reap(self, gave_up: str, now: int) -> tuple[set[str], set[str], set[str]]:
        """(who was marked dead, what was recovered, what was given up)."""
        dead = {owner for owner, lease in self.leases.items() if not lease.dead and lease.expires_at < now}
        for owner in dead:
            self.leases[owner].dead = True
        recovered, given_up = set(), set()
        for execution_id, row in self.rows.items():
            owner = row["executor_id"]
            if row["status"] is not ExecutionStatus.RUNNING or (owner in self.leases and not self.leases[owner].dead):
                continue
            if row["recoveries"] >= row["max_recoveries"]:
                given_up.add(execution_id)
                self.rows[execution_id] = applied(give_up(gave_up), row, now)
            else:
                recovered.add(execution_id)
                lane = lane_of(row["recoveries"] + 1, row["max_recoveries"])
                self.rows[execution_id] = applied(recover(lane), row, now)
        return dead, recovered, given_up
