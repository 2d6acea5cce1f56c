"""Retrying a model call: the one place in the package that sends a request again to the same model.

Before its first content a call is made again invisibly. Once content was handed on, an error goes up as it is, unless
the policy is to begin again (`flow/attempts.py`).
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from runstream.agent.model import Model, ModelBatches, ModelRequest, open_batches
from runstream.agent.model_failure import is_transient, normalized_error, retry_after_s
from runstream.agent.response import ModelResponse
from runstream.agent.retry import (
    ModelRetryAdvice,
    ModelRetryAdviceRequest,
    ModelRetryBackoffSettings,
    ModelRetryNormalizedError,
    ModelRetrySettings,
    RetryPolicyContext,
    evaluate_policy,
)
from runstream.clock import Clock, system_clock
from runstream.errors import ModelStreamFailed, ModelTimeoutError
from runstream.flow.attempts import AfterContent, AttemptStream, FailedAttempt, attempt_listener, tell
from runstream.flow.wrapped import WrappedModel, ask

__all__ = ["RetryBudget", "RetryPolicy", "RetryingModel", "policy_of", "retry_call", "retry_stream"]

_T = TypeVar("_T")


class RetryBudget:
    """So many retries a minute, over all calls that share it: a process (or an endpoint) that fails as a whole is not
    asked three times as often as before. An empty budget lets errors go up at once.

    `size` retries may be made at once; they come back evenly, `per_minute` a minute (the size, if not given).
    """

    def __init__(self, size: int, *, per_minute: float | None = None, clock: Clock = system_clock) -> None:
        if size < 1:
            raise ValueError(f"a RetryBudget's size must be at least 1, not {size}")
        self.size = size
        self.per_minute = float(size if per_minute is None else per_minute)
        self._clock = clock
        self._level = float(size)
        self._at = clock.now()

    @property
    def left(self) -> int:
        """How many retries may be made now."""
        now = self._clock.now()
        self._level = min(self._level + (now - self._at) * self.per_minute / 60, float(self.size))
        self._at = now
        return int(self._level)

    def take(self) -> bool:
        """Take one; False where there is none."""
        if self.left < 1:
            return False
        self._level -= 1
        return True


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later. A whole call that took too long would do so again."""
    if isinstance(error, ModelTimeoutError):
        return error.phase != "model_call"
    if isinstance(error, ModelStreamFailed):
        return error.retryable
    return is_transient(error)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and after what pause a failed call is made again. The defaults are the official `openai` client's."""

    max_retries: int = 2
    initial_delay_s: float = 0.5
    max_delay_s: float = 8.0
    multiplier: float = 2.0
    jitter: bool = True
    max_retry_after_s: float = 60.0
    """A server that asks for a longer pause than this gets no retry: the error goes up at once."""
    decide: Callable[[Exception, int], Awaitable[float | bool] | float | bool] | None = None
    """Replaces the built-in decision: given the error and the number of attempts made, False gives up, True retries
    after the usual pause, a number retries after so many seconds."""
    budget: RetryBudget | None = None
    """Retries beyond it are not made."""

    def pause_s(self, error: Exception, attempts: int) -> float | None:
        """Seconds to wait before the next attempt, or None where there must be none."""
        return self.usual_pause_s(error, attempts) if _may_pass(error) else None

    def usual_pause_s(self, error: Exception, attempts: int) -> float | None:
        """Seconds that the server asks for, else the backoff's; None where the server asks for too many."""
        asked_s = retry_after_s(error)
        if asked_s is None:
            return self.backoff_s(attempts)
        return asked_s if asked_s <= self.max_retry_after_s else None

    def backoff_s(self, attempts: int) -> float:
        """Exponential, with up to a quarter taken off at random so that clients do not come back all at once."""
        # Beyond so many doublings the longest pause is reached, and powers grow too large to compute.
        delay_s = min(self.initial_delay_s * self.multiplier ** min(attempts - 1, 64), self.max_delay_s)
        return delay_s * (1 - 0.25 * random.random()) if self.jitter else delay_s


def policy_of(settings: ModelRetrySettings | None, model: Model, request: ModelRequest, *, stream: bool) -> RetryPolicy:
    """The policy that `ModelSettings.retry` describes; what it leaves open is the default."""
    if settings is None:
        # A client that sends failed requests again by itself is left to it: two loops would multiply.
        return RetryPolicy(max_retries=0) if getattr(model, "retries_itself", False) is True else RetryPolicy()
    default = RetryPolicy()
    backoff = settings.backoff
    if not isinstance(backoff, ModelRetryBackoffSettings):
        backoff = ModelRetryBackoffSettings()
    max_retries = default.max_retries if settings.max_retries is None else settings.max_retries
    chosen = settings.policy

    async def decide(error: Exception, attempts: int) -> float | bool:
        assert chosen is not None
        advice = model.get_retry_advice(
            ModelRetryAdviceRequest(error, attempts, stream, request.previous_response_id, request.conversation_id)
        )
        context = RetryPolicyContext(
            error,
            attempts,
            max_retries,
            stream,
            _normalized(error, advice),
            advice,
            request.previous_response_id,
            request.conversation_id,
        )
        decision = await evaluate_policy(chosen, context)
        if not decision.retry:
            return False
        if context.replay_safety == "unsafe" and not decision.approve_unsafe_replay:
            return False
        if decision.delay is not None:
            return decision.delay
        advised_s = context.normalized.retry_after
        return True if advised_s is None or retry_after_s(error) is not None else advised_s

    return RetryPolicy(
        max_retries=max_retries,
        initial_delay_s=default.initial_delay_s if backoff.initial_delay is None else backoff.initial_delay,
        max_delay_s=default.max_delay_s if backoff.max_delay is None else backoff.max_delay,
        multiplier=default.multiplier if backoff.multiplier is None else backoff.multiplier,
        jitter=default.jitter if backoff.jitter is None else backoff.jitter,
        decide=None if chosen is None else decide,
    )


def _normalized(error: Exception, advice: ModelRetryAdvice | None) -> ModelRetryNormalizedError:
    found = normalized_error(error)
    if advice is None:
        return found
    told = {} if advice.normalized is None else {k: v for k, v in vars(advice.normalized).items() if v}
    if advice.retry_after is not None:
        told.setdefault("retry_after", advice.retry_after)
    return replace(found, **told)


async def _pause(policy: RetryPolicy, clock: Clock, error: Exception, attempts: int) -> bool:
    """Wait before the next attempt; False where there must be none."""
    if attempts > policy.max_retries:
        return False
    if policy.decide is None:
        pause_s = policy.pause_s(error, attempts)
    else:
        decided = policy.decide(error, attempts)
        decision = await decided if inspect.isawaitable(decided) else decided
        if isinstance(decision, bool):
            pause_s = policy.usual_pause_s(error, attempts) if decision else None
        else:
            pause_s = float(decision)
    if pause_s is None or (policy.budget is not None and not policy.budget.take()):
        return False
    await clock.sleep(pause_s)
    return True


async def retry_call(
    call: Callable[[], Awaitable[_T]], policy: RetryPolicy, clock: Clock, on_failure: Callable[[Exception], None]
) -> _T:
    """Make the call, again after transient errors. `on_failure` is told each error that is followed by a retry."""
    attempts = 0
    while True:
        attempts += 1
        try:
            return await call()
        except Exception as error:
            if not await _pause(policy, clock, error, attempts):
                raise
            on_failure(error)


def retry_stream(
    open_stream: Callable[[], ModelBatches],
    policy: RetryPolicy,
    clock: Clock,
    on_failure: Callable[[Exception], None],
    *,
    after_content: AfterContent = "fail",
) -> ModelBatches:
    """The batches of a stream that is opened again after transient errors: before its first content, and after it as
    `after_content` says.

    `on_failure` is told each error that is followed by a retry; what was handed on before it is void as soon as there
    is another batch. Every stream that was opened is closed, the last one by whoever closes this one.
    """
    return _RetriedStream(open_stream, policy, clock, on_failure, after_content)


class _RetriedStream(AttemptStream):
    __slots__ = ("_attempts", "_clock", "_on_failure", "_open_stream", "_policy")

    def __init__(
        self,
        open_stream: Callable[[], ModelBatches],
        policy: RetryPolicy,
        clock: Clock,
        on_failure: Callable[[Exception], None],
        after_content: AfterContent,
    ) -> None:
        super().__init__(after_content)
        self._open_stream = open_stream
        self._policy = policy
        self._clock = clock
        self._on_failure = on_failure
        self._attempts = 0

    def _open(self) -> ModelBatches:
        self._attempts += 1
        return self._open_stream()

    async def _goes_on(self, error: Exception) -> bool:
        if not await _pause(self._policy, self._clock, error, self._attempts):
            return False
        self._on_failure(error)
        return True


class RetryingModel(WrappedModel):
    """A model whose failed calls are made again, as `policy` says; without one as the call's `ModelSettings.retry`
    does, or else the default.

    `after_content` is for streams that break once content was shown. To begin again then takes somebody who takes
    back what was shown: a run does. Used alone, such a stream fails.
    """

    def __init__(
        self,
        inner: Model,
        policy: RetryPolicy | None = None,
        *,
        after_content: AfterContent = "fail",
        budget: RetryBudget | None = None,
        clock: Clock = system_clock,
    ) -> None:
        super().__init__(inner)
        self._policy = policy
        self._after_content: AfterContent = after_content
        self._budget = budget
        self._clock = clock

    async def respond(self, request: ModelRequest) -> ModelResponse:
        policy = self._policy_for(request, stream=False)
        return await retry_call(lambda: ask(self.inner, request), policy, self._clock, self._told)

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        policy = self._policy_for(request, stream=True)
        after_content: AfterContent = "fail" if attempt_listener.get() is None else self._after_content
        return _RetriedStream(lambda: open_batches(self.inner, request), policy, self._clock, self._told, after_content)

    def _policy_for(self, request: ModelRequest, *, stream: bool) -> RetryPolicy:
        policy = self._policy or policy_of(request.model_settings.retry, self.inner, request, stream=stream)
        return policy if self._budget is None else replace(policy, budget=self._budget)

    def _told(self, error: Exception) -> None:
        tell(FailedAttempt(error, "retry", self.model))
