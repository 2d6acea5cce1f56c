"""Retrying a model call before its first content: the one place in the package that sends a request again.

Lifecycle events (`response.created` and the like) are held back until content arrives, so that a retry before it stays
invisible. Once content was handed on, an error goes up as it is: text that people have seen is not taken back here.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from runstream.agent.model import Model, ModelBatch, ModelBatches, ModelRequest
from runstream.agent.model_failure import is_transient, normalized_error, retry_after_s
from runstream.agent.retry import (
    ModelRetryAdvice,
    ModelRetryAdviceRequest,
    ModelRetryBackoffSettings,
    ModelRetryNormalizedError,
    ModelRetrySettings,
    RetryPolicyContext,
    evaluate_policy,
)
from runstream.errors import ModelStreamTruncated

if TYPE_CHECKING:
    from runstream.clock import Clock

__all__ = ["RetryPolicy", "policy_of", "retry_call", "retry_stream"]

_T = TypeVar("_T")
_LIFECYCLE = frozenset(("response.created", "response.queued", "response.in_progress"))


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

    def pause_s(self, error: Exception, attempts: int) -> float | None:
        """Seconds to wait before the next attempt, or None where there must be none."""
        return self.usual_pause_s(error, attempts) if is_transient(error) else None

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
    if pause_s is None:
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
) -> ModelBatches:
    """The batches of a stream that is opened again after transient errors before its first content.

    `on_failure` is told each error that is followed by a retry. Every stream that was opened is closed, the last one by
    whoever closes this one.
    """
    return _RetriedStream(open_stream, policy, clock, on_failure)


class _RetriedStream:
    __slots__ = ("_clock", "_error", "_on_failure", "_open_stream", "_policy", "_stream", "_under_way")

    def __init__(
        self,
        open_stream: Callable[[], ModelBatches],
        policy: RetryPolicy,
        clock: Clock,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._open_stream = open_stream
        self._policy = policy
        self._clock = clock
        self._on_failure = on_failure
        self._stream: ModelBatches | None = None
        self._under_way = False
        self._error: Exception | None = None

    def __aiter__(self) -> _RetriedStream:
        return self

    def __anext__(self) -> Awaitable[ModelBatch]:
        # Once there was content, nothing stands between the stream and its reader.
        if self._under_way and self._stream is not None:
            return self._stream.__anext__()
        return self._begin()

    async def aclose(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _begin(self) -> ModelBatch:
        """The first content, and what was held back before it; where there is none, what was held back, then the
        error."""
        if self._under_way:
            if self._error is None:
                raise StopAsyncIteration
            raise self._error
        attempts = 0
        while True:
            attempts += 1
            held: list[ModelBatch] = []
            stream = self._stream = self._open_stream()
            try:
                async for batch in stream:
                    held.append(batch)
                    if not all(event.type in _LIFECYCLE for event in batch.events):
                        self._under_way = True
                        return _joined(held)
                raise ModelStreamTruncated("The model's stream ended before it brought anything.")
            except Exception as error:
                await self.aclose()
                if not await _pause(self._policy, self._clock, error, attempts):
                    self._under_way = True
                    if not held:
                        raise
                    self._error = error
                    return _joined(held)
                self._on_failure(error)


def _joined(batches: list[ModelBatch]) -> ModelBatch:
    if len(batches) == 1:
        return batches[0]
    events: list[Any] = []
    frames: list[bytes | None] = []
    for batch in batches:
        events += batch.events
        frames += batch.frames
    return ModelBatch(events, frames)
