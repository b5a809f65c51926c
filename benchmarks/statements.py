"""Counts the statements that an executor sends."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from durable_sync import DurableExecutor

__all__ = ["Statements"]

_COMMENT = re.compile(r"^\s*/\*.*?\*/\s*")
_VERB = re.compile(r"/\* durable_sync (\w+) \*/")


class Statements:
    """All that a started executor sends but BEGIN and COMMIT.

    Not heard, because they go past SQLAlchemy: the probe of a listening connection on PostgreSQL, one statement in 15
    s, and on MariaDB the naps, one in 9 s.
    """

    def __init__(self, executor: DurableExecutor) -> None:
        self._by_verb: Counter[str] = Counter()
        desk = executor._desk  # noqa: SLF001
        assert desk.background is not None
        engines: list[Engine] = [desk.storage.database.engine, desk.background.lifeline.database.engine]
        for engine in engines:
            event.listen(engine, "before_cursor_execute", self._hear)

    def _hear(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not _COMMENT.sub("", statement).startswith(("BEGIN", "COMMIT")):
            verb = _VERB.search(statement)
            self._by_verb[verb[1] if verb else "other"] += 1

    def over(self, seconds: float) -> Counter[str]:
        """How many are sent in so many seconds from now, by what they are for."""
        self._by_verb.clear()
        time.sleep(seconds)
        return Counter(self._by_verb)
