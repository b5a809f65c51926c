"""Whether a failed attempt is tried again, and when: tenacity's strategies, judged without sleeping.

tenacity judges while it holds the thread, and remembers nothing afterwards. Here the thread is long gone:
attempts and times come from the database, and what a policy's strategies say of them becomes the time
at which the execution is ready again.

Of a policy, `stop`, `wait`, `retry` and `enabled` are used. `sleep`, `before`, `after`, `before_sleep`,
`reraise` and `retry_error_callback` belong to a loop that isn't run.
"""

from __future__ import annotations

import copy
import math
import random
from typing import TYPE_CHECKING, TypeAlias

import tenacity
from attrs import frozen

from durable_sync.errors import ConfigurationError, TaskError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["RetryHistory", "RetryPolicy", "retry_delay", "retry_delay_for_result", "retry_policy"]

RetryPolicy: TypeAlias = tenacity.BaseRetrying

FIRST_DELAY = 0.5  # seconds
LONGEST_DELAY = 60.0
DEFAULT_ATTEMPTS = 10  # of a policy that names no stop: about three minutes with the default delays
TEN_YEARS = 10 * 365 * 86_400.0  # no strategy may ask for more: the database's calendar ends in 9999


@frozen
class RetryHistory:
    """What the database remembers of an execution's attempts. Durations are seconds.

    An attempt that was lost to a crash or released by a shutdown is in none of the figures but `elapsed`.
    """

    failures: int
    """Attempts that have failed, the present one included."""
    elapsed: float
    """Since the first attempt started."""
    idle_for: float
    """Waited between attempts so far."""


def retry_policy(value: int | tenacity.BaseRetrying | None) -> tenacity.BaseRetrying | None:
    """The policy that the option `retry` stands for; None means that nothing is retried.

    - None or 0, or a policy with `enabled=False`: no retry.
    - A number: so many retries, with the default delays. They double from 0.5 s up to 60 s, and each is
      shortened at random by up to a half, so that what failed together doesn't come back together.
    - A `tenacity.Retrying`: itself. Where tenacity would not wait (`wait_none()`, its default) it gets the
      default delays; where it would never stop (`stop_never`, its default), it stops after 10
      attempts. Neither can be told from a default, so to retry at once, say `wait_fixed(0)`; to retry
      for ever, `stop=lambda state: False`. The policy given is never changed.

    Raises ConfigurationError for anything else.
    """
    if value is None or (type(value) is int and value == 0):
        return None
    if isinstance(value, tenacity.BaseRetrying):
        return _with_defaults(value) if _checked(value).enabled else None
    if isinstance(value, bool) or not isinstance(value, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"retry is a number or a tenacity.Retrying, not {_describe(value)}")
    if value < 0:
        raise ConfigurationError(f"retry is a number of retries, which can't be negative: {value}")
    return tenacity.Retrying(stop=tenacity.stop_after_attempt(value + 1), wait=_default_wait)


def retry_delay(policy: tenacity.BaseRetrying, error: BaseException, history: RetryHistory) -> float | None:
    """Seconds to wait before the next attempt after one that raised `error`, or None: give up. Any thread.

    An error with `retryable=False` is never retried. `tenacity.TryAgain` always is, until `stop`. What a
    strategy raises propagates; a wait that is no number of seconds raises ConfigurationError.
    """
    if getattr(error, "retryable", True) is False:
        return None
    state = tenacity.RetryCallState(policy, None, (), {})
    state.attempt_number = history.failures  # before the outcome, which notes it
    state.set_exception((type(error), error, error.__traceback__))
    if not isinstance(error, tenacity.TryAgain) and not policy.retry(state):
        return None
    return _next_delay(policy, state, history)


def retry_delay_for_result(policy: tenacity.BaseRetrying, result: object, history: RetryHistory) -> float | None:
    """Seconds to wait before the next attempt after one that returned `result`, or None: it is accepted.

    For `tenacity.retry_if_result` and its like. `history` counts the attempt as failed. Raises TaskError if
    the policy neither accepts the result nor allows another attempt. Otherwise as `retry_delay`.
    """
    state = tenacity.RetryCallState(policy, None, (), {})
    state.attempt_number = history.failures
    state.set_result(result)
    if not policy.retry(state):
        return None
    delay = _next_delay(policy, state, history)
    if delay is None:
        attempts = "1 attempt" if history.failures == 1 else f"{history.failures} attempts"
        raise TaskError(f"The retry policy did not accept the result, and gave up after {attempts}.")
    return delay


def _next_delay(policy: tenacity.BaseRetrying, state: RetryCallState, history: RetryHistory) -> float | None:
    """What `wait` says, or None if `stop` says so; in this order, as `stop_before_delay` needs it."""
    assert state.outcome_timestamp is not None
    state.start_time = state.outcome_timestamp - max(0.0, history.elapsed)
    state.idle_for = history.idle_for
    state.upcoming_sleep = _seconds(policy.wait(state))
    return None if policy.stop(state) else state.upcoming_sleep


def _seconds(delay: object) -> float:
    """A delay that can be added to a time: a strategy of the user's own may return anything."""
    if isinstance(delay, bool) or not isinstance(delay, int | float) or math.isnan(delay):
        raise ConfigurationError(f"a retry policy's wait returns seconds, not {_describe(delay)}")
    return float(min(max(delay, 0.0), TEN_YEARS))


def _default_wait(state: RetryCallState) -> float:
    # The exponent is bounded because the number of attempts isn't.
    longest = min(FIRST_DELAY * 2.0 ** min(state.attempt_number - 1, 30), LONGEST_DELAY)
    return longest * random.uniform(0.5, 1.0)


def _checked(policy: tenacity.BaseRetrying) -> tenacity.BaseRetrying:
    if isinstance(policy, tenacity.AsyncRetrying):
        raise ConfigurationError("retry can't be a tenacity.AsyncRetrying: tasks are not coroutines")
    for name in ("stop", "wait", "retry"):
        strategy: object = getattr(policy, name, None)
        if not callable(strategy):
            raise ConfigurationError(f"the retry policy's {name} can't be called: {_describe(strategy)}")
    return policy


def _with_defaults(policy: tenacity.BaseRetrying) -> tenacity.BaseRetrying:
    waits = type(policy.wait) is not tenacity.wait_none
    stops = policy.stop is not tenacity.stop_never
    if waits and stops:
        return policy
    filled = copy.copy(policy)  # not `policy.copy()`, which can't know the constructor of a subclass
    if not waits:
        filled.wait = _default_wait
    if not stops:
        filled.stop = tenacity.stop_after_attempt(DEFAULT_ATTEMPTS)
    return filled


def _describe(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"
