"""The judge of trees must reject every tree that could not be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attrs import evolve

from tests.families import Member, problems


def plan(kind: str = "children", *, finalize: str | None = None, fail_fast: bool = True) -> str:
    return json.dumps({"kind": kind, "finalize": finalize, "fail_fast": fail_fast})


def parent(status: str, kind: str = "children", *, left: int = 0, **options: Any) -> Member:
    finished = 1 if status in {"completed", "failed", "cancelled", "children_failed"} else None
    written = None if status in {"ready", "running"} else plan(kind, **options)
    return Member(
        id="p", task_id="t", status=status, plan=written, unfinished_children=left, finished_at=finished, lane=None
    )


def child(place: int | None, status: str) -> Member:
    finished = None if status in {"ready", "parked", "running"} else 1
    return Member(
        id=f"c{place}",
        task_id="t",
        root_id="p",
        parent_id="p",
        child_index=place,
        status="ready" if status == "parked" else status,
        lane=0 if status == "ready" else None,
        finished_at=finished,
    )


def tree(top: Member, *children: str, finalize: str | None = None) -> list[Member]:
    born = [child(place, status) for place, status in enumerate(children)]
    return [top, *born, *([] if finalize is None else [child(None, finalize)])]


GOOD = [
    tree(evolve(parent("ready"), lane=0)),
    tree(parent("waiting_for_children", left=1), "completed", "running"),
    tree(parent("waiting_for_children", left=1, finalize="f"), "completed", "ready", finalize="parked"),
    tree(parent("waiting_for_finalize", finalize="f"), "completed", finalize="ready"),
    tree(parent("waiting_for_children", "sequence", left=2), "completed", "running", "parked"),
    tree(parent("waiting_for_children", "loop", left=1), "completed", "ready"),
    tree(parent("completed", fail_fast=False), "failed", "completed"),
    tree(parent("cancelled"), "completed", "cancelled"),
]

BAD = [
    (tree(parent("ready")), "waits for a turn"),
    (tree(parent("running"), "ready"), "has not spawned"),
    (tree(evolve(parent("waiting_for_children"), plan=None)), "waits without a plan"),
    (tree(parent("waiting_for_children", left=2), "completed", "running"), "counts 2"),
    (tree(parent("waiting_for_children"), "completed"), "waits for nobody"),
    (tree(parent("waiting_for_children", left=1), "parked"), "never be claimed"),
    (tree(parent("waiting_for_children", left=1, finalize="f"), "running"), "has 0 finalizes"),
    (tree(parent("waiting_for_children", left=1), "running", finalize="parked"), "has 1 finalizes"),
    (tree(parent("waiting_for_children", left=1, finalize="f"), "running", finalize="ready"), "before its turn"),
    (tree(parent("waiting_for_finalize", finalize="f"), "running", finalize="ready"), "are active"),
    (tree(parent("waiting_for_finalize", finalize="f"), "completed", finalize="parked"), "never gets its turn"),
    (tree(parent("waiting_for_finalize", finalize="f"), "completed", finalize="completed"), "has finished"),
    (tree(parent("waiting_for_children", "sequence", left=2), "completed", "parked", "parked"), "never gets"),
    (tree(parent("waiting_for_children", "sequence", left=2), "completed", "ready", "ready"), "more than one"),
    (tree(parent("waiting_for_children", "sequence", left=1), "running", "completed"), "went on past"),
    (tree(parent("waiting_for_children", "loop", left=1), "failed", "ready"), "went on past"),
    (tree(parent("waiting_for_children", "loop", left=2), "ready", "ready"), "more than one"),
    (tree(parent("completed"), "completed", "failed"), "one of its children has not"),
    (tree(parent("completed", left=1), "completed"), "counts 1"),
    (tree(parent("completed", finalize="f"), "completed", finalize="cancelled"), "its finalize has not"),
    (tree(parent("completed", "sequence"), "completed"), "with what"),
    (tree(parent("cancelled"), "ready"), "is active below"),
    (tree(parent("children_failed"), "failed", "running"), "is active below"),
    ([*tree(parent("cancelled")), evolve(child(1, "cancelled"))], "the places [1]"),
    ([*tree(parent("cancelled")), evolve(child(0, "cancelled"), root_id="other")], "another root"),
    ([child(0, "cancelled")], "its parent is not there"),
    (tree(evolve(parent("completed"), finished_at=None)), "differ"),
    (tree(evolve(parent("completed"), active_key="k")), "still has its key"),
]


@pytest.mark.parametrize("rows", GOOD)
def test_a_tree_that_could_be_passes(rows: list[Member]) -> None:
    """Nothing is wrong with a tree at any moment of its life."""
    assert problems(rows) == []


@pytest.mark.parametrize(("rows", "problem"), BAD, ids=[problem for _rows, problem in BAD])
def test_a_tree_that_could_not_be_is_rejected(rows: list[Member], problem: str) -> None:
    """Each way to break a tree is named."""
    assert problem in " / ".join(problems(rows))
