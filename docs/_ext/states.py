"""Draws the state machine from the code's own table: `python3 docs/_ext/states.py`.

It writes `docs/states.svg` and the tables in `docs/states.md`; a test fails when they are out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(DOCS.parent))

from durable_sync import transitions
from durable_sync.execution import ExecutionStatus
from durable_sync.transitions import ALL_MOVES, Transition

ENTRY = ExecutionStatus.READY
"""Where `enqueue` puts an execution."""

WHO = {
    "claim": "the claimer of an executor that serves the task and the queue",
    "due": "the claimer of any executor",
    "complete": "the owner: the worker thread judges, the recorder writes",
    "retry": "the owner",
    "fail": "the owner",
    "time_out": "the owner",
    "cancel_self": "the owner",
    "cancel": "whoever calls `TaskHandle.cancel`, in any process",
    "release": "the owner, when it shuts down or could not renew its lease in time",
    "release_unstarted": "the owner, for what it has claimed and no thread has begun",
    "recover": "the reaper of any living executor",
    "give_up": "the reaper of any living executor",
}
CONSTRUCTORS = {"release_unstarted": "release"}
"""The constructor of a move, where it has another name."""


def reachable(moves: Sequence[Transition] = ALL_MOVES) -> set[ExecutionStatus]:
    """The statuses that an enqueued execution can come to."""
    found = {ENTRY}
    while more := {move.target for move in moves if move.sources & found} - found:
        found |= more
    return found


# The drawing.


class Box(NamedTuple):
    """Where a status is drawn, by its middle."""

    x: float
    y: float


WIDTH, HEIGHT = 860, 470
BOX_WIDTH, BOX_HEIGHT = 132, 46
PLACES = {
    ExecutionStatus.READY: Box(176, 226),
    ExecutionStatus.RUNNING: Box(456, 226),
    ExecutionStatus.COMPLETED: Box(756, 92),
    ExecutionStatus.FAILED: Box(756, 186),
    ExecutionStatus.TIMED_OUT: Box(756, 280),
    ExecutionStatus.CANCELLED: Box(756, 392),
}

STYLE = """
  .paper { fill: #ffffff; stroke: #d7dce2; }
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2933; }
  .name { font-size: 15px; font-weight: 600; text-anchor: middle; dominant-baseline: central; }
  .move { font-size: 13px; text-anchor: middle; dominant-baseline: central;
          stroke: #ffffff; stroke-width: 5px; paint-order: stroke; stroke-linejoin: round; }
  .open { font-style: italic; }
  .note { font-size: 12px; fill: #52606d; dominant-baseline: central; }
  .active { fill: #e3f0fd; stroke: #2b6cb0; stroke-width: 1.5; }
  .finished { fill: #edf0f3; stroke: #52606d; stroke-width: 1.5; }
  .edge { fill: none; stroke: #7b8794; stroke-width: 1.5; marker-end: url(#head); }
  #head path { fill: #7b8794; }
"""

ARROWHEAD = """<defs>
  <marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">
    <path d="M 0 0 L 10 5 L 0 10 z"/>
  </marker>
</defs>"""


class Edge(NamedTuple):
    """All moves from one status to another: one arrow."""

    source: ExecutionStatus
    target: ExecutionStatus
    moves: tuple[Transition, ...]


def edges() -> list[Edge]:
    """The arrows of the drawing, in the table's order."""
    grouped: dict[tuple[ExecutionStatus, ExecutionStatus], list[Transition]] = {}
    drawn = reachable()
    for move in ALL_MOVES:
        for source in sorted(move.sources & drawn):
            grouped.setdefault((source, move.target), []).append(move)
    return [Edge(source, target, tuple(moves)) for (source, target), moves in grouped.items()]


def svg() -> str:
    """The drawing, as the text of an SVG file."""
    lost = reachable() - PLACES.keys()
    if lost:
        raise SystemExit(f"docs/_ext/states.py: give {', '.join(sorted(lost))} a place in PLACES")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">The statuses of an execution and the moves between them</title>',
        f"<style>{STYLE}</style>",
        ARROWHEAD,
        f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
        *_entry(),
    ]
    labels: list[str] = []
    for edge in edges():
        path, middle = _route(edge)
        parts.append(f'<path class="edge" d="{path}"/>')
        labels += _label(middle, edge.moves)
    parts += labels
    for status in sorted(reachable()):
        parts += _box(status)
    parts += [*_legend(), "</svg>", ""]
    return "\n".join(parts)


def _entry() -> Iterator[str]:
    box = PLACES[ENTRY]
    left = box.x - BOX_WIDTH / 2
    yield f'<circle cx="26" cy="{box.y}" r="6" fill="#52606d"/>'
    yield f'<path class="edge" d="M 32 {box.y} L {left} {box.y}"/>'
    yield f'<text class="move open" x="{(32 + left) / 2}" y="{box.y - 16}">enqueue</text>'


def _route(edge: Edge) -> tuple[str, Box]:
    """The path of an arrow, and the middle of its label."""
    a, b = PLACES[edge.source], PLACES[edge.target]
    wide, high = BOX_WIDTH / 2, BOX_HEIGHT / 2
    if edge.source is edge.target:
        top = a.y - high
        path = f"M {a.x - 28} {top} C {a.x - 52} {top - 74}, {a.x + 52} {top - 74}, {a.x + 28} {top}"
        return path, Box(a.x, top - 56)
    if edge.target.is_finished and edge.source is ENTRY:
        # Below everything else, because it passes under the running status.
        path = f"M {a.x} {a.y + high} C {a.x} {b.y + 24}, {a.x + 120} {b.y + 10}, {b.x - wide} {b.y + 10}"
        return path, Box((a.x + b.x) / 2 - 60, b.y + 8)
    if edge.target.is_finished:
        start, end = Box(a.x + wide, a.y + _spread(b.y - a.y)), Box(b.x - wide, b.y - (9 if b.y > a.y + 100 else 0))
        reach = (end.x - start.x) / 2
        path = f"M {start.x} {start.y} C {start.x + reach} {start.y}, {end.x - reach} {end.y}, {end.x} {end.y}"
        return path, Box(start.x + reach, (start.y + end.y) / 2)
    forth = a.x < b.x
    side = -1 if forth else 1
    x1, x2 = (a.x + wide, b.x - wide) if forth else (a.x - wide, b.x + wide)
    y, bend = a.y + side * 11, 24 if forth else 36
    path = f"M {x1} {y} Q {(x1 + x2) / 2} {y + side * bend} {x2} {y}"
    return path, Box((x1 + x2) / 2, y + side * bend / 2 + (0 if forth else (len(edge.moves) - 1) * 8))


def _spread(distance: float) -> float:
    """Arrows that leave a box for others above and below leave it in that order."""
    return max(-15.0, min(15.0, distance / 9))


def _label(middle: Box, moves: Sequence[Transition]) -> Iterator[str]:
    top = middle.y - (len(moves) - 1) * 8
    for row, move in enumerate(moves):
        kind = "move" if move.fenced else "move open"
        yield f'<text class="{kind}" x="{middle.x:g}" y="{top + row * 16:g}">{escape(move.name)}</text>'


def _box(status: ExecutionStatus) -> Iterator[str]:
    place = PLACES[status]
    kind = "finished" if status.is_finished else "active"
    yield (
        f'<rect class="{kind}" x="{place.x - BOX_WIDTH / 2}" y="{place.y - BOX_HEIGHT / 2}" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="{BOX_HEIGHT / 2 if status.is_finished else 8}"/>'
    )
    yield f'<text class="name" x="{place.x}" y="{place.y}">{escape(status.value)}</text>'


def _legend() -> Iterator[str]:
    rows = (
        ("active", 5, "active"),
        ("finished", 9, "finished: never left"),
    )
    for row, (kind, radius, text) in enumerate(rows):
        y = 30 + row * 26
        yield f'<rect class="{kind}" x="24" y="{y - 9}" width="30" height="18" rx="{radius}"/>'
        yield f'<text class="note" x="64" y="{y}">{text}</text>'
    yield '<text class="note" x="24" y="82">upright: fenced by the claim token</text>'
    yield '<text class="note open" x="24" y="104">italic: not fenced</text>'


# The tables.


def moves_table() -> str:
    """A Markdown table of every move."""
    drawn = reachable()
    rows = []
    for move in ALL_MOVES:
        sources = ", ".join(f"`{status}`" for status in _in_order(move.sources & drawn))
        if move.sources - drawn:
            sources += " (any active status)"
        rows.append(
            (
                f"`{move.name}`",
                sources,
                f"`{move.target}`",
                "yes" if move.fenced else "no",
                _meaning(move),
                WHO[move.name],
            )
        )
    return _table(("move", "from", "to", "fenced", "when", "who does it"), rows)


def statuses_table() -> str:
    """A Markdown table of the statuses that there are moves to."""
    documented = _documented()
    rows = [
        (f"`{status}`", "finished" if status.is_finished else "active", documented[status])
        for status in _in_order(reachable())
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
    import ast
    import inspect

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
    """Write both files."""
    (DOCS / "states.svg").write_text(svg(), encoding="utf-8")
    path = DOCS / "states.md"
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
