"""The pages about states say what the code's table says."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args
from xml.etree import ElementTree

import pytest

from durable_sync.kinds import Kind
from durable_sync.transitions import ALL_MOVES

DOCS = Path(__file__).parent.parent.parent / "docs"
AGAIN = "run: python3 docs/_ext/states.py"
DRAWINGS = [
    "states.svg",
    "tasks/plain.svg",
    "tasks/parents.svg",
    "tasks/sequences.svg",
    "tasks/loops.svg",
    "tasks/sleeping.svg",
]


@pytest.fixture(scope="module")
def states() -> Iterator[ModuleType]:
    """The generator of the drawings and the tables."""
    before, path = set(sys.modules), list(sys.path)
    spec = importlib.util.spec_from_file_location("states", DOCS / "_ext" / "states.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in {"machines", "drawing"} - before:
        del sys.modules[name]


def rows(page: str, mark: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    table = page.partition(f"<!-- {mark}: ")[2].partition(f"<!-- end of {mark}")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def texts(name: str, tag: str, kind: str) -> list[str | None]:
    """The texts of one kind in a drawing."""
    elements = ElementTree.parse(DOCS / name).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    return [element.text for element in elements if kind in element.get("class", "").split()]


def test_the_page_has_every_move(states: ModuleType) -> None:
    """Every move of ALL_MOVES is in the table, with its statuses, and nothing else is."""
    listed = {row[0]: row for row in rows((DOCS / "states.md").read_text(encoding="utf-8"), "moves")}
    assert listed.keys() == {f"`{move.name}`" for move in ALL_MOVES}
    for move in ALL_MOVES:
        _, sources, target, fenced, kinds, when, who = listed[f"`{move.name}`"]
        assert words(sources) == {status.value for status in move.sources}
        assert words(target) == {move.target.value}
        assert fenced == ("yes" if move.fenced else "no")
        assert kinds
        assert when
        assert who


def test_the_page_has_every_reachable_status(states: ModuleType) -> None:
    """Every status that an execution can come to is in the table."""
    listed = {row[0] for row in rows((DOCS / "states.md").read_text(encoding="utf-8"), "statuses")}
    assert listed == {f"`{status}`" for status in states.WHOLE.reachable()}


def test_every_kind_of_task_is_drawn(states: ModuleType) -> None:
    """Every kind that the code has is drawn on a page of its own, and together they have every move."""
    assert states.KINDS.keys() == set(get_args(Kind))
    assert list(states.drawings()) == DRAWINGS
    for name, _ in states.KINDS.values():
        assert f"]({name}.svg)" in (DOCS / "tasks" / f"{name}.md").read_text(encoding="utf-8")
    assert {move.name for _, machine in states.KINDS.values() for move in machine.moves} == {m.name for m in ALL_MOVES}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_has_every_status_and_move(states: ModuleType, name: str) -> None:
    """A drawing names every status that its kind can come to, and every move once for each arrow that it goes along."""
    machine = states.drawings()[name]
    drawn = machine.reachable()
    assert sorted(texts(name, "text", "name")) == sorted(status.value for status in drawn)
    labels = texts(name, "tspan", "move")
    assert set(labels) == {move.name for move in machine.moves}
    for move in machine.moves:
        assert labels.count(move.name) == len(move.sources & drawn), move.name


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_what_the_generator_makes(states: ModuleType, name: str) -> None:
    """No drawing was edited by hand, and none is behind the code."""
    assert (DOCS / name).read_text(encoding="utf-8") == states.svg(states.drawings()[name]), AGAIN


def test_the_page_is_what_the_generator_makes(states: ModuleType) -> None:
    """The tables were not edited by hand, and are not behind the code."""
    page = (DOCS / "states.md").read_text(encoding="utf-8")
    assert states.page(page) == page, AGAIN
