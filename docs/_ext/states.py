"""Draws the state machine from the code's own table: `python3 docs/_ext/states.py`.

It writes `docs/states.svg`, a drawing for each kind of task in `docs/tasks`, and the tables in `docs/states.md`. A
test fails when one of them is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent
sys.path.insert(0, str(HERE))

from drawing import svg
from machines import KINDS, WHOLE, Machine

from durable_sync import transitions
from durable_sync.execution import ExecutionStatus
from durable_sync.transitions import ALL_MOVES, Transition

OWNER = "the owner"
"""Who ends an attempt."""
ENDER = "whoever writes the end of the child or the finalize"
"""It tells the parent in the same transaction."""

WHO = {
    "claim": "the claimer of an executor that serves the task and the queue",
    "due": "the claimer of any executor",
    "take_turn": ENDER,
    "complete": "the owner: the worker thread judges, the recorder writes",
    "spawn": OWNER,
    "spawn_finalize": OWNER,
    "count_down": ENDER,
    "begin_finalize": ENDER,
    "complete_children": ENDER,
    "fail_children": ENDER,
    "complete_finalize": ENDER,
    "fail_finalize": ENDER,
    "wake": "whoever calls `DurableExecutor.wake`, in any process",
    "wake_failed": "whoever calls `DurableExecutor.wake`, in any process",
    "oversleep": "the claimer of any executor",
    "retry": OWNER,
    "fail": OWNER,
    "time_out": OWNER,
    "cancel_self": OWNER,
    "cancel": "whoever calls `TaskHandle.cancel`, in any process; of a descendant, whoever ends an ancestor",
    "release": "the owner, when it shuts down or could not renew its lease in time",
    "release_unstarted": "the owner, for what it has claimed and no thread has begun",
    "recover": "the reaper of any living executor",
    "give_up": "the reaper of any living executor",
}
CONSTRUCTORS = {"release_unstarted": "release"}
"""The constructor of a move, where it has another name."""


# The tables.


def moves_table() -> str:
    """A Markdown table of every move."""
    drawn = WHOLE.reachable()
    rows = []
    for move in ALL_MOVES:
        sources = ", ".join(f"`{status}`" for status in _in_order(move.sources & drawn))
        rows.append(
            (
                f"`{move.name}`",
                sources,
                f"`{move.target}`",
                "yes" if move.fenced else "no",
                _kinds_with(move),
                _meaning(move),
                WHO[move.name],
            )
        )
    return _table(("move", "from", "to", "fenced", "kinds", "when", "who does it"), rows)


def _kinds_with(move: Transition) -> str:
    having = [name for name, machine in KINDS.values() if move in machine.moves]
    return "all" if len(having) == len(KINDS) else ", ".join(having)


def statuses_table() -> str:
    """A Markdown table of the statuses that there are moves to."""
    documented = _documented()
    rows = [
        (f"`{status}`", "finished" if status.is_finished else "active", documented[status])
        for status in _in_order(WHOLE.reachable())
    ]
    return _table(("status", "kind", "meaning"), rows)


def _in_order(statuses: Iterable[ExecutionStatus]) -> list[ExecutionStatus]:
    return [status for status in ExecutionStatus if status in statuses]


def _meaning(move: Transition) -> str:
    """The constructor's docstring, without the statuses that it begins with."""
    docstring: str = getattr(transitions, CONSTRUCTORS.get(move.name, move.name)).__doc__
    text = re.sub(r"^.*? -> \w+[:,] ", "", " ".join(docstring.split()))
    return text[:1].upper() + text[1:]


def _documented() -> dict[ExecutionStatus, str]:
    """The docstring under each member of ExecutionStatus."""
    body = ast.parse(inspect.getsource(ExecutionStatus)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[ExecutionStatus, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            name, docstring = statement.targets[0], following.value
            assert isinstance(name, ast.Name)
            assert isinstance(docstring, ast.Constant)
            texts[ExecutionStatus[name.id]] = " ".join(str(docstring.value).split())
    return texts


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# The files.


def drawings() -> dict[str, Machine]:
    """What is drawn, by the drawing's path in docs/."""
    return {"states.svg": WHOLE, **{f"tasks/{name}.svg": machine for name, machine in KINDS.values()}}


def page(text: str) -> str:
    """The page, with the tables between its marks made anew."""
    for mark, table in {"statuses": statuses_table(), "moves": moves_table()}.items():
        start, end = f"<!-- {mark}: made by docs/_ext/states.py -->", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"docs/states.md: the marks of {mark} are gone")
        text = f"{before}{start}\n\n{table}\n\n{end}{after}"
    return text


def main() -> None:
    """Write the files."""
    for name, machine in drawings().items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(svg(machine), encoding="utf-8")
    path = DOCS / "states.md"
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
