"""The page about states says what the code's table says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from durable_sync.transitions import ALL_MOVES

DOCS = Path(__file__).parent.parent.parent / "docs"
AGAIN = "run: python3 docs/_ext/states.py"


@pytest.fixture(scope="module")
def states() -> ModuleType:
    """The generator of the drawing and the tables."""
    spec = importlib.util.spec_from_file_location("states", DOCS / "_ext" / "states.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(page: str, mark: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    table = page.partition(f"<!-- {mark}: ")[2].partition(f"<!-- end of {mark}")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_the_page_has_every_move(states: ModuleType) -> None:
    """Every move of ALL_MOVES is in the table, with its statuses, and nothing else is."""
    listed = {row[0]: row for row in rows((DOCS / "states.md").read_text(encoding="utf-8"), "moves")}
    assert listed.keys() == {f"`{move.name}`" for move in ALL_MOVES}
    for move in ALL_MOVES:
        _, sources, target, fenced, when, who = listed[f"`{move.name}`"]
        assert words(sources) == {status.value for status in move.sources & states.reachable()}
        assert words(target) == {move.target.value}
        assert fenced == ("yes" if move.fenced else "no")
        assert when
        assert who


def test_the_page_has_every_reachable_status(states: ModuleType) -> None:
    """Every status that an execution can come to is in the table."""
    listed = {row[0] for row in rows((DOCS / "states.md").read_text(encoding="utf-8"), "statuses")}
    assert listed == {f"`{status}`" for status in states.reachable()}


def test_the_drawing_has_every_status_and_move(states: ModuleType) -> None:
    """The drawing names every reachable status, and every move once for each arrow that it goes along."""
    texts = [
        element.text for element in ElementTree.parse(DOCS / "states.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    for status in states.reachable():
        assert texts.count(status.value) == (2 if status.value == "active" else 1)
    for move in ALL_MOVES:
        assert texts.count(move.name) == len(move.sources & states.reachable()), move.name


def test_the_files_are_what_the_generator_makes(states: ModuleType) -> None:
    """Neither file was edited by hand, and none is behind the code."""
    page = (DOCS / "states.md").read_text(encoding="utf-8")
    assert states.page(page) == page, AGAIN
    assert (DOCS / "states.svg").read_text(encoding="utf-8") == states.svg(), AGAIN
