"""The system tells who waits for it that a file was written to."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from durable_sync.storage.filewatch import FileWatch
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")

SOON = 10.0
FOR_EVER = 600.0


class Waiting:
    """A thread that waits for one file, as often as it is told to."""

    def __init__(self, watch: FileWatch) -> None:
        self.returned = 0
        self.watch = watch
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._over = False
        self._thread.start()

    def _wait(self) -> None:
        while not self._over:
            self.watch.wait(FOR_EVER)
            self.returned += 1

    def end(self) -> None:
        self._over = True
        self.watch.interrupt()
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        self.watch.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.touch()
    return path


@pytest.fixture
def waiting(path: Path) -> Iterator[Waiting]:
    waiting = Waiting(FileWatch([path]))
    yield waiting
    waiting.end()


def held() -> int:
    """How many descriptors of the kind this process has."""
    links: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(descriptor.readlink()))
    return sum("inotify" in link or "eventfd" in link for link in links)


def write(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def hears(waiting: Waiting, path: Path) -> None:
    """A file that is written to again and again is heard of: the first times may come before it is watched."""
    before = waiting.returned

    def heard() -> bool:
        write(path)
        return waiting.returned > before

    wait_until(heard, SOON)


def test_a_write_is_told(waiting: Waiting, path: Path) -> None:
    assert waiting.watch._watched
    hears(waiting, path)
    assert waiting.watch._watched


def test_a_file_that_is_made_later_is_told(tmp_path: Path) -> None:
    """Until then it is looked for; from then on it is waited for."""
    path = tmp_path / "later"
    watch = FileWatch([path])
    watch.wait(0.01)
    path.touch()
    waiting = Waiting(watch)
    wait_until(lambda: watch._watched, SOON)
    hears(waiting, path)
    waiting.end()


def test_a_file_in_the_place_of_another_is_told(waiting: Waiting, path: Path) -> None:
    """As SQLite's log, which goes with the last connection."""
    hears(waiting, path)
    path.unlink()
    path.touch()
    # Until it is found, it is looked for, which is no news.
    wait_until(lambda: waiting.watch._watched, SOON)
    hears(waiting, path)
    assert waiting.watch._watched


def test_an_interrupt_ends_the_wait_for_ever(path: Path) -> None:
    watch = FileWatch([path])
    watch.interrupt()
    watch.wait(FOR_EVER)
    watch.wait(FOR_EVER)
    watch.close()
    watch.interrupt()


def test_what_it_opens_is_closed(path: Path) -> None:
    before = held()
    watch = FileWatch([path])
    watch.wait(0.0)
    assert held() == before + 2
    watch.close()
    assert held() == before


def test_a_system_that_tells_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one with too many who listen: the caller is told, and nothing is left open."""
    before = held()

    def none_left(*_arguments: object) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(os, "eventfd", none_left)
    with pytest.raises(OSError, match="too many"):
        FileWatch([path])
    assert held() == before
