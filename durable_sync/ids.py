"""Execution ids: UUIDs of version 7.

They sort by the time they were made, so that inserts go to one end of an index.
"""

from __future__ import annotations

import os
import threading
import time

__all__ = ["new_id"]

_COUNTER_BITS = 42
_lock = threading.Lock()
_last = 0
"""The last id's milliseconds and counter, as one number."""


def new_id() -> str:
    """A new id, greater than any that this process made before (RFC 9562, section 6.2, method 1). For any thread."""
    global _last  # noqa: PLW0603 - ids are ordered within a process, whatever objects it has
    chance = int.from_bytes(os.urandom(9))
    moment = (time.time_ns() // 1_000_000) << _COUNTER_BITS
    with _lock:
        # Half of the counter is left free to count on within the millisecond.
        fresh = moment | chance >> 31 & ~1
        _last = fresh if fresh > _last else _last + 1
        ordered = _last
    milliseconds, counter = ordered >> _COUNTER_BITS, ordered & ((1 << _COUNTER_BITS) - 1)
    high, low = counter >> 30, counter & ((1 << 30) - 1)
    value = (
        (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | high << 64 | 0x2 << 62 | low << 32 | chance & 0xFFFFFFFF
    )
    # As uuid.UUID writes it, in a third of the time.
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when the process forked
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
