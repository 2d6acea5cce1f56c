"""flow/fallback, attempts, partial: operators around models, used alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import openai
import pytest

from runstream.agent.model import Model, ModelBatch, ModelRequest, ModelTracing, open_batches, streams_in_batches
from runstream.agent.output import AgentOutputSchema
from runstream.agent.response import ModelResponse
from runstream.agent.settings import ModelSettings
from runstream.agent.usage import Usage
from runstream.errors import (
    CircuitOpen,
    LoadRefused,
    ModelStreamBroken,
    ModelStreamFailed,
    ModelStreamTruncated,
    ModelTimeoutError,
    UserError,
)
from runstream.events.model_event import build_event
from runstream.flow.attempts import FailedAttempt, attempt_listener
from runstream.flow.failures import failure_kind, failure_of
from runstream.flow.fallback import Fallback, PlainCall
from runstream.flow.partial import PartialModel
from runstream.flow.retry import RetryBudget, RetryingModel, RetryPolicy
from runstream.testing import FakeClock, ScriptedModel, assistant_message

_HTTP = httpx2.Request("POST", "http://model.test")
CREATED, DONE, FAILED = "response.created", "response.completed", "response.failed"
CUT = ModelStreamTruncated("cut")


def request(schema: Any = None) -> ModelRequest:
    return ModelRequest(None, "hi", ModelSettings(), [], schema, [], ModelTracing.DISABLED)


def status(code: int, error_code: str | None = None) -> openai.APIStatusError:
    return openai.APIStatusError("x", response=httpx2.Response(code, request=_HTTP), body={"code": error_code})


def event(step: Any) -> Any:
    """A word stands for its delta, a type for an event of it, a dict for itself."""
    if isinstance(step, dict):
        return build_event(step)
    if "." in step or step == "error":
        return build_event({"type": step, "response": {"error": None}, "message": "m", "code": None})
    names = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return build_event({"type": "response.output_text.delta", "delta": step, **names})


class Play(Model):
    """Each call plays the next script: events, one a batch (a list: one batch), errors, waits for ever (None)."""

    def __init__(self, *scripts: list[Any], name: str = "m") -> None:
        self.model = name
        self.scripts = list(scripts)
        self.calls = 0
        self.open = 0

    async def get_response(self, *arguments: Any, **options: Any) -> Any:
        text = ""
        async for batch in self.batches(request()):
            text += "".join(getattr(each, "delta", "") for each in batch.events)
        return ModelResponse([assistant_message(text)], Usage(requests=1), None)

    @streams_in_batches("batches")
    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        yield

    async def batches(self, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
        self.calls += 1
        self.open += 1
        try:
            for step in self.scripts.pop(0):
                await asyncio.sleep(0)
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    await asyncio.get_running_loop().create_future()
                steps = step if isinstance(step, list) else [step]
                yield ModelBatch([event(each) for each in steps], [None] * len(steps))
        finally:
            self.open -= 1
            await asyncio.sleep(0)


async def read(model: Model, schema: Any = None) -> tuple[str, list[str], Exception | None]:
    """The text, the other events' types, and the error of a stream."""
    text, kinds = "", list[str]()
    batches = open_batches(model, request(schema))
    try:
        async for batch in batches:
            for each in batch.events:
                if each.type == "response.output_text.delta":
                    text += each.delta
                else:
                    kinds.append(each.type)
    except Exception as error:
        return text, kinds, error
    finally:
        await batches.aclose()
    return text, kinds, None


# Kinds of failures.


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelTimeoutError(1.0), "timeout"),
        (openai.APITimeoutError(request=_HTTP), "timeout"),
        (status(408), "timeout"),
        (openai.APIConnectionError(request=_HTTP), "connection"),
        (CUT, "connection"),
        (status(500), "server"),
        (status(429), "rate_limit"),
        (status(429, "insufficient_quota"), "quota"),
        (status(404), "not_found"),
        (status(401), "refused"),
        (ModelStreamBroken("no JSON"), "broken_stream"),
        (CircuitOpen("m", 1.0), "circuit_open"),
        (LoadRefused("runs", 1), "load_refused"),
        (ModelStreamFailed("x", event_type="error"), "server"),
        (ModelStreamFailed("x", event_type="error", error_code="rate_limit_exceeded"), "rate_limit"),
        (ModelStreamFailed("x", event_type=FAILED, error_code="invalid_prompt"), "refused"),
        (ModelStreamFailed("x", event_type=FAILED, error_code="insufficient_quota"), "quota"),
        (ModelStreamFailed("x", event_type="response.incomplete"), "incomplete"),
        (UserError("x"), "other"),
        (ValueError("x"), "other"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    """Each error has one kind."""
    assert failure_kind(error) == kind


def test_a_failure_event_is_an_error() -> None:
    """With the provider's code and account; retryable where another attempt may succeed."""
    usage = {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
    response = {"error": {"code": "server_error", "message": "oh"}, "usage": usage}
    failed = failure_of(build_event({"type": FAILED, "response": response}))
    assert (failed.error_code, failed.retryable, failed.usage.total_tokens) == ("server_error", True, 4)
    refused = {"error": {"code": "invalid_prompt", "message": "no"}}
    assert not failure_of(build_event({"type": FAILED, "response": refused})).retryable


# Fallback.


@pytest.mark.parametrize(
    "error", [CUT, status(503), status(429), CircuitOpen("m", 1.0), status(429, "insufficient_quota")]
)
async def test_the_next_model_answers(error: Exception) -> None:
    """Streamed and not; what the failed one had begun is not seen; its stream is closed."""
    first, second = Play([CREATED, error], [error]), Play([CREATED, "hi", DONE], ["whole"], name="n")
    model = Fallback(first, second)
    assert await read(model) == ("hi", [CREATED, DONE], None)
    response = await model.respond(request())
    assert response.output[0].content[0].text == "whole"  # type: ignore[union-attr]
    assert first.open == second.open == 0


@pytest.mark.parametrize("error", [status(400), status(404), UserError("x")])
async def test_errors_that_are_nobodys_fault_go_up(error: Exception) -> None:
    """The next model is not asked, unless that kind is named, or a function says so."""
    for chain in (Fallback(Play([error], [error]), Play()), Fallback(Play([error], [error]), Play(), on=())):
        assert (await read(chain))[2] is error
        with pytest.raises(type(error)):
            await chain.respond(request())
    chosen = Fallback(Play([error]), Play(["hi"]), on=[failure_kind(error)])
    assert (await read(chosen))[0] == "hi"
    chosen = Fallback(Play([error]), Play(["hi"]), on=lambda given: given is error)
    assert (await read(chosen))[0] == "hi"


async def test_where_none_answers_the_last_error_is_raised() -> None:
    """After what the last one had begun."""
    last = status(500)
    chain = Fallback(Play([CREATED, CUT]), Play([CREATED, last]))
    assert await read(chain) == ("", [CREATED], last)
    chain = Fallback(Play([CUT]), Play([last]))
    with pytest.raises(openai.APIStatusError):
        await chain.respond(request())


@pytest.mark.parametrize("step", [["error"], [FAILED], [[CREATED, FAILED]], [CREATED, ["one", FAILED]]], ids=str)
async def test_a_failure_that_comes_as_an_event(step: list[Any]) -> None:
    """HTTP 200 and then a failure before any content that was handed on: the next model answers, invisibly."""
    assert await read(Fallback(Play(step), Play([CREATED, "hi", DONE]))) == ("hi", [CREATED, DONE], None)


async def test_alone_nothing_is_taken_back() -> None:
    """Without anybody who takes back what was shown, a stream fails after content, whatever the policy."""
    chain = Fallback(Play([CREATED, "one", CUT]), Play(["never"]), after_content="restart")
    assert await read(chain) == ("one", [CREATED], CUT)
    retrying = RetryingModel(Play([CREATED, "one", CUT], ["never"]), after_content="restart", clock=FakeClock())
    assert await read(retrying) == ("one", [CREATED], CUT)


class Listening:
    """Takes note of failed attempts, as a run does."""

    def __init__(self) -> None:
        self.told: list[FailedAttempt] = []

    def __enter__(self) -> list[FailedAttempt]:
        self._token = attempt_listener.set(self.told.append)
        return self.told

    def __exit__(self, *error: object) -> None:
        attempt_listener.reset(self._token)


async def test_with_a_listener_it_begins_again() -> None:
    """After content: first the same model, then the next one; each failure is told with its models."""
    first = Play([CREATED, "one ", CUT], [CREATED, "two ", CUT], name="a")
    second = Play([CREATED, "three ", FAILED], name="b")
    retry = RetryPolicy(max_retries=1, jitter=False)
    chain = Fallback(
        RetryingModel(first, retry, after_content="restart", clock=FakeClock()),
        second,
        Play([CREATED, "four", DONE], name="c"),
        after_content="restart",
    )
    with Listening() as told:
        assert await read(chain) == ("one two three four", [CREATED] * 4 + [DONE], None)
    assert [(each.reason, each.model, each.next_model) for each in told] == [
        ("retry", "a", None),
        ("fallback", "a", "b"),
        ("fallback", "b", "c"),
    ]
    assert first.open == second.open == 0


@pytest.mark.parametrize("kind", ["mcp_call", "code_interpreter_call", "image_generation_call"])
async def test_never_past_a_hosted_tool(kind: str) -> None:
    """What a provider's tool has done is not done twice, unless that is asked for."""
    called = {"type": "response.output_item.added", "output_index": 0, "item": {"type": kind, "id": "x"}}
    for policy, text in (("restart", "one"), ("restart_after_tools", "onetwo")):
        scripts: list[list[Any]] = [[CREATED, "one", called, CUT], ["two", DONE]]
        options: Any = {"after_content": policy}
        with Listening():
            retried = await read(RetryingModel(Play(*scripts), clock=FakeClock(), **options))
            passed_on = await read(Fallback(Play(scripts[0]), Play(scripts[1]), **options))
        assert retried[0] == passed_on[0] == text


@pytest.mark.parametrize("kind", ["function_call", "web_search_call", "reasoning"])
async def test_calls_that_nobody_has_made_are_no_hindrance(kind: str) -> None:
    """The run makes its own calls once the response is complete; searches change nothing."""
    called = {"type": "response.output_item.added", "output_index": 0, "item": {"type": kind, "id": "x"}}
    with Listening():
        model = RetryingModel(Play([called, CUT], ["two", DONE]), after_content="restart", clock=FakeClock())
        assert (await read(model))[0] == "two"


@pytest.mark.parametrize(
    "error", [status(400), UserError("x"), ModelStreamFailed("x", event_type="response.incomplete")]
)
async def test_what_is_no_fault_is_not_begun_again(error: Exception) -> None:
    """Only faults of connections and servers."""
    with Listening():
        model = RetryingModel(Play(["one", error], ["two"]), after_content="restart", clock=FakeClock())
        assert await read(model) == ("one", [], error)


async def test_what_was_shown_stays_where_nothing_follows() -> None:
    """An attempt that brings no content is not seen: its lifecycle events void nothing."""
    with Listening() as told:
        policy = RetryPolicy(max_retries=1, jitter=False)
        play = Play(["one", CUT], [CREATED, status(500)])
        text, kinds, error = await read(RetryingModel(play, policy, after_content="restart", clock=FakeClock()))
    assert (text, kinds, type(error), len(told)) == ("one", [], openai.APIStatusError, 1)


@pytest.mark.parametrize("turn", range(12))
async def test_cancelled_anywhere(turn: int) -> None:
    """Every stream that was opened is closed."""
    first, second = Play([CREATED, "one", CUT], [CREATED, CUT]), Play([CREATED, "two", None])
    clock = FakeClock()
    chain = Fallback(
        RetryingModel(first, RetryPolicy(max_retries=1), after_content="restart", clock=clock),
        second,
        after_content="restart",
    )
    with Listening():
        task = asyncio.ensure_future(read(PartialModel(chain)))
    for _ in range(turn):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert first.open == second.open == 0


async def test_one_plain_call() -> None:
    """Where streams fail: the whole response, as one event."""
    model = Play(["one", CUT], ["whole"])
    chain = Fallback(Play([CUT]), PlainCall(Play(["whole"])))
    assert await read(chain) == ("", [DONE], None)
    assert (await PlainCall(Play(["whole"])).respond(request())).output[0].content[0].text == "whole"  # type: ignore[union-attr]
    assert (await read(model))[2] is CUT


def test_a_chain_is_asked_about_its_first_model() -> None:
    """Its name and advice are the first choice's; a run does not retry the chain as a whole. No models: refused."""
    scripted = ScriptedModel()
    chain = Fallback(Play(name="a"), scripted)
    assert (chain.model, chain.retries_itself, chain.endpoint) == ("a", True, chain.models[0])
    assert chain.get_retry_advice(None) is None
    with pytest.raises(UserError, match="at least one"):
        Fallback()


# Budgets.


async def test_a_budget_bounds_retries() -> None:
    """Of all that share it; it fills again evenly."""
    clock = FakeClock(autojump=False)
    budget = RetryBudget(2, per_minute=6, clock=clock)
    policy = RetryPolicy(initial_delay_s=0, jitter=False)
    first = RetryingModel(Play([CUT], [CUT], ["hi"]), policy, budget=budget, clock=clock)
    assert (await read(first))[0] == "hi"
    assert budget.left == 0
    second = RetryingModel(Play([CUT], ["hi"]), policy, budget=budget, clock=clock)
    assert (await read(second))[2] is CUT
    await clock.advance(10.0)
    assert budget.left == 1
    await clock.advance(600.0)
    assert budget.left == 2
    with pytest.raises(ValueError, match="size"):
        RetryBudget(0)


# Partial answers.


def _item(kind: str, item_type: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "output_index": 1, "item": {"type": item_type, "id": "i", **more}}


@pytest.mark.parametrize("failure", [CUT, ModelTimeoutError(1.0, phase="idle"), FAILED, "end"], ids=str)
async def test_going_on_with_what_there_is(failure: Any) -> None:
    """After text a fault ends the response as it stands, incomplete; what the failing read had is kept too."""
    last = [] if failure == "end" else [["two", FAILED]] if failure == FAILED else ["two", failure]
    batches = open_batches(PartialModel(Play([CREATED, "one ", *last])), request())
    events = [each async for batch in batches for each in batch.events]
    assert events[-1].type == DONE
    response = events[-1].response  # type: ignore[union-attr]
    text = "one " if failure == "end" else "one two"
    assert "".join(getattr(each, "delta", "") for each in events) == text
    assert [(part.status, part.content[0].text) for part in response.output] == [("incomplete", text)]
    assert (response.status, response.id, response.usage) == ("incomplete", "", None)


@pytest.mark.parametrize(
    "steps",
    [
        [CREATED],
        ["one", _item("response.output_item.added", "function_call", name="f", call_id="c", arguments="")],
        ["one", _item("response.output_item.done", "mcp_approval_request")],
        [_item("response.output_item.added", "reasoning")],
    ],
    ids=range(4),
)
async def test_where_there_is_nothing_to_keep(steps: list[Any]) -> None:
    """Without text, or with a call that was begun, the failure goes up."""
    assert (await read(PartialModel(Play([*steps, CUT]))))[2] is CUT


async def test_half_a_structure_is_none() -> None:
    """Where the output must have a structure, and for what is no fault, nothing is kept."""
    assert (await read(PartialModel(Play(["{", CUT])), AgentOutputSchema(dict[str, int], False)))[2] is CUT
    wrong = UserError("x")
    assert (await read(PartialModel(Play(["one", wrong]))))[2] is wrong
    assert await read(PartialModel(Play(["one", DONE, CUT]))) == ("one", [DONE], CUT)
