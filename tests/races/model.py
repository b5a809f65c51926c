"""A pure model of the tables: dictionaries, changed by the transitions' own tables of values.

What an end means to a tree it works out anew each time, from nothing but the rows: it keeps no count and follows no
event, so it can't make the mistakes of code that does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field

from durable_sync.execution import ExecutionStatus
from durable_sync.storage.records import NewExecution
from durable_sync.storage.statements import Fenced
from durable_sync.transitions import (
    FirstTime,
    Lane,
    Now,
    Plus,
    Transition,
    cancel,
    claim,
    due,
    fail,
    give_up,
    lane_of,
    oversleep,
    recover,
)

Row = dict[str, Any]
"""A row of executions, by column."""

TIMES = {"timer_at", "created_at", "ready_at", "first_started_at", "started_at", "finished_at", "updated_at"}

KEY_TAKEN = "TaskError: a child's key is taken"
WITH_ITS_PARENT = "TaskCancelledError: with its parent"

S = ExecutionStatus
FINISHED = {S.COMPLETED, S.FAILED, S.TIMED_OUT, S.CHILDREN_FAILED, S.FINALIZE_FAILED, S.CANCELLED}


def normal(row: Mapping[str, Any]) -> Row:
    """A stored row as the model has it: rows of one INSERT are a microsecond apart, and errors say more than facts."""
    times = {name: row[name] // 1000 * 1000 for name in TIMES if row[name] is not None}
    return {**row, **times, "status": S(row["status"]), "error": _facts(row["error"])}


def _facts(error: str | None) -> str | None:
    """What matters of the errors that the library makes by itself; others are left as they are."""
    if error is None:
        return None
    told = json.loads(error)
    if told["type"] in {"ChildrenFailedError", "FinalizeFailedError"}:
        assert told["retryable"] is False
        found = re.match(r"task '[a-z]+' execution (\S{36}): ([a-z ]+)", told["message"])
        assert found is not None, told["message"]
        return because(told["type"], found[1], S(found[2].strip().replace(" ", "_")))
    if told["type"] == "TaskError" and "can't have the key" in told["message"]:
        return KEY_TAKEN
    if told["type"] == "TaskCancelledError":
        return WITH_ITS_PARENT
    return error


def because(kind: str, culprit: str, status: ExecutionStatus) -> str:
    """The error of a parent that ends for another's sake."""
    return f"{kind}: {culprit} {status.value}"


def is_finished(row: Row) -> bool:
    """Whether the row is never to change again."""
    return row["status"] in FINISHED


def waits_turn(row: Row) -> bool:
    """A step or a finalize whose turn has not come."""
    return row["status"] is S.READY and row["lane"] is None and row["timer_at"] is None


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


def begun(new: NewExecution, now: int) -> Row:
    """The row that a new execution begins as."""
    lineage = new.lineage
    ready_at = now if new.sleeps or new.waits_turn else now + new.delay
    timer_at = ready_at if ready_at > now else None
    if new.sleeps:
        timer_at = None if new.timeout is None else now + new.timeout
    claimable = not new.sleeps and not new.waits_turn and ready_at == now
    return {
        "id": new.execution_id,
        "task_id": new.task_id,
        "root_id": None if lineage is None else lineage.root_id,
        "parent_id": None if lineage is None else lineage.parent_id,
        "child_index": None if lineage is None else lineage.child_index,
        "plan": None,
        "unfinished_children": 0,
        "input_from": new.input_from,
        "output_from": None,
        "status": S.SLEEPING if new.sleeps else S.READY,
        "queue": new.queue,
        "priority": new.priority,
        "lane": 0 if claimable else None,
        "timer_at": timer_at,
        "key": new.key,
        "active_key": new.key,
        "executor_id": None,
        "claim_token": 0,
        "starts": 0,
        "failures": 0,
        "recoveries": 0,
        "max_recoveries": new.max_recoveries,
        "delay": new.delay,
        "timeout": new.timeout,
        "max_retries": new.max_retries,
        "idle_for": 0,
        "created_at": now,
        "ready_at": ready_at,
        "first_started_at": None,
        "started_at": None,
        "finished_at": None,
        "updated_at": now,
        "progress": None,
        "input": new.input,
        "run_output": None,
        "error": None,
    }


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
    done: set[str] = field(factory=set)
    """Those whose output is a Done."""
    unnamed: list[str] = field(factory=list)
    """Iterations that storage has given birth to, and whose real ids are to be found out."""

    # --- a row by itself --------------------------------------------------------------------------

    def enqueue(self, new: NewExecution, now: int) -> str:
        """Its id, or that of the active execution that has its key."""
        holder = self.holder(new.task_id, new.key)
        if holder is not None:
            return holder
        self.rows[new.execution_id] = begun(new, now)
        return new.execution_id

    def holder(self, task_id: str, key: str | None) -> str | None:
        """The id of the active execution that has the key."""
        for row in self.rows.values():
            if key is not None and not is_finished(row) and (row["task_id"], row["key"]) == (task_id, key):
                return str(row["id"])
        return None

    def claimable(self, candidates: Iterable[str], owner: str) -> list[str]:
        """Those of the candidates that the owner may claim."""
        if self.leases[owner].dead:
            return []
        return [name for name in candidates if self.rows[name]["status"] is S.READY and self.is_offered(name)]

    def is_offered(self, execution_id: str) -> bool:
        """Whether a claim may find it."""
        return self.rows[execution_id]["lane"] is not None

    def claim(self, chosen: Iterable[str], owner: str, now: int) -> None:
        """Claims what may be claimed."""
        for execution_id in chosen:
            self._apply(claim(owner), execution_id, now)

    def promote_due(self, now: int) -> int:
        """How many have come due."""
        waiting = [row["id"] for row in self.rows.values() if holds(due(), row, None) and _is_late(row, now)]
        for execution_id in waiting:
            self._apply(due(), execution_id, now)
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

    # --- what ends executions ---------------------------------------------------------------------

    def record(self, batch: Sequence[Fenced], now: int) -> set[tuple[str, int]]:
        """(id, token) of the outcomes that were written. All are, before any parent hears of one.

        Those whose children have keys come last, so that a key which another outcome frees is free.
        """
        won = set()
        for outcome in sorted(batch, key=lambda outcome: any(birth.key for birth in outcome.births)):
            if holds(outcome.transition, self.rows[outcome.execution_id], outcome.claim_token):
                won.add(outcome.identity)
                self._write(outcome, now)
        self._settle(now)
        return won

    def _write(self, outcome: Fenced, now: int) -> None:
        if any(self.holder(birth.task_id, birth.key) for birth in outcome.births):
            outcome = evolve(outcome, transition=fail(KEY_TAKEN), births=(), is_done=False)
        self._apply(outcome.transition, outcome.execution_id, now)
        for birth in outcome.births:
            self.rows[birth.execution_id] = begun(birth, now)
        if outcome.is_done:
            self.done.add(outcome.execution_id)

    def cancel(self, execution_id: str, error: str, now: int) -> bool:
        """Whether this ended it."""
        return self._end([execution_id], cancel(error), now) == [execution_id]

    def wake(self, task_id: str, key: str, transition: Transition, now: int) -> bool:
        """Whether somebody slept under the key."""
        holder = self.holder(task_id, key)
        return holder is not None and self._end([holder], transition, now) == [holder]

    def end_oversleepers(self, error: str, now: int) -> None:
        """Ends sleepers whose time has come."""
        self._end([row["id"] for row in self.rows.values() if _is_late(row, now)], oversleep(error), now)

    def _end(self, names: Iterable[str], transition: Transition, now: int) -> list[str]:
        ended = [name for name in names if holds(transition, self.rows[name], None)]
        for name in ended:
            self._apply(transition, name, now)
        for name in ended:
            self._cancel_below(name, now)
        self._settle(now)
        return ended

    def reap(self, gave_up: str, now: int) -> tuple[set[str], set[str], set[str]]:
        """(who was marked dead, what was recovered, what was given up)."""
        dead = {owner for owner, lease in self.leases.items() if not lease.dead and lease.expires_at < now}
        for owner in dead:
            self.leases[owner].dead = True
        recovered, given_up = set(), set()
        for execution_id, row in self.rows.items():
            owner = row["executor_id"]
            if row["status"] is not S.RUNNING or (owner in self.leases and not self.leases[owner].dead):
                continue
            if row["recoveries"] >= row["max_recoveries"]:
                given_up.add(execution_id)
                self._apply(give_up(gave_up), execution_id, now)
            else:
                recovered.add(execution_id)
                self._apply(recover(lane_of(row["recoveries"] + 1, row["max_recoveries"])), execution_id, now)
        self._settle(now)
        return dead, recovered, given_up

    def _apply(self, transition: Transition, execution_id: str, now: int) -> None:
        self.rows[execution_id] = applied(transition, self.rows[execution_id], now)

    # --- trees ------------------------------------------------------------------------------------

    def children(self, parent_id: str) -> list[Row]:
        """In order, without the finalize."""
        found = [row for row in self.rows.values() if row["parent_id"] == parent_id and row["child_index"] is not None]
        return sorted(found, key=lambda row: row["child_index"])

    def depth(self, execution_id: str) -> int:
        """1 for a root."""
        parent_id = self.rows[execution_id]["parent_id"]
        return 1 if parent_id is None else 1 + self.depth(parent_id)

    def _settle(self, now: int) -> None:
        """Round by round, until nobody who waits has anything to learn: all learn of what was there before the round.

        Whoever fails takes all below with it, at the end of the round.
        """
        while learnt := [
            (row, change)
            for row in self.rows.values()
            if row["status"] in {S.WAITING_FOR_CHILDREN, S.WAITING_FOR_FINALIZE}
            and (change := self._learns(row, json.loads(row["plan"]), now)) is not None
        ]:
            for row, change in learnt:
                self.rows[row["id"]] = {**row, **change, "updated_at": now}
            for row, _change in learnt:
                self._let_follow(self.rows[row["id"]], now)
            for row, _change in learnt:
                if is_finished(self.rows[row["id"]]):
                    self._cancel_below(row["id"], now)

    def _learns(self, parent: Row, plan: Mapping[str, Any], now: int) -> Row | None:
        """What changes in a row that waits; None if nothing does."""
        if plan["finalize"] is not None and is_finished(finalize := self.rows[plan["finalize"]]):
            return self._ends_as(parent, finalize, now)
        children = self.children(parent["id"])
        active = [row for row in children if not is_finished(row)]
        spoilt = [row for row in children if is_finished(row) and row["status"] is not S.COMPLETED]
        count = {"unfinished_children": len(active)}
        if parent["status"] is S.WAITING_FOR_FINALIZE or len(active) == parent["unfinished_children"]:
            return None
        if spoilt and (plan["fail_fast"] or plan["kind"] != "children"):
            error = self._blames("ChildrenFailedError", spoilt[0])
            return {**count, **_ended(S.CHILDREN_FAILED, now), "error": error}
        if plan["kind"] == "loop":
            return self._iterates(children, plan, now)
        if active:
            return count
        if plan["kind"] == "sequence":
            return {**count, **self._ends_as(parent, children[-1], now)}
        if plan["finalize"] is not None:
            return {**count, "status": S.WAITING_FOR_FINALIZE}
        return {**count, **_ended(S.COMPLETED, now)}

    def _ends_as(self, parent: Row, other: Row, now: int) -> Row:
        """As its finalize has ended, or as the last of its steps has completed."""
        if other["status"] is not S.COMPLETED:
            return {**_ended(S.FINALIZE_FAILED, now), "error": self._blames("FinalizeFailedError", other)}
        if other["id"] in self.done:
            self.done.add(parent["id"])
        return {**_ended(S.COMPLETED, now), "output_from": self._source(other)}

    def _iterates(self, iterations: Sequence[Row], plan: Mapping[str, Any], now: int) -> Row:
        last = iterations[-1]
        if last["id"] in self.done:
            return {**_ended(S.COMPLETED, now), "unfinished_children": 0, "output_from": self._source(last)}
        if len(iterations) >= plan["max_iterations"]:
            return {**_ended(S.COMPLETED, now), "unfinished_children": 0}
        return {"unfinished_children": 1}

    def _let_follow(self, parent: Row, now: int) -> None:
        """What waits below a parent that has just learnt something begins, if it is time."""
        plan = json.loads(parent["plan"])
        if parent["status"] is S.WAITING_FOR_FINALIZE:
            self._take_turn(plan["finalize"], now)
        elif parent["status"] is S.WAITING_FOR_CHILDREN and plan["kind"] == "sequence":
            self._take_turn(next(row["id"] for row in self.children(parent["id"]) if not is_finished(row)), now)
        elif parent["status"] is S.WAITING_FOR_CHILDREN and plan["kind"] == "loop":
            self._repeat(self.children(parent["id"])[-1], plan["delay"], now)

    def _take_turn(self, execution_id: str, now: int) -> None:
        row = self.rows[execution_id]
        assert waits_turn(row)
        ready_at = now + row["delay"]
        begins = {"lane": None, "timer_at": ready_at} if row["delay"] else {"lane": 0, "timer_at": None}
        self.rows[execution_id] = {**row, **begins, "ready_at": ready_at, "updated_at": now}

    def _repeat(self, last: Row, pause: int, now: int) -> None:
        name = f"{last['parent_id']}/{last['child_index'] + 1}"
        new = NewExecution(
            execution_id=name,
            task_id=last["task_id"],
            input=last["input"],
            queue=last["queue"],
            priority=last["priority"],
            max_recoveries=last["max_recoveries"],
            delay=last["delay"] + pause,
            timeout=last["timeout"],
            max_retries=last["max_retries"],
            input_from=last["input_from"],
        )
        family = {name: last[name] for name in ("root_id", "parent_id", "delay")}
        self.rows[name] = {**begun(new, now), **family, "child_index": last["child_index"] + 1}
        self.unnamed.append(name)

    def name(self, unnamed: str, execution_id: str) -> None:
        """Gives an iteration the id that storage has given it."""
        self.unnamed.remove(unnamed)
        self.rows[execution_id] = {**self.rows.pop(unnamed), "id": execution_id}

    def below(self, execution_id: str) -> Iterator[Row]:
        """All descendants."""
        for row in list(self.rows.values()):
            if row["parent_id"] == execution_id:
                yield row
                yield from self.below(row["id"])

    def _cancel_below(self, execution_id: str, now: int) -> None:
        for row in list(self.below(execution_id)):
            if not is_finished(row):
                ended = {**_ended(S.CANCELLED, now), "error": WITH_ITS_PARENT, "updated_at": now}
                self.rows[row["id"]] = {**row, **ended}

    def _source(self, row: Row) -> str:
        """Who holds the output of a completed row; a loop puts its own together."""
        if row["output_from"] is None or json.loads(row["plan"])["kind"] == "loop":
            return str(row["id"])
        return self._source(self.rows[row["output_from"]])

    def _blames(self, kind: str, culprit: Row) -> str:
        if culprit["status"] in {S.CHILDREN_FAILED, S.FINALIZE_FAILED}:
            return f"{kind}: {culprit['error'].partition(': ')[2]}"
        return because(kind, culprit["id"], culprit["status"])


def _is_late(row: Row, now: int) -> bool:
    return row["timer_at"] is not None and row["timer_at"] <= now


def _ended(status: ExecutionStatus, now: int) -> Row:
    return {"status": status, "lane": None, "timer_at": None, "active_key": None, "finished_at": now}
