"""Waiting for something to become true, instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    message: str | Callable[[], str] = "",
    interval: float = 0.01,
) -> T:
    """Return the first true value of `predicate`, or fail after `timeout` seconds with `message`.

    `message` may be a function, called at the end, so that it can tell what was there instead.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            text = message if isinstance(message, str) else message()
            raise AssertionError(f"not true within {timeout:g} s: {text or predicate}")
        time.sleep(interval)
    return value
