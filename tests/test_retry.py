"""Whether a failed attempt is tried again, and when."""

from __future__ import annotations

import copy
import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tenacity
from tenacity import (
    Retrying,
    TryAgain,
    retry_if_exception,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    stop_before_delay,
    wait_chain,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_none,
    wait_random,
)

from durable_sync.errors import ConfigurationError, TaskCancelledError, TaskError
from durable_sync.retry import RetryHistory, retry_delay, retry_delay_for_result, retry_policy

ERROR = ValueError("mine")


def after(failures: int, elapsed: float = 0.0, idle_for: float = 0.0) -> RetryHistory:
    return RetryHistory(failures, elapsed, idle_for)


def never(state: tenacity.RetryCallState) -> bool:
    return False


def accepted(value: Any) -> tenacity.BaseRetrying:
    policy = retry_policy(value)
    assert policy is not None
    return policy


# the option


@pytest.mark.parametrize("value", [None, 0, Retrying(enabled=False)])
def test_nothing_is_retried_by_default(value: Any) -> None:
    """None, 0 and a policy that is switched off mean no retry."""
    assert retry_policy(value) is None


def test_a_number_is_a_number_of_retries() -> None:
    """`retry=2` runs an attempt three times at most."""
    policy = accepted(2)
    assert [retry_delay(policy, ERROR, after(n)) is None for n in (1, 2, 3, 4)] == [False, False, True, True]


def test_the_default_delays_double_up_to_a_minute() -> None:
    """The first delay is a quarter to half a second, each is twice as long as the last, none above 60 s."""
    policy = accepted(1000)
    longest = [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    for failures, limit in [*enumerate(longest, start=1), (999, 60)]:
        delays = [retry_delay(policy, ERROR, after(failures)) for _ in range(50)]
        assert all(delay is not None and limit / 2 <= delay <= limit for delay in delays)
        assert len(set(delays)) > 1, "no jitter"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1, "negative: -1"),
        (True, r"True \(bool\)"),
        (False, r"False \(bool\)"),
        (1.5, r"1.5 \(float\)"),
        ("3", r"'3' \(str\)"),
        (tenacity.retry, "function"),
        (Retrying, "ABCMeta"),
        (tenacity.AsyncRetrying(), "AsyncRetrying: tasks are not coroutines"),
        (Retrying(stop=None), "stop can't be called: None"),
        (Retrying(wait=3), r"wait can't be called: 3 \(int\)"),
        (Retrying(retry=ValueError("x")), "retry can't be called"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(value: Any, said: str) -> None:
    """Whatever can't be a retry policy is refused where it is declared, with a sentence that names it."""
    with pytest.raises(ConfigurationError, match=said):
        retry_policy(value)


def test_a_policy_without_stop_or_wait_gets_ours() -> None:
    """`Retrying()` would retry for ever without a pause; ours stops after ten attempts and waits."""
    policy = accepted(Retrying(retry=retry_if_exception_type(ValueError)))
    assert retry_delay(policy, KeyError(), after(1)) is None
    first = retry_delay(policy, ERROR, after(1))
    assert first is not None
    assert 0.25 <= first <= 0.5
    assert retry_delay(policy, ERROR, after(9)) is not None
    assert retry_delay(policy, ERROR, after(10)) is None


def test_only_what_is_missing_is_filled_in() -> None:
    """A wait or a stop that was given is kept; explicit ways remain to retry at once, and for ever."""
    assert retry_delay(accepted(Retrying(wait=wait_fixed(7))), ERROR, after(1)) == 7
    assert retry_delay(accepted(Retrying(wait=wait_fixed(7))), ERROR, after(10)) is None
    assert retry_delay(accepted(Retrying(stop=stop_after_attempt(2))), ERROR, after(2)) is None
    assert retry_delay(accepted(Retrying(wait=wait_fixed(0))), ERROR, after(1)) == 0
    assert retry_delay(accepted(Retrying(stop=never)), ERROR, after(1_000_000)) is not None


def test_a_complete_policy_is_used_as_it_is() -> None:
    """Nothing stands between the user's own policy object and its judgement."""
    policy = Retrying(stop=stop_after_attempt(2), wait=wait_fixed(1))
    assert retry_policy(policy) is policy


def test_a_policy_of_a_class_of_its_own_is_filled_in_too() -> None:
    """A subclass keeps its class, whatever its constructor asks for."""

    class Mine(Retrying):
        def __init__(self, much: str) -> None:
            super().__init__()
            self.much = much

    policy = accepted(Mine("more"))
    assert isinstance(policy, Mine)
    assert policy.much == "more"
    assert retry_delay(policy, ERROR, after(10)) is None


def test_the_policy_given_is_never_changed() -> None:
    """Neither filling in nor judging leaves a trace on the user's object."""
    policy = Retrying()
    before = copy.copy(vars(policy))
    filled = accepted(policy)
    for function in (lambda: retry_delay(filled, ERROR, after(1)), lambda: retry_delay(policy, ERROR, after(1))):
        function()
    assert vars(policy) == before
    assert policy.statistics == filled.statistics == {}


# stop


def test_stop_after_attempt_counts_the_failures() -> None:
    """Attempts are what the database has counted, the present one included."""
    policy = Retrying(stop=stop_after_attempt(3))
    assert [retry_delay(policy, ERROR, after(n)) for n in (1, 2, 3, 4)] == [0, 0, None, None]


def test_stop_after_delay_measures_from_the_first_attempt() -> None:
    """Time is what has passed since the first attempt started, over restarts."""
    policy = Retrying(stop=stop_after_delay(100))
    assert retry_delay(policy, ERROR, after(50, elapsed=99.9)) == 0
    assert retry_delay(policy, ERROR, after(1, elapsed=100.1)) is None


def test_stop_before_delay_counts_the_coming_wait() -> None:
    """The next attempt must begin before the limit, its wait included."""
    policy = Retrying(stop=stop_before_delay(100), wait=wait_fixed(10))
    assert retry_delay(policy, ERROR, after(1, elapsed=89.9)) == 10
    assert retry_delay(policy, ERROR, after(1, elapsed=90.1)) is None


def test_stops_can_be_combined() -> None:
    """`|` stops at the first, `&` at the last."""
    attempts, delay = stop_after_attempt(3), stop_after_delay(100)
    either, both = Retrying(stop=attempts | delay), Retrying(stop=attempts & delay)
    histories = [after(2, 50), after(3, 50), after(2, 150), after(3, 150)]
    assert [retry_delay(either, ERROR, history) for history in histories] == [0, None, None, None]
    assert [retry_delay(both, ERROR, history) for history in histories] == [0, 0, 0, None]


def test_a_clock_that_went_back_is_no_time_at_all() -> None:
    """A negative duration counts as nought."""
    seen = []
    policy = Retrying(stop=lambda state: seen.append(state.seconds_since_start) or False)
    assert retry_delay(policy, ERROR, after(1, elapsed=-5)) == 0
    assert seen == [0]


# wait


def test_wait_exponential_grows_with_the_failures() -> None:
    """The exponent is the number of failures that the database remembers."""
    policy = Retrying(wait=wait_exponential(multiplier=2, max=30))
    assert [retry_delay(policy, ERROR, after(n)) for n in (1, 2, 3, 4, 5, 500)] == [2, 4, 8, 16, 30, 30]


def test_wait_chain_picks_by_the_failures() -> None:
    """Each failure has its own wait, the last one those that follow."""
    policy = Retrying(wait=wait_chain(wait_fixed(1), wait_fixed(5), wait_fixed(9)))
    assert [retry_delay(policy, ERROR, after(n)) for n in (1, 2, 3, 4)] == [1, 5, 9, 9]


def test_waits_can_be_added() -> None:
    """`+` adds, with random parts drawn anew each time."""
    policy = Retrying(wait=wait_fixed(3) + wait_random(0, 2))
    delays = {retry_delay(policy, ERROR, after(1)) for _ in range(50)}
    assert len(delays) > 1
    assert all(delay is not None and 3 <= delay <= 5 for delay in delays)
    jittered = retry_delay(Retrying(wait=wait_exponential_jitter(multiplier=4, jitter=1)), ERROR, after(2))
    assert jittered is not None
    assert 8 <= jittered <= 9


def test_a_wait_is_kept_within_the_calendar() -> None:
    """No strategy can ask for a time that a database can't store, nor for one that is past."""
    ten_years = 3650 * 86_400
    assert retry_delay(Retrying(wait=wait_exponential()), ERROR, after(62)) == ten_years
    assert retry_delay(Retrying(wait=lambda state: math.inf), ERROR, after(1)) == ten_years
    assert retry_delay(Retrying(wait=lambda state: -1), ERROR, after(1)) == 0


@pytest.mark.parametrize("wrong", [math.nan, None, "1", True])
def test_a_wait_that_is_no_duration_is_named(wrong: Any) -> None:
    """A user's own strategy that returns anything else is an error, not a strange delay."""
    with pytest.raises(ConfigurationError, match="wait returns seconds"):
        retry_delay(Retrying(wait=lambda state: wrong), ERROR, after(1))


# retry


def test_errors_are_chosen_by_type() -> None:
    """Only what the predicate names is retried."""
    only = Retrying(retry=retry_if_exception_type((OSError, KeyError)))
    assert retry_delay(only, TimeoutError(), after(1)) == 0
    assert retry_delay(only, ERROR, after(1)) is None
    all_but = Retrying(retry=retry_if_not_exception_type(ValueError))
    assert retry_delay(all_but, KeyError(), after(1)) == 0
    assert retry_delay(all_but, ERROR, after(1)) is None


def test_errors_are_chosen_by_message_and_by_function() -> None:
    """Predicates see the error itself; `|` needs one of them, `&` all."""
    by_message = retry_if_exception_message(match="try .* later")
    by_function = retry_if_exception(lambda error: isinstance(error, OSError) and error.errno == 11)
    either, both = Retrying(retry=by_message | by_function), Retrying(retry=by_message & by_function)
    errors = [ValueError("try much later"), OSError(11, "again"), OSError(2, "no file")]
    assert [retry_delay(either, error, after(1)) for error in errors] == [0, 0, None]
    assert [retry_delay(both, error, after(1)) for error in errors] == [None, None, None]


def test_by_default_whatever_is_an_exception_is_retried() -> None:
    """tenacity's own default: an Exception is, a bare BaseException is not."""
    assert retry_delay(accepted(1), TaskError("no"), after(1)) is not None
    assert retry_delay(accepted(1), SystemExit(), after(1)) is None


def test_an_error_that_says_so_is_never_retried() -> None:
    """`TaskError(retryable=False)` overrules every policy."""
    policy = Retrying(retry=tenacity.retry_always)
    assert retry_delay(policy, TaskError("no", retryable=False), after(1)) is None
    assert retry_delay(policy, TaskCancelledError(), after(1)) is None
    assert retry_delay(policy, TaskError("no"), after(1)) == 0


def test_try_again_is_retried_until_stop() -> None:
    """`raise TryAgain` asks for another attempt, whatever the predicate says; `stop` still stops."""
    policy = Retrying(retry=retry_if_exception_type(OSError), stop=stop_after_attempt(2))
    assert retry_delay(policy, TryAgain(), after(1)) == 0
    assert retry_delay(policy, TryAgain(), after(2)) is None


@pytest.mark.parametrize("option", ["retry", "wait", "stop"])
def test_what_a_strategy_raises_propagates(option: str) -> None:
    """The caller can name the strategy's error in the execution's own."""
    strategy: Any = lambda state: 1 / 0  # noqa: E731
    with pytest.raises(ZeroDivisionError):
        retry_delay(Retrying(**{option: strategy}), ERROR, after(1))


def test_a_strategy_sees_the_whole_state() -> None:
    """A function of the user's own finds what tenacity documents: number, times, outcome, policy."""
    seen: list[tuple[Any, ...]] = []

    def stop(state: tenacity.RetryCallState) -> bool:
        assert state.outcome is not None
        seen.append(
            (
                state.attempt_number,
                state.outcome.attempt_number,
                round(state.seconds_since_start or 0, 3),
                state.idle_for,
                state.upcoming_sleep,
                state.outcome.exception(),
                state.retry_object,
            )
        )
        return True

    policy = Retrying(stop=stop, wait=wait_fixed(4))
    assert retry_delay(policy, ERROR, after(3, elapsed=60, idle_for=12)) is None
    assert seen == [(3, 3, 60, 12, 4, ERROR, policy)]


# results


def test_a_result_can_be_refused() -> None:
    """`retry_if_result` asks for another attempt after a success, with the same waits."""
    policy = Retrying(
        retry=retry_if_result(lambda result: result is None) | retry_if_exception_type(OSError),
        wait=wait_fixed(5),
        stop=stop_after_attempt(3),
    )
    assert retry_delay_for_result(policy, None, after(1)) == 5
    assert retry_delay_for_result(policy, 1, after(1)) is None
    assert retry_delay(policy, OSError(), after(1)) == 5
    assert retry_delay(policy, ERROR, after(1)) is None


def test_a_result_that_stays_refused_is_a_failure() -> None:
    """When attempts run out, a refused result does not pass for an accepted one."""
    policy = Retrying(retry=retry_if_result(lambda result: not result), stop=stop_after_attempt(3))
    with pytest.raises(TaskError, match="did not accept the result, and gave up after 3 attempts"):
        retry_delay_for_result(policy, None, after(3))


def test_results_are_accepted_by_default() -> None:
    """A policy that speaks of errors only accepts every result."""
    assert retry_delay_for_result(accepted(3), None, after(1)) is None


# threads


def test_a_policy_serves_many_threads() -> None:
    """Judgements don't mix: each thread gets the answer for its own history."""
    policy = Retrying(wait=wait_exponential(), stop=stop_after_attempt(9))
    barrier = threading.Barrier(8)

    def judge(failures: int) -> set[float | None]:
        barrier.wait(10)
        return {retry_delay(policy, ERROR, after(failures)) for _ in range(300)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(judge, range(1, 9))) == [{2.0**n} for n in range(8)]


def test_the_policies_of_tenacity_and_ours_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy judged attempt by attempt waits and stops where tenacity's own loop does."""
    slept: list[float] = []
    wait = wait_chain(wait_fixed(1), wait_fixed(2)) + wait_exponential(max=10)
    policy = Retrying(sleep=slept.append, wait=wait, stop=stop_after_attempt(random.randrange(3, 9)))
    with pytest.raises(tenacity.RetryError):
        policy(lambda: 1 / 0)
    judged = [retry_delay(policy, ERROR, after(n)) for n in range(1, len(slept) + 2)]
    assert judged == [*slept, None]
    assert type(Retrying().wait) is wait_none
