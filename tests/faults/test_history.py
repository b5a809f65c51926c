"""The history of attempts can be read while it is written, and after its writers were killed at it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import history

ID = "a" * 32


def note(path: Path, token: int) -> None:
    history.append(path, event="end", execution_id="e", token=token, uid=ID, error=None)


def tear(path: Path) -> None:
    """Leaves the last line as a reader finds it meanwhile, or a writer who was killed: without its end."""
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"null") + 1])


def tokens(path: Path) -> list[int]:
    return [end.token for end in history.read(path).ends]


def test_without_a_file(tmp_path: Path) -> None:
    assert history.read(tmp_path / "history") == history.History()


def test_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "history"
    note(path, 1)
    note(path, 2)
    tear(path)
    assert tokens(path) == [1]


def test_a_line_whose_writer_was_killed_takes_none_with_it(tmp_path: Path) -> None:
    path = tmp_path / "history"
    note(path, 1)
    tear(path)
    note(path, 2)
    note(path, 3)
    assert tokens(path) == [2, 3]


def test_a_whole_line_that_is_no_note(tmp_path: Path) -> None:
    path = tmp_path / "history"
    note(path, 1)
    with path.open("a") as file:
        file.write("\n{what}\n")
    with pytest.raises(json.JSONDecodeError):
        history.read(path)
