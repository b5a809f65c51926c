"""Draws a machine as SVG.

Active statuses stand one below the other. Their ways to `cancelled`, a bar, go to the left; to the other ends to the
right, with `completed` as a bar behind them. Every arrow leaves at a place of its own, so labels have room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple, TypeAlias

from machines import Edge, Machine

from durable_sync.execution import ExecutionStatus
from durable_sync.transitions import Transition

S = ExecutionStatus
WIDTH = 896
LEFT, RIGHT = 268, 464
"""The edges of the active statuses."""
LANE = 148
"""Where an arrow passes by a status on its left."""
MIDDLE = (LEFT + RIGHT) / 2
BAR = 100

HEIGHTS = {S.SLEEPING: 76, S.READY: 76, S.RUNNING: 76, S.WAITING_FOR_CHILDREN: 76, S.WAITING_FOR_FINALIZE: 76}
"""Of the active statuses, from top to bottom; more where more than two arrows leave for the right."""
STEP = 30
"""Between arrows that leave a status for the right."""
PAUSES = {S.READY: 70, S.RUNNING: 98, S.WAITING_FOR_CHILDREN: 54, S.WAITING_FOR_FINALIZE: 54}
"""Above each of them."""
FINISHED_HEIGHT = 38
BESIDE = {S.CHILDREN_FAILED: S.WAITING_FOR_CHILDREN, S.FINALIZE_FAILED: S.WAITING_FOR_FINALIZE}
"""Ends that only one status has stand beside it."""
SPANS = {
    S.FAILED: (534, 620),
    S.TIMED_OUT: (640, 744),
    S.CHILDREN_FAILED: (596, 744),
    S.FINALIZE_FAILED: (596, 744),
    S.COMPLETED: (776, 776 + BAR),
    S.CANCELLED: (20, 20 + BAR),
}
"""From where to where the finished statuses reach."""
PORTS = {
    S.SLEEPING: (S.COMPLETED, S.TIMED_OUT, S.FAILED),
    S.RUNNING: (S.FAILED, S.TIMED_OUT, S.COMPLETED),
    S.WAITING_FOR_CHILDREN: (S.COMPLETED, S.CHILDREN_FAILED, S.FINALIZE_FAILED),
    S.WAITING_FOR_FINALIZE: (S.FINALIZE_FAILED, S.COMPLETED),
}
"""The ends to the right of each status, in the order in which their arrows leave: so that none crosses another."""

STYLE = """
  .paper { fill: #ffffff; stroke: #d7dce2; }
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2933;
         dominant-baseline: central; }
  .name { font-size: 15px; font-weight: 600; text-anchor: middle; }
  .label { font-size: 13px; stroke: #ffffff; stroke-width: 5px; paint-order: stroke; stroke-linejoin: round; }
  .open { font-style: italic; }
  .note { font-size: 12px; fill: #52606d; }
  .active { fill: #e3f0fd; stroke: #2b6cb0; stroke-width: 1.5; }
  .finished { fill: #edf0f3; stroke: #52606d; stroke-width: 1.5; }
  .edge { fill: none; stroke: #7b8794; stroke-width: 1.5; marker-end: url(#head); }
  .entry { fill: #52606d; }
  #head path { fill: #7b8794; }
"""

ARROWHEAD = """<defs>
  <marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">
    <path d="M 0 0 L 10 5 L 0 10 z"/>
  </marker>
</defs>"""


class Box(NamedTuple):
    """Where a status is drawn: its edges."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def x(self) -> float:
        """Its middle."""
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        """Its middle."""
        return (self.top + self.bottom) / 2


class Arrow(NamedTuple):
    """A path, and where its label begins, ends or has its middle."""

    path: str
    x: float
    y: float
    anchor: str = "middle"
    stacked: bool = False


Boxes: TypeAlias = Mapping[ExecutionStatus, Box]
Ports: TypeAlias = Mapping[ExecutionStatus, list[ExecutionStatus]]
"""The ends to the right of each active status, in the order in which their arrows leave."""


def svg(machine: Machine) -> str:
    """The drawing, as the text of an SVG file."""
    lost = machine.reachable() - HEIGHTS.keys() - SPANS.keys()
    if lost:
        raise SystemExit(f"docs/_ext/drawing.py: give {', '.join(sorted(lost))} a place")
    ports = _ports(machine)
    boxes = _boxes(machine, ports)
    height = max(box.bottom for box in boxes.values()) + 64
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(machine.title)}</title>',
        f"<style>{STYLE}</style>",
        ARROWHEAD,
        f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="10"/>',
    ]
    for entry in machine.entries:
        parts += _entry(boxes[entry])
    arrows = [(edge, _arrow(edge, boxes, ports)) for edge in machine.edges()]
    parts += [f'<path class="edge" d="{arrow.path}"/>' for _, arrow in arrows]
    for edge, arrow in arrows:
        parts += _label(arrow, edge.moves)
    for status in sorted(boxes):
        parts += _box(status, boxes[status])
    return "\n".join([*parts, *_legend(height - 28), "</svg>", ""])


# Places.


def _ports(machine: Machine) -> Ports:
    """The ends to the right that each status really has."""
    ports: dict[ExecutionStatus, list[ExecutionStatus]] = {status: [] for status in HEIGHTS}
    for edge in machine.edges():
        if edge.target.is_finished and edge.target is not S.CANCELLED:
            if edge.target not in PORTS.get(edge.source, ()):
                raise SystemExit(f"docs/_ext/drawing.py: give {edge.source} -> {edge.target} a place in PORTS")
            ports[edge.source].append(edge.target)
    return {status: sorted(ends, key=PORTS[status].index) if ends else [] for status, ends in ports.items()}


def _boxes(machine: Machine, ports: Ports) -> dict[ExecutionStatus, Box]:
    drawn = machine.reachable()
    boxes: dict[ExecutionStatus, Box] = {}
    bottom = 0.0
    for status, height in HEIGHTS.items():
        if status in drawn:
            top = bottom + (PAUSES[status] if boxes else 72)
            bottom = top + max(height, 8 + STEP * len(ports[status]))
            boxes[status] = Box(LEFT, top, RIGHT, bottom)
    for status in (S.FAILED, S.TIMED_OUT, S.CHILDREN_FAILED, S.FINALIZE_FAILED):
        if status in drawn:
            left, right = SPANS[status]
            y = _height_of(status, boxes, ports)
            boxes[status] = Box(left, y - FINISHED_HEIGHT / 2, right, y + FINISHED_HEIGHT / 2)
    for bar in {S.COMPLETED, S.CANCELLED} & drawn:
        ends = [_leaves_at(edge.source, bar, boxes, ports) for edge in machine.edges() if edge.target is bar]
        left, right = SPANS[bar]
        boxes[bar] = Box(left, min(ends) - 32, right, max(ends) + 32)
    return boxes


def _height_of(status: ExecutionStatus, boxes: Boxes, ports: Ports) -> float:
    if status in BESIDE:
        return _leaves_at(BESIDE[status], status, boxes, ports)
    # Beside the ready one, so that both the running and the sleeping one, below and above, come to it.
    return boxes[S.READY].y if S.READY in boxes else boxes[S.SLEEPING].bottom + 52


def _leaves_at(source: ExecutionStatus, target: ExecutionStatus, boxes: Boxes, ports: Ports) -> float:
    """How far down an arrow leaves a status for its left or its right."""
    box = boxes[source]
    if target is S.CANCELLED:
        return box.top + 28 if source is S.RUNNING else box.bottom - 16
    ends = ports[source]
    return box.y + (ends.index(target) - (len(ends) - 1) / 2) * STEP


# Arrows.


def _arrow(edge: Edge, boxes: Boxes, ports: Ports) -> Arrow:
    a, b = boxes[edge.source], boxes[edge.target]
    if edge.source is edge.target:
        return _loop(a)
    if not edge.target.is_finished:
        return _among_active(edge, boxes)
    y = _leaves_at(edge.source, edge.target, boxes, ports)
    if edge.target is S.CANCELLED:
        return Arrow(f"M {a.left} {y:g} L {b.right} {y:g}", (a.left + b.right) / 2, y - 12)
    if b.top < y < b.bottom:
        return Arrow(f"M {a.right} {y:g} L {b.left} {y:g}", a.right + 12, y - 12, "start")
    # Round a corner, up or down.
    up = b.y < y
    end, bend = (b.bottom, -10) if up else (b.top, 10)
    path = f"M {a.right} {y:g} L {b.x - 10} {y:g} Q {b.x} {y:g} {b.x} {y + bend:g} L {b.x} {end:g}"
    return Arrow(path, a.right + 12, y - 12, "start")


def _among_active(edge: Edge, boxes: Boxes) -> Arrow:
    a, b = boxes[edge.source], boxes[edge.target]
    if a.top > b.top:
        x = MIDDLE + 8
        return Arrow(f"M {x} {a.top} L {x} {b.bottom}", x + 12, (a.top + b.bottom) / 2, "start", stacked=True)
    if any(a.bottom < box.top and box.bottom < b.top and box.left == LEFT for box in boxes.values()):
        y1, y2 = a.bottom - 16, b.top + 16
        path = (
            f"M {a.left} {y1:g} L {LANE + 10} {y1:g} Q {LANE} {y1:g} {LANE} {y1 + 10:g} "
            f"L {LANE} {y2 - 10:g} Q {LANE} {y2:g} {LANE + 10} {y2:g} L {b.left} {y2:g}"
        )
        return Arrow(path, (LANE + a.left) / 2, y1 - 12)
    returns = edge.target is S.RUNNING
    x = MIDDLE - 24 if returns else MIDDLE
    label = (x - 12, "end") if returns else (x + 12, "start")
    return Arrow(f"M {x} {a.bottom} L {x} {b.top}", label[0], (a.bottom + b.top) / 2, label[1])


def _loop(box: Box) -> Arrow:
    y = box.top + 20
    path = f"M {box.left} {y - 9:g} C {box.left - 34} {y - 15:g}, {box.left - 34} {y + 15:g}, {box.left} {y + 9:g}"
    return Arrow(path, box.left - 34, y, "end")


def _entry(box: Box) -> Iterator[str]:
    dot = box.top - 44
    yield f'<circle class="entry" cx="{box.x}" cy="{dot:g}" r="6"/>'
    yield f'<path class="edge" d="M {box.x} {dot + 6:g} L {box.x} {box.top}"/>'
    yield f'<text class="label open" x="{box.x + 12}" y="{dot + 20:g}">enqueue</text>'


# Texts.


def _label(arrow: Arrow, moves: Sequence[Transition]) -> Iterator[str]:
    lines = [[move] for move in moves] if arrow.stacked else [list(moves)]
    top = arrow.y - (len(lines) - 1) * 8.5
    for row, line in enumerate(lines):
        names = ", ".join(f'<tspan class="{_class(move)}">{escape(move.name)}</tspan>' for move in line)
        yield (
            f'<text class="label" x="{arrow.x:g}" y="{top + row * 17:g}" text-anchor="{arrow.anchor}">{names}</text>'
        )


def _class(move: Transition) -> str:
    return "move" if move.fenced else "move open"


def _box(status: ExecutionStatus, box: Box) -> Iterator[str]:
    kind, radius = ("finished", FINISHED_HEIGHT / 2) if status.is_finished else ("active", 8)
    yield (
        f'<rect class="{kind}" x="{box.left}" y="{box.top:g}" width="{box.right - box.left:g}" '
        f'height="{box.bottom - box.top:g}" rx="{radius:g}"/>'
    )
    yield f'<text class="name" x="{box.x:g}" y="{box.y:g}">{escape(status.value)}</text>'


def _legend(y: float) -> Iterator[str]:
    yield f'<rect class="active" x="24" y="{y - 9:g}" width="30" height="18" rx="5"/>'
    yield f'<text class="note" x="62" y="{y:g}">active</text>'
    yield f'<rect class="finished" x="124" y="{y - 9:g}" width="30" height="18" rx="9"/>'
    yield f'<text class="note" x="162" y="{y:g}">finished: never left</text>'
    yield f'<text class="note" x="306" y="{y:g}">upright: fenced by the claim token</text>'
    yield f'<text class="note open" x="550" y="{y:g}">italic: not fenced</text>'
