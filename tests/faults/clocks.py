"""Sets the wall clock of one process wrong: ahead, behind, or stepped while it runs.

The clocks that count since the boot are left alone: neither a wrong setting nor a step moves them. The library reads
the wall clock by `time.time_ns` only; a test holds it to that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, bindparam

__all__ = ["READS", "Step", "believe", "set_wrong"]

Step = tuple[float, float]
"""So many seconds forward, or back, so many seconds after the start."""

READS = {"time.time_ns", "time.monotonic", "time.monotonic_ns", "time.clock_gettime_ns", "time.sleep"}
"""What the library may ask of a clock, for the rig to be worth anything."""


def set_wrong(seconds: float, steps: Sequence[Step]) -> None:
    """Has this process believe in another wall clock from now on."""
    time_ns, clock_gettime_ns, monotonic = time.time_ns, time.clock_gettime_ns, time.monotonic
    started = monotonic()

    def wrong_ns() -> int:
        passed = monotonic() - started
        shift = seconds + sum(step for step, after in steps if passed >= after)
        return time_ns() + round(shift * 1e9)

    def wrong_clock_ns(clock: int) -> int:
        return wrong_ns() if clock == time.CLOCK_REALTIME else clock_gettime_ns(clock)

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9
    time.clock_gettime_ns = wrong_clock_ns
    time.clock_gettime = lambda clock: wrong_clock_ns(clock) / 1e9


def believe() -> None:
    """Breaks the library: all that it compares with the present, it compares with this process's wall clock."""
    from durable_sync.storage.statements import Sql

    def now_value(_sql: Any, _connection: Any = None) -> int:
        return time.time_ns() // 1_000

    def now(sql: Any) -> Any:
        return bindparam(None, callable_=lambda: now_value(sql), type_=BigInteger, unique=True)

    Sql.now = now  # type: ignore[method-assign]
    Sql.now_value = now_value  # type: ignore[method-assign]
