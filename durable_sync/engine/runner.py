"""One attempt, from its input text to its outcome: decode, call, encode, judge."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

import attrs
import tenacity

from durable_sync.clock import microseconds
from durable_sync.context import ShutdownRequestedError, TaskContext
from durable_sync.engine.attempts import Attempt, Outcome, StopReason
from durable_sync.engine.interrupt import Interrupted
from durable_sync.engine.spawner import Spawner
from durable_sync.errors import DurableError, TaskCancelledError, TaskTimedOutError
from durable_sync.execution import ErrorInfo
from durable_sync.intake import validate_arguments
from durable_sync.kinds import Loop, Sequence
from durable_sync.outputs import Outputs
from durable_sync.retry import RetryHistory, retry_delay, retry_delay_for_result, retry_policy
from durable_sync.transitions import Transition, cancel_self, fail, release, retry, time_out

__all__ = ["Runner"]

_NOT_ACCEPTED = ErrorInfo("TaskError", "The retry policy did not accept the result.")


class Runner:
    """Runs attempts on worker threads; each step is a method."""

    def __init__(
        self,
        outputs: Outputs,
        spawner: Spawner,
        *,
        may_start: Callable[[Attempt], bool],
        watch: Callable[[Attempt, float], None],
        is_outage: Callable[[BaseException], bool],
        put: Callable[[Attempt, Outcome], None],
        ended: Callable[[Attempt, float], None],
    ) -> None:
        self._outputs = outputs
        self._spawner = spawner
        self.log = logging.getLogger(__name__)
        self._may_start = may_start
        self._watch = watch
        self._is_outage = is_outage
        self._put = put
        self._ended = ended

    def run(self, attempt: Attempt) -> None:
        """Runs a queued attempt on the calling thread and hands its outcome over, unless that is void."""
        if not self._may_start(attempt):
            if attempt.unqueue():
                self._put(attempt, Outcome(release(started=False)))
            return
        if not attempt.begin():
            return
        try:
            outcome = self._outcome(attempt)
        except Exception as error:
            self.log.exception("run: %s: the runner itself failed", attempt)
            outcome = Outcome(self._ends_unretried(attempt, error))
        attempt.leave()
        self._ended(attempt, attempt.run_seconds)
        if attempt.settle():
            self._put(attempt, outcome)

    def _outcome(self, attempt: Attempt) -> Outcome:
        try:
            attempt.timeout = _timeout(attempt)
            arguments = self._arguments(attempt)
            context = attempt.context() if attempt.task.takes_context else None
        except Exception as error:
            if self._is_outage(error):
                self.log.info("run: %s: given back, because its input can't be read now: %s", attempt, error)
                return Outcome(release(started=False))
            return Outcome(self._ends_unretried(attempt, error))
        if attempt.timeout is not None:
            self._watch(attempt, attempt.timeout)
        try:
            output = attempt.interruptible.run(lambda: _call(attempt, arguments, context))
        except BaseException as error:
            return Outcome(self.judge(attempt, error))
        if attempt.reason is StopReason.TIMEOUT:
            return Outcome(self.judge(attempt, Interrupted()))
        try:
            outcome = self._spawner.outcome(attempt, output)
        except DurableError as error:
            return Outcome(self._ends_unretried(attempt, error))
        refused = self._judge_output(attempt, output)
        return outcome if refused is None else Outcome(refused)

    def _arguments(self, attempt: Attempt) -> dict[str, Any]:
        task, claimed = attempt.task, attempt.claimed
        arguments = self._outputs.input(task, claimed.input, claimed.input_from)
        # Other input was validated before it was written.
        if claimed.input_from is not None:
            validate_arguments(task, arguments)
        return arguments

    def judge_given_up(self, attempt: Attempt) -> Transition:
        """The outcome of an attempt that did not stop when it was told to."""
        try:
            return self.judge(attempt, Interrupted())
        except Exception as error:
            self.log.exception("run: %s: the runner itself failed", attempt)
            return self._ends_unretried(attempt, error)

    def judge(self, attempt: Attempt, error: BaseException) -> Transition:
        """The outcome of an attempt that raised `error`, or that was stopped and raised whatever it did."""
        if attempt.reason in {StopReason.LEASE, StopReason.SHUTDOWN, StopReason.REVOKED}:
            return release(started=True)
        if isinstance(error, ShutdownRequestedError):
            return release(started=True)
        if attempt.reason is StopReason.TIMEOUT:
            stopped = TaskTimedOutError(f"the attempt was stopped after its timeout of {attempt.timeout} s")
            error = stopped.with_traceback(error.__traceback__)
        return self._judge_error(attempt, error)

    def _judge_error(self, attempt: Attempt, error: BaseException) -> Transition:
        info = _describe(error)
        if isinstance(error, TaskCancelledError):
            return cancel_self(info.to_json())
        try:
            delay = self._retry_delay(attempt, error)
        except Exception as broken:
            self.log.exception("run: %s: its retry policy raised", attempt)
            broken.__context__ = error
            return fail(_describe(broken).to_json())
        if delay is not None:
            self.log.info(
                "run: %s: attempt %d failed, retried in %.3f s: %s", attempt, attempt.claimed.starts, delay, info.type
            )
            return retry(info.to_json(), microseconds(delay))
        self.log.info("run: %s: failed: %s: %s", attempt, info.type, info.message)
        return time_out(info.to_json()) if isinstance(error, TaskTimedOutError) else fail(info.to_json())

    def _judge_output(self, attempt: Attempt, output: Any) -> Transition | None:
        """The outcome of an attempt whose output the retry policy does not accept; None if it does."""
        policy = _policy(attempt)
        if policy is None:
            return None
        try:
            delay = retry_delay_for_result(policy, output, _history(attempt))
        except Exception as error:
            self.log.info("run: %s: failed: %s", attempt, error)
            return fail(_describe(error).to_json())
        if delay is None:
            return None
        self.log.info("run: %s: its output was not accepted, retried in %.3f s", attempt, delay)
        return retry(_NOT_ACCEPTED.to_json(), microseconds(delay))

    def _retry_delay(self, attempt: Attempt, error: BaseException) -> float | None:
        policy = _policy(attempt)
        return None if policy is None else retry_delay(policy, error, _history(attempt))

    def _ends_unretried(self, attempt: Attempt, error: Exception) -> Transition:
        info = attrs.evolve(_describe(error), retryable=False)
        self.log.info("run: %s: failed: %s: %s", attempt, info.type, info.message)
        return fail(info.to_json())


def _timeout(attempt: Attempt) -> float | None:
    if attempt.claimed.timeout is not None:
        return attempt.claimed.timeout / 1_000_000
    by_attempt = attempt.task.declaration.timeout
    return None if by_attempt is None else by_attempt(attempt.claimed.starts - 1)


def _policy(attempt: Attempt) -> tenacity.BaseRetrying | None:
    limit = attempt.claimed.max_retries
    return attempt.task.declaration.retry if limit is None else retry_policy(limit)


def _history(attempt: Attempt) -> RetryHistory:
    """With this attempt, which its policy is about to judge, counted as failed."""
    claimed = attempt.claimed
    before = (claimed.started_at - claimed.first_started_at) / 1_000_000
    return RetryHistory(
        failures=claimed.failures + 1,
        elapsed=before + attempt.run_seconds,
        idle_for=claimed.idle_for / 1_000_000,
    )


def _call(attempt: Attempt, arguments: dict[str, Any], context: TaskContext | None) -> Any:
    if isinstance(attempt.task.kind, Sequence | Loop):
        return arguments
    args, kwargs = attempt.task.schema.call_arguments(arguments)
    if context is not None:
        return attempt.task.function(context, *args, **kwargs)
    return attempt.task.function(*args, **kwargs)


def _describe(error: BaseException) -> ErrorInfo:
    """What is kept of an error, its traceback beginning with the task's own code."""
    own = error.__traceback__
    while own is not None and _is_ours(own) and own.tb_next is not None:
        own = own.tb_next
    info = ErrorInfo.of(error.with_traceback(own))
    return attrs.evolve(info, retryable=False) if not isinstance(error, Exception) else info


def _is_ours(step: TracebackType) -> bool:
    return str(step.tb_frame.f_globals.get("__name__", "")).startswith("durable_sync.engine.")
