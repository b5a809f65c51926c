"""Time: instants as microseconds since the epoch, durations as seconds, and clocks that can be injected.

Instants are kept as integers because every database compares and adds those exactly, whatever it
thinks of time zones (docs/adr/0002-times-are-integers.md).
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from durable_sync.errors import ConfigurationError

__all__ = [
    "Clock",
    "SteadyClock",
    "boot_id",
    "deadline_after",
    "from_datetime",
    "microseconds",
    "seconds",
    "steady_seconds",
    "to_datetime",
    "wall_offset",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_THOUSAND_YEARS = 1000 * 366 * 86_400.0


class Clock(Protocol):
    """Tells the time that leases and due times are compared in. Called from any thread."""

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        ...


class SteadyClock:
    """The process's clock, deaf to wall-clock steps.

    It counts on the system's monotonic clock, which also counts while the machine is suspended where
    the system has such a clock. `offset` (microseconds) turns the count into time since the epoch;
    processes that share a database share an offset, so that a step between their starts does not
    set them apart.
    """

    def __init__(self, offset: int | None = None) -> None:
        self.offset = wall_offset() if offset is None else offset

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        return _ticks() + self.offset


def wall_offset() -> int:
    """Microseconds to add to the monotonic clock, by the wall clock's present reading."""
    return time.time_ns() // 1_000 - _ticks()


def steady_seconds() -> float:
    """Seconds on the monotonic clock that also counts while the machine is suspended, where there is one."""
    return _ticks() / 1_000_000


def boot_id() -> str | None:
    """What names the time for which the monotonic clock runs on: this boot of this machine; None if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def _ticks() -> int:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)) // 1_000


def to_datetime(instant: int) -> datetime:
    """The timezone-aware UTC datetime of an instant."""
    return _EPOCH + timedelta(microseconds=instant)


def from_datetime(value: datetime, option: str) -> int:
    """The instant of a timezone-aware datetime; ConfigurationError names `option` if it is naive."""
    if not isinstance(value, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{option} must be a timezone-aware datetime, not {value!r}")
    if value.tzinfo is None:
        raise ConfigurationError(f"{option} must be timezone-aware; {value!r} has no time zone")
    return (value - _EPOCH) // _MICROSECOND


def seconds(value: float | timedelta, option: str, *, positive: bool = False) -> float:
    """A duration in seconds; ConfigurationError names `option` if it isn't one, or is negative."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{option} must be seconds or a timedelta, not {value!r}")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        kind = "positive" if positive else "zero or more"
        raise ConfigurationError(f"{option} must be {kind} and finite, not {value!r}")
    if value > _THOUSAND_YEARS:
        raise ConfigurationError(f"{option} must be at most a thousand years, not {value!r} seconds")
    return float(value)


def deadline_after(timeout: float | timedelta | None) -> float:
    """The reading of the monotonic clock at which a wait of `timeout` seconds ends; infinity for None."""
    if timeout is None:
        return math.inf
    return time.monotonic() + (timeout.total_seconds() if isinstance(timeout, timedelta) else timeout)


def microseconds(duration: float) -> int:
    """A duration in seconds, as whole microseconds."""
    return round(duration * 1_000_000)
