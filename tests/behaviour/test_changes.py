"""A SQLite file tells that somebody else has committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_sync.storage.changes import Changes
from durable_sync.storage.database import Database
from tests.gates import PATIENCE
from tests.races.holding import held_after, in_thread


def write(database: Database) -> None:
    database.transact("write", lambda tx: tx.connection.exec_driver_sql("INSERT INTO numbers VALUES (1)"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.db"
    database = Database(f"sqlite:///{path}")
    database.transact("write", lambda tx: tx.connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER)"))
    database.retire()
    return path


def test_a_commit_of_others_is_told_twice(path: Path) -> None:
    """The second time for those who were told before the commit could be read; then there is silence."""
    ours, theirs = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    changes = Changes(ours)
    assert not changes.seen()
    write(theirs)
    assert [changes.seen() for _ in range(4)] == [True, True, False, False]
    ours.retire()
    theirs.retire()


def test_an_own_commit_is_no_news(path: Path) -> None:
    """Whoever has committed knows what there is to do, and so does his other pool."""
    ours = Database(f"sqlite:///{path}")
    lifeline = ours.sibling(pool_size=1, limit=1.0)
    changes = Changes(ours)
    for database in (ours, lifeline):
        write(database)
        assert not changes.seen()
        assert not changes.seen()
        database.retire()


def test_an_own_commit_that_is_not_durable_yet_is_no_news(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow disk it takes a while from the write, which is heard of, to the answer to the COMMIT."""
    ours = Database(f"sqlite:///{path}")
    changes = Changes(ours)
    gate = held_after(monkeypatch, Database, "_commit")
    writing = in_thread(write, ours)
    gate.wait_for_arrivals()
    assert not changes.seen()
    gate.open()
    writing.result(PATIENCE)
    assert not changes.seen()
    ours.retire()


def test_a_link_leads_to_the_file(path: Path) -> None:
    """The log is beside the file, wherever the link is."""
    link = path.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    ours, theirs = Database(f"sqlite:///{link}"), Database(f"sqlite:///{path}")
    write(ours)
    changes = Changes(ours)
    write(theirs)
    assert changes.seen()
    ours.retire()
    theirs.retire()
