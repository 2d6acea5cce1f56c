"""flow/retry: a call that fails before its first content is made again, invisibly; after it, never."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.agent.model import Model, ModelBatch, ModelRequest
from runstream.agent.retry import (
    ModelRetryAdvice,
    ModelRetryBackoffSettings,
    ModelRetryNormalizedError,
    ModelRetrySettings,
    RetryDecision,
    RetryPolicyContext,
    retry_policies,
)
from runstream.agent.settings import ModelSettings
from runstream.errors import (
    ModelBehaviorError,
    ModelStreamBroken,
    ModelStreamFailed,
    ModelStreamTruncated,
    ModelTimeoutError,
    UserError,
)
from runstream.events.model_event import build_event
from runstream.flow.retry import RetryPolicy, is_transient, policy_of, retry_after_s, retry_call, retry_stream
from runstream.testing import FakeClock

STEADY = RetryPolicy(jitter=False)
REQUEST = httpx2.Request("POST", "http://model.test/v1/responses")


def status_error(status: int, headers: dict[str, str] | None = None, code: str | None = None) -> openai.APIStatusError:
    response = httpx2.Response(status, headers=headers or {}, request=REQUEST)
    kinds: dict[int, Any] = {429: openai.RateLimitError, 401: openai.AuthenticationError, 400: openai.BadRequestError}
    kind = kinds.get(status, openai.InternalServerError if status >= 500 else openai.APIStatusError)
    return kind(f"status {status}", response=response, body={"code": code})


def connection_error() -> openai.APIConnectionError:
    return openai.APIConnectionError(request=REQUEST)


TRANSIENT: list[Exception] = [
    *(status_error(status) for status in (408, 409, 429, 500, 502, 503, 504, 529)),
    connection_error(),
    openai.APITimeoutError(request=REQUEST),
    ModelStreamTruncated("cut"),
    status_error(400, {"x-should-retry": "true"}),
    status_error(429, {"x-should-retry": "maybe"}),
    status_error(429, code="rate_limit_exceeded"),
]
LASTING: list[Exception] = [
    *(status_error(status) for status in (400, 401, 403, 404, 413, 422)),
    status_error(429, code="insufficient_quota"),
    status_error(429, {"x-should-retry": "true"}, code="insufficient_quota"),
    status_error(500, {"x-should-retry": "false"}),
    ModelStreamBroken("no JSON"),
    ModelStreamFailed("failed", event_type="response.failed"),
    ModelBehaviorError("odd"),
    UserError("wrong"),
    ValueError("bug"),
]


def shown(error: Exception) -> str:
    response = getattr(error, "response", None)
    status = "" if response is None else f"{response.status_code} {dict(response.headers)} {getattr(error, 'code', '')}"
    return f"{type(error).__name__} {status}"


class Failures:
    """Records what on_failure is told, and when."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._start = clock.now()
        self.seen: list[Exception] = []
        self.at_s: list[float] = []

    def __call__(self, error: Exception) -> None:
        self.seen.append(error)
        self.at_s.append(round(self._clock.now() - self._start, 6))


class Call:
    """A call that fails with these errors, one after the other, and then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.count = 0

    async def __call__(self) -> str:
        self.count += 1
        if len(self._errors) >= self.count:
            raise self._errors[self.count - 1]
        return "answer"


@pytest.mark.parametrize("error", TRANSIENT, ids=shown)
async def test_transient_errors_are_retried(error: Exception) -> None:
    """Connection faults, time limits, a cut stream, 408, 409, 429 and 5xx, or what the server says is worth it."""
    clock, call = FakeClock(), Call(error)
    failures = Failures(clock)
    assert is_transient(error)
    assert await retry_call(call, STEADY, clock, failures) == "answer"
    assert (call.count, failures.seen) == (2, [error])


@pytest.mark.parametrize("error", LASTING, ids=shown)
async def test_other_errors_go_up_at_once(error: Exception) -> None:
    """Wrong requests, an exhausted quota, broken streams, bugs: the same call would fail in the same way."""
    clock, call = FakeClock(), Call(error)
    failures = Failures(clock)
    assert not is_transient(error)
    with pytest.raises(type(error)) as caught:
        await retry_call(call, STEADY, clock, failures)
    assert caught.value is error
    assert (call.count, failures.seen, failures.at_s) == (1, [], [])


async def test_the_last_error_goes_up() -> None:
    """After max_retries more attempts the last error is raised, and on_failure was told the ones before it."""
    errors = [connection_error() for _ in range(3)]
    clock, call = FakeClock(), Call(*errors)
    failures = Failures(clock)
    with pytest.raises(openai.APIConnectionError) as caught:
        await retry_call(call, STEADY, clock, failures)
    assert caught.value is errors[2]
    assert (call.count, failures.seen) == (3, errors[:2])


@pytest.mark.parametrize("max_retries", [0, 1, 5])
async def test_how_often(max_retries: int) -> None:
    """There are at most max_retries attempts after the first."""
    clock, call = FakeClock(), Call(*(connection_error() for _ in range(9)))
    with pytest.raises(openai.APIConnectionError):
        await retry_call(call, RetryPolicy(max_retries=max_retries), clock, lambda error: None)
    assert call.count == max_retries + 1


async def test_pauses_grow_up_to_a_bound() -> None:
    """Half a second, then twice as long each time, and never more than max_delay_s."""
    clock, call = FakeClock(), Call(*(connection_error() for _ in range(6)))
    failures = Failures(clock)
    await retry_call(call, RetryPolicy(max_retries=6, max_delay_s=3.0, jitter=False), clock, failures)
    assert failures.at_s == [0.5, 1.5, 3.5, 6.5, 9.5, 12.5]


def test_pauses_vary_by_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance takes up to a quarter off each pause, so that clients do not come back all at once."""
    for chance, pause_s in ((0.0, 4.0), (0.5, 3.5), (1.0, 3.0)):
        monkeypatch.setattr(random, "random", lambda chance=chance: chance)
        assert RetryPolicy().backoff_s(4) == pause_s


def test_pauses_after_very_many_attempts() -> None:
    """A call that is retried for days does not fail because a power grew too large."""
    assert RetryPolicy(max_delay_s=8.0, jitter=False).backoff_s(100_000) == 8.0
    assert RetryPolicy(multiplier=1.0, jitter=False).backoff_s(100_000) == 0.5


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "60"}, 60.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Fri, 20 Nov 2026 10:00:00 GMT"}, 0.5),
        ({}, 0.5),
    ],
    ids=str,
)
async def test_the_server_says_how_long(headers: dict[str, str], pause_s: float) -> None:
    """Retry-After and Retry-After-Ms go before the usual pause; what is no number is as if it were not there."""
    clock, call = FakeClock(), Call(status_error(429, headers))
    failures = Failures(clock)
    await retry_call(call, STEADY, clock, failures)
    assert failures.at_s == [pause_s]


@pytest.mark.parametrize("value", ["61", "3600", "inf", "nan"])
async def test_too_long_a_pause_is_no_retry(value: str) -> None:
    """A server that asks for more than a minute is not waited for: the error goes up at once."""
    clock, call = FakeClock(), Call(status_error(429, {"retry-after": value}))
    before = clock.now()
    with pytest.raises(openai.RateLimitError):
        await retry_call(call, STEADY, clock, lambda error: None)
    assert (call.count, clock.now()) == (1, before)


def test_errors_without_a_response_ask_for_nothing() -> None:
    """Only an answer has headers."""
    assert retry_after_s(connection_error()) is None
    assert retry_after_s(ValueError()) is None


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()], ids=lambda e: type(e).__name__
)
async def test_cancellation_is_never_retried(error: BaseException) -> None:
    """What is no Exception passes through untouched."""
    call = Call(error)
    with pytest.raises(type(error)):
        await retry_call(call, STEADY, FakeClock(), lambda error: None)
    assert call.count == 1


async def test_a_pause_can_be_cancelled() -> None:
    """While it waits for the next attempt, a call can be cancelled at once."""
    clock, call = FakeClock(autojump=False), Call(connection_error())
    task = asyncio.ensure_future(retry_call(call, STEADY, clock, lambda error: None))
    await clock.settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (call.count, clock.sleepers) == (1, 0)


# Streams. A step is the types of the events of one batch, or an error to raise.

CREATED, PROGRESS, QUEUED = "response.created", "response.in_progress", "response.queued"
TEXT, ADDED, DONE = "response.output_text.delta", "response.output_item.added", "response.completed"


def frame_of(kind: str) -> bytes:
    return b'{"type":"%s","response":{"id":"r"}}' % kind.encode()


def batch(*kinds: str) -> ModelBatch:
    return ModelBatch(
        [build_event({"type": kind, "response": {"id": "r"}}) for kind in kinds], [frame_of(kind) for kind in kinds]
    )


class Streams:
    """Opens one stream after the other, each given by its steps, and knows which were closed."""

    def __init__(self, *scripts: list[Any]) -> None:
        self._scripts = list(scripts)
        self.opened = 0
        self.closed = 0

    def __call__(self) -> AsyncIterator[ModelBatch]:
        self.opened += 1
        return self._stream(self._scripts[self.opened - 1])

    async def _stream(self, steps: list[Any]) -> AsyncGenerator[ModelBatch, None]:
        try:
            for step in steps:
                await asyncio.sleep(0)
                if isinstance(step, BaseException):
                    raise step
                yield batch(*step)
        finally:
            await asyncio.sleep(0)
            self.closed += 1


async def collect(streams: Streams, policy: RetryPolicy = STEADY) -> tuple[list[Any], Failures, BaseException | None]:
    """What a reader gets (the types of the events, batch by batch), and the error that ends it."""
    clock = FakeClock()
    failures = Failures(clock)
    got: list[Any] = []
    raised: BaseException | None = None
    try:
        async for each in retry_stream(streams, policy, clock, failures):
            assert [frame_of(event.type) for event in each.events] == each.frames
            assert each.events == batch(*(event.type for event in each.events)).events  # those held back, too
            got.append([event.type for event in each.events])
    except Exception as error:
        raised = error
    assert streams.closed == streams.opened
    return got, failures, raised


async def test_a_stream_that_does_not_fail() -> None:
    """Lifecycle events come with the first content; after it batches come as they are."""
    streams = Streams([[CREATED], [PROGRESS], [ADDED, TEXT], [TEXT], [CREATED], [DONE]])
    got, failures, raised = await collect(streams)
    assert got == [[CREATED, PROGRESS, ADDED, TEXT], [TEXT], [CREATED], [DONE]]
    assert (failures.seen, raised, streams.opened) == ([], None, 1)


async def test_a_retry_before_content_is_invisible() -> None:
    """Lifecycle events of an attempt that failed before its content are never seen."""
    errors = [connection_error(), ModelStreamTruncated("cut")]
    streams = Streams([errors[0]], [[CREATED], [QUEUED, PROGRESS], errors[1]], [[CREATED], [TEXT], [DONE]])
    got, failures, raised = await collect(streams)
    assert got == [[CREATED, TEXT], [DONE]]
    assert (failures.seen, failures.at_s, raised) == (errors, [0.5, 1.5], None)


@pytest.mark.parametrize("content", [[TEXT], [ADDED], [CREATED, TEXT], ["server.hello"], ["error"], [DONE]], ids=str)
async def test_after_content_an_error_goes_up(content: list[str]) -> None:
    """Once anything but lifecycle events was handed on, the call is not made again."""
    error = connection_error()
    streams = Streams([[CREATED], content, error], [[CREATED], [TEXT], [DONE]])
    got, failures, raised = await collect(streams)
    assert got == [[CREATED, *content]]
    assert (failures.seen, raised, streams.opened) == ([], error, 1)


async def test_when_it_gives_up_what_came_is_shown() -> None:
    """The lifecycle events of the last attempt come before its error."""
    errors = [connection_error() for _ in range(3)]
    streams = Streams([[CREATED], errors[0]], [errors[1]], [[CREATED], [PROGRESS], errors[2]])
    got, failures, raised = await collect(streams)
    assert got == [[CREATED, PROGRESS]]
    assert (failures.seen, raised) == (errors[:2], errors[2])


async def test_a_lasting_error_of_a_stream_goes_up_at_once() -> None:
    """A stream that fails in a way that will not change is opened once."""
    error = status_error(401)
    got, failures, raised = await collect(Streams([error]))
    assert (got, failures.seen, raised) == ([], [], error)


async def test_a_stream_without_content_was_cut() -> None:
    """A stream that ends before any content is asked for again; the last one gives what it had, and the error."""
    got, failures, raised = await collect(Streams([[CREATED], [PROGRESS]], [[CREATED], [TEXT]]))
    assert ([kind for each in got for kind in each], raised) == ([CREATED, TEXT], None)
    assert [type(error) for error in failures.seen] == [ModelStreamTruncated]
    got, _, raised = await collect(Streams([[CREATED], [PROGRESS]]), RetryPolicy(max_retries=0))
    assert got == [[CREATED, PROGRESS]]
    assert isinstance(raised, ModelStreamTruncated)


@pytest.mark.parametrize("taken", [0, 1, 2])
async def test_closing_closes_the_stream(taken: int) -> None:
    """A reader that goes away closes the stream that is open, and no other is opened."""
    streams = Streams([[CREATED], [TEXT], [TEXT], [DONE]])
    batches = retry_stream(streams, STEADY, FakeClock(), lambda error: None)
    for _ in range(taken):
        await anext(batches)
    await batches.aclose()
    assert (streams.opened, streams.closed) == (min(taken, 1), min(taken, 1))


async def test_cancelling_closes_the_stream() -> None:
    """A reader that is cancelled while it waits for the model leaves no stream open and no attempt begun."""
    forever: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    closed: list[bool] = []

    async def stream() -> AsyncGenerator[ModelBatch, None]:
        try:
            yield batch(CREATED)
            await forever
        finally:
            closed.append(True)

    batches = retry_stream(stream, STEADY, FakeClock(), lambda error: None)
    task = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]


async def test_a_stream_is_closed_before_the_next_is_opened() -> None:
    """Two attempts are never open at the same time."""
    open_now = 0

    def opener(steps: list[Any]) -> AsyncIterator[ModelBatch]:
        async def stream() -> AsyncGenerator[ModelBatch, None]:
            nonlocal open_now
            open_now += 1
            assert open_now == 1
            try:
                for step in steps:
                    if isinstance(step, Exception):
                        raise step
                    yield batch(*step)
            finally:
                await asyncio.sleep(0)
                open_now -= 1

        return stream()

    scripts = iter([[connection_error()], [[CREATED], connection_error()], [[TEXT]]])
    got = [each async for each in retry_stream(lambda: opener(next(scripts)), STEADY, FakeClock(), lambda error: None)]
    assert len(got) == 1


_STEPS = st.lists(st.sampled_from([[CREATED], [PROGRESS, QUEUED], [TEXT], [CREATED, TEXT], [DONE]]), max_size=4)
_ENDS = st.sampled_from(["end", "transient", "lasting"])


@given(scripts=st.lists(st.tuples(_STEPS, _ENDS), min_size=4, max_size=4), max_retries=st.integers(0, 3))
def test_any_course_of_attempts(scripts: list[Any], max_retries: int) -> None:
    """Readers see the events of exactly one attempt: the first with content or a lasting error, or the last."""
    errors: dict[str, Callable[[], Exception]] = {"transient": connection_error, "lasting": lambda: status_error(400)}
    streams = Streams(*([*steps, errors[end]()] if end in errors else steps for steps, end in scripts))
    got, failures, raised = asyncio.run(collect(streams, RetryPolicy(max_retries=max_retries)))

    def has_content(steps: list[Any]) -> bool:
        return any({TEXT, DONE} & set(step) for step in steps)

    def is_retried(steps: list[Any], end: str) -> bool:
        return end != "lasting" and not has_content(steps)  # an end without content is a cut

    last = 0
    while last < max_retries and is_retried(*scripts[last]):
        last += 1
    steps, end = scripts[last]
    assert [kind for each in got for kind in each] == [kind for step in steps for kind in step]
    assert (streams.opened, len(failures.seen)) == (last + 1, last)
    assert (raised is None) == (end == "end" and has_content(steps))


# Policies that users declare.


class _Model(Model):
    """A model that advises."""

    def __init__(self, advice: Any = None) -> None:
        self.advice = advice
        self.asked: list[Any] = []

    def get_retry_advice(self, request: Any) -> Any:
        self.asked.append(request)
        return self.advice


def request(**more: Any) -> ModelRequest:
    return ModelRequest(None, "hi", ModelSettings(), [], None, [], **more)


async def pauses(
    retry: ModelRetrySettings | None, *errors: Exception, advice: Any = None, stream: bool = False
) -> list[float] | Exception:
    """When each attempt after the first was made, in seconds from the start; the error if it came to that."""
    clock, call = FakeClock(), Call(*errors)
    failures = Failures(clock)
    try:
        await retry_call(call, policy_of(retry, _Model(advice), request(), stream=stream), clock, failures)
    except Exception as error:
        return error
    return failures.at_s


def test_without_settings_the_default_holds() -> None:
    """What a user leaves open is the default: two retries, half a second, and the built-in decision."""
    assert policy_of(None, _Model(), request(), stream=True) == RetryPolicy()
    assert policy_of(ModelRetrySettings(), _Model(), request(), stream=True) == RetryPolicy()


def test_settings_replace_the_default_field_by_field() -> None:
    """Each field that a user sets replaces its own default and no other."""
    retry = ModelRetrySettings(max_retries=5, backoff=ModelRetryBackoffSettings(initial_delay=0.0, jitter=False))
    assert policy_of(retry, _Model(), request(), stream=True) == RetryPolicy(5, 0.0, 8.0, 2.0, False)
    retry = ModelRetrySettings(backoff={"max_delay": 3.0, "multiplier": 1.5})
    assert policy_of(retry, _Model(), request(), stream=True) == RetryPolicy(2, 0.5, 3.0, 1.5, True)
    assert policy_of(ModelRetrySettings(max_retries=0), _Model(), request(), stream=True).max_retries == 0


def steady_retry(policy: Any, max_retries: int = 2) -> ModelRetrySettings:
    return ModelRetrySettings(max_retries=max_retries, backoff={"jitter": False}, policy=policy)


async def test_a_policy_replaces_the_decision() -> None:
    """A policy may retry what is lasting and refuse what is transient; async ones and plain ones alike."""

    async def yes(context: RetryPolicyContext) -> bool:
        return True

    bad, lost = status_error(400), connection_error()
    assert await pauses(steady_retry(yes), bad, bad) == [0.5, 1.5]
    assert await pauses(steady_retry(lambda context: True), bad) == [0.5]
    assert await pauses(steady_retry(lambda context: False), lost) is lost
    assert await pauses(steady_retry(retry_policies.never()), lost) is lost
    assert await pauses(steady_retry(retry_policies.network_error()), lost) == [0.5]
    assert await pauses(steady_retry(retry_policies.http_status([400])), bad) == [0.5]
    assert await pauses(steady_retry(yes, max_retries=0), bad) is bad


async def test_a_policy_may_name_the_pause() -> None:
    """A delay of a decision is waited for as it is; without one the server's wish, and then the backoff."""
    asked = status_error(429, {"retry-after": "7"})
    assert await pauses(steady_retry(lambda context: RetryDecision(retry=True, delay=0)), asked) == [0.0]
    assert await pauses(steady_retry(lambda context: RetryDecision(retry=True, delay=1)), asked) == [1.0]
    assert await pauses(steady_retry(lambda context: RetryDecision(retry=True, delay=90.5)), asked) == [90.5]
    assert await pauses(steady_retry(lambda context: RetryDecision(retry=True)), asked) == [7.0]
    assert await pauses(steady_retry(retry_policies.http_status([429])), asked) == [7.0]
    assert await pauses(steady_retry(retry_policies.retry_after()), asked) == [7.0]
    silent = status_error(429)
    assert await pauses(steady_retry(retry_policies.retry_after()), silent) is silent
    late = status_error(429, {"retry-after": "3600"})
    assert await pauses(steady_retry(lambda context: True), late) is late


async def test_what_a_policy_is_told() -> None:
    """The context has the error, which attempt it was, and what is known of the error whoever raised it."""
    seen: list[RetryPolicyContext] = []
    errors = [status_error(429, {"retry-after-ms": "500", "x-request-id": "req_1"}, code="rate_limit_exceeded")]
    errors += [openai.APITimeoutError(request=REQUEST), connection_error()]  # type: ignore[list-item]
    model = _Model()

    def policy(context: RetryPolicyContext) -> bool:
        seen.append(context)
        return True

    asked = request(previous_response_id="resp_1", conversation_id="conv_1")
    await retry_call(
        Call(*errors), policy_of(steady_retry(policy, 3), model, asked, stream=True), FakeClock(), lambda e: None
    )
    assert [(each.error, each.attempt, each.max_retries, each.stream) for each in seen] == [
        (errors[0], 1, 3, True),
        (errors[1], 2, 3, True),
        (errors[2], 3, 3, True),
    ]
    limited, slow, lost = (each.normalized for each in seen)
    assert limited == ModelRetryNormalizedError(429, "rate_limit_exceeded", "status 429", "req_1", 0.5)
    assert (slow.is_timeout, slow.is_network_error, slow.status_code) == (True, False, None)
    assert (lost.is_timeout, lost.is_network_error) == (False, True)
    assert all(each.stateful_request for each in seen)
    assert [(each.error, each.attempt, each.stream, each.previous_response_id) for each in model.asked] == [
        (error, number, True, "resp_1") for number, error in enumerate(errors, 1)
    ]


async def test_our_own_time_limit_is_a_time_out() -> None:
    """A policy for network errors covers the limit of ModelSettings.timeout; the built-in decision does not."""
    slow = ModelTimeoutError(5.0)
    assert await pauses(steady_retry(retry_policies.network_error()), slow) == [0.5]
    assert await pauses(None, slow) is slow


async def test_advice_goes_before_what_is_found() -> None:
    """A model knows its own errors: what it advises replaces what was read from them."""
    advice = ModelRetryAdvice(retry_after=4.0, normalized=ModelRetryNormalizedError(status_code=503, is_timeout=True))
    seen: list[ModelRetryNormalizedError] = []

    def policy(context: RetryPolicyContext) -> bool:
        seen.append(context.normalized)
        return True

    assert await pauses(steady_retry(policy), ValueError("mine"), advice=advice) == [4.0]
    assert seen == [ModelRetryNormalizedError(503, None, "mine", None, 4.0, is_timeout=True)]


async def test_a_veto_of_the_model_holds() -> None:
    """What the model says not to repeat is not repeated, whatever another policy says."""
    policy = retry_policies.any(retry_policies.provider_suggested(), lambda context: True)
    lost = connection_error()
    assert await pauses(steady_retry(policy), lost, advice=ModelRetryAdvice(suggested=False)) is lost
    assert await pauses(steady_retry(policy), lost, advice=ModelRetryAdvice(suggested=True, retry_after=3.0)) == [3.0]


async def test_a_request_that_is_unsafe_to_repeat() -> None:
    """It is repeated only by a policy that approves of just that."""
    unsafe, lost = ModelRetryAdvice(replay_safety="unsafe"), connection_error()
    approves = RetryDecision(retry=True, approve_unsafe_replay=True)
    assert await pauses(steady_retry(lambda context: True), lost, advice=unsafe) is lost
    assert await pauses(steady_retry(lambda context: approves), lost, advice=unsafe) == [0.5]
    assert await pauses(steady_retry(lambda context: True), lost, advice=ModelRetryAdvice(replay_safety="safe")) == [
        0.5
    ]


async def test_an_error_of_the_policy_goes_up() -> None:
    """A policy that fails does not hide behind the error that it was asked about, nor the other way round."""

    def policy(context: RetryPolicyContext) -> bool:
        raise KeyError("bug in the policy")

    raised = await pauses(steady_retry(policy), connection_error())
    assert isinstance(raised, KeyError)
    assert isinstance(raised.__context__, openai.APIConnectionError)
