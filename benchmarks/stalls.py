"""When the disk itself did not answer: no engine that commits can do better meanwhile."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from typing import Self

__all__ = ["Span", "Stalls"]

Span = tuple[float, float]

_SPACING = 0.01
_STALL = 0.02
"""An fsync of a small write takes longer than this while the disk hangs."""
_LATE = 0.01
"""Who is woken so much later than he asked for would have found any fsync slow: the processors are busy."""


class Stalls:
    """Makes a small write durable every 10 ms, and notes when that took longer than 20 ms."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        """Each from its beginning to its end, by `time.monotonic()`; whole once the block is left."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """All of them together."""
        return sum(end - start for start, end in self.spans)

    def _watch(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            asked = time.monotonic()
            while not self._ended.wait(_SPACING):
                began = time.monotonic()
                late = began - asked - _SPACING > _LATE
                file.write(b"x")
                os.fsync(file.fileno())
                ended = time.monotonic()
                if ended - began > _STALL and not late:
                    self.spans.append((began, ended))
                asked = time.monotonic()
