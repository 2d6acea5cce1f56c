"""Runs over a real connection: every fault of a provider, in both APIs, ends in one clear error and leaves nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from runstream import Agent, ModelBehaviorError, ModelSettings, RunConfig, RunItemStreamEvent, Runner, function_tool
from runstream.agent.retry import ModelRetrySettings
from runstream.errors import ModelStreamBroken, ModelStreamFailed, ModelStreamTruncated, ModelTimeoutError
from runstream.models.provider import OpenAIProvider
from runstream.run.result import RunResultStreaming
from runstream.sessions.memory import InMemorySession
from runstream.testing import Endpoint, FakeClock, Fault, HandoffTo, Reasoning, Refusal, Script, ToolCall, Turn, say

pytestmark = pytest.mark.system

TEXT = "one two three four five"


@function_tool
async def ping(word: str) -> str:
    """Ping."""
    return f"pong {word}"


@pytest.fixture(params=["responses", "chat"])
def use_responses(request: pytest.FixtureRequest) -> bool:
    return request.param == "responses"


class _Desk:
    """An endpoint that plays a script, and an agent that talks to it."""

    def __init__(self, endpoint: Endpoint, *, use_responses: bool, retries: int = 0, **settings: Any) -> None:
        self.endpoint = endpoint
        self.session = InMemorySession("s")
        self.agent = Agent(
            name="Ann",
            tools=[ping],
            handoffs=[Agent(name="Bob")],
            model_settings=ModelSettings(retry=ModelRetrySettings(max_retries=retries), **settings),
        )
        self.config = RunConfig(
            clock=FakeClock(),
            model_provider=OpenAIProvider(api_key="any", base_url=endpoint.url, use_responses=use_responses),
        )

    def stream(self, input: str = "hi") -> RunResultStreaming:
        return Runner.run_streamed(self.agent, input, run_config=self.config, session=self.session)

    async def run(self, input: str = "hi") -> Any:
        return await Runner.run(self.agent, input, run_config=self.config, session=self.session)


async def _texts(events: AsyncIterator[Any], texts: list[str]) -> None:
    async for event in events:
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            texts.append(event.data.delta)


# The fault, what is raised streamed, and what readers have seen by then.
Broken = (ModelStreamTruncated, openai.APIConnectionError)
FAULTS: dict[str, tuple[Fault, Any, str]] = {
    "401": (Fault("http_error", status=401), openai.AuthenticationError, ""),
    "429": (Fault("http_error", status=429, retry_after_s=1.0), openai.RateLimitError, ""),
    "500": (Fault("http_error", status=500), openai.InternalServerError, ""),
    "no JSON": (Fault("http_error", status=502, body="<html>bad gateway</html>"), openai.InternalServerError, ""),
    "reset": (Fault("reset", after=2), ModelStreamTruncated, "one two"),
    "reset at once": (Fault("reset", after="start"), Broken, ""),
    "silence": (Fault("silence", after=2), ModelTimeoutError, "one two"),
    "silence with pings": (Fault("silence", after=2, pings_every_s=0.01), ModelTimeoutError, "one two"),
    "silence at once": (Fault("silence", after="start"), ModelTimeoutError, ""),
    "broken frame": (Fault("broken_frame", after=2), ModelStreamBroken, "one two"),
    "no end": (Fault("no_end"), ModelStreamTruncated, TEXT),
    "truncated": (Fault("truncated_body", after=2), ModelStreamTruncated, "one two"),
    "truncated at once": (Fault("truncated_body", after="start"), Broken, ""),
    "error event": (Fault("error_event", after=2), ModelStreamFailed, "one two"),
    "error event at the end": (Fault("error_event", after="end"), ModelStreamFailed, TEXT),
    "failed": (Fault("failed", after=2), ModelStreamFailed, "one two"),
    "slow first byte": (Fault("slow_first_byte", for_s=3600.0), ModelTimeoutError, ""),
}


def _settings(name: str) -> dict[str, Any]:
    # The limit is by the run's clock, which jumps when nothing happens any more: it costs no time.
    return {"timeout": 30.0} if "silence" in name or "slow" in name else {}


@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_of_a_stream(name: str, use_responses: bool) -> None:
    """Streamed: what came is shown and kept, one error is raised, the log ends once, the connection is gone."""
    fault, kind, seen = FAULTS[name]
    async with Endpoint([say(TEXT, fault=fault), say("works")]) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses, **_settings(name))
        result = desk.stream()
        texts: list[str] = []
        with pytest.raises(kind) as caught:
            await _texts(result.stream_events(), texts)
        assert "".join(texts) == seen
        assert str(caught.value)
        assert result.run_loop_exception is caught.value
        log = [event async for event in result.events()]
        assert [event.kind for event in log if event.kind.startswith("run.")] == ["run.start", "run.end"]
        assert log[-1].data.error.type == type(caught.value).__name__
        stored: list[Any] = await desk.session.get_items()
        kept = [item["content"][0]["text"] for item in stored if item.get("type") == "message"]
        assert "".join(kept) == seen
        await endpoint.wait_idle()
        assert endpoint.open_answers == 0
        desk.agent.model_settings.timeout = None
        assert (await desk.run("again")).final_output == "works"
        assert len(endpoint.requests) == 2


@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_of_a_whole_answer(name: str, use_responses: bool) -> None:
    """Unstreamed: each fault is an error too, never a success, and the next run works."""
    fault, _, _ = FAULTS[name]
    async with Endpoint([say(TEXT, fault=fault), say("works")]) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses, **_settings(name))
        with pytest.raises((openai.APIError, ModelBehaviorError, ModelTimeoutError)):
            await desk.run()
        await endpoint.wait_idle()
        desk.agent.model_settings.timeout = None
        assert (await desk.run("again")).final_output == "works"
        assert len(endpoint.requests) == 2


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", [Fault("http_error", status=503), Fault("reset", after="start")])
async def test_transient_faults_are_retried_by_the_run_alone(fault: Fault, streamed: bool, use_responses: bool) -> None:
    """Two failures, then the answer: three requests in all, none hidden in the client, each counted."""
    script = Script([say("done")], fault=fault, fault_times=2)
    async with Endpoint(script) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses, retries=2)
        result: Any = await (desk.stream().wait() if streamed else desk.run())
        assert result.final_output == "done"
        assert len(endpoint.requests) == 3
        assert result.context_wrapper.usage.requests == 3


async def test_a_key_that_is_refused_is_not_sent_again(use_responses: bool) -> None:
    """A wrong key is the caller's error: one request, whatever the retries."""
    async with Endpoint(["never"], api_key="right") as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses, retries=5)
        with pytest.raises(openai.AuthenticationError):
            await desk.run()
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize("cut_bytes", [None, 1, 7, 100])
async def test_a_whole_conversation_over_http(cut_bytes: int | None, use_responses: bool) -> None:
    """Tool call, handoff and answer, wherever the bytes are cut: the same items in both ways to run."""
    script = [
        Turn((Reasoning("hm"), "Wait.", ToolCall("ping", {"word": "ä€"})), cut_bytes=cut_bytes),
        Turn((HandoffTo("Bob"),), cut_bytes=cut_bytes),
        Turn((TEXT,), cut_bytes=cut_bytes),
    ]
    async with Endpoint(Script(script, repeat=True)) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses)
        result = desk.stream()
        names = [event.name async for event in result if isinstance(event, RunItemStreamEvent)]
        assert names == [
            "reasoning_item_created",
            "message_output_created",
            "tool_called",
            "tool_output",
            "handoff_requested",
            "handoff_occured",
            "message_output_created",
        ]
        again = await Runner.run(desk.agent, "hi", run_config=desk.config)
        assert result.final_output == again.final_output == TEXT
        assert result.last_agent is again.last_agent
        assert result.new_items[3].output == "pong ä€"  # type: ignore[union-attr]
        assert [item.type for item in result.new_items] == [item.type for item in again.new_items]


async def test_truncated_arguments_are_never_run_over_http(use_responses: bool) -> None:
    """An answer that breaks off inside a call's arguments is an error, and the tool is not run."""
    ran: list[int] = []

    @function_tool
    async def pay(amount: int) -> str:
        ran.append(amount)
        return "paid"

    turn = Turn((ToolCall("pay", {"amount": 123456}),), incomplete="max_output_tokens")
    async with Endpoint([turn, turn]) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses)
        desk.agent.tools = [pay]
        with pytest.raises(ModelBehaviorError):
            await desk.stream().wait()
        with pytest.raises(ModelBehaviorError):
            await desk.run()
        assert ran == []


async def test_a_refusal_over_http(use_responses: bool) -> None:
    """A refusal is an error of its own, with the model's words."""
    from runstream.errors import ModelRefusalError

    async with Endpoint(Script([Refusal("I would rather not")], repeat=True)) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses)
        for running in (desk.stream().wait(), desk.run()):
            with pytest.raises(ModelRefusalError, match="I would rather not"):
                await running


async def _leave(desk: _Desk, how: str, result: RunResultStreaming, reader: Any) -> None:
    if how == "cancel":
        result.cancel()
        async for _ in reader:
            pass
    elif how == "aclose":
        await reader.aclose()
    elif how == "task":
        assert result.run_loop_task is not None
        result.run_loop_task.cancel()
        await asyncio.wait({result.run_loop_task})


@pytest.mark.parametrize("how", ["cancel", "aclose", "task"])
@pytest.mark.parametrize("deltas", [0, 2])
async def test_leaving_closes_the_providers_connection(how: str, deltas: int, use_responses: bool) -> None:
    """Before the first byte and in the middle of the text, the provider sees the connection close and stops billing."""
    fault = Fault("silence", after=deltas) if deltas else Fault("slow_first_byte", for_s=3600.0)
    async with Endpoint([say(TEXT, fault=fault)]) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses)
        result = desk.stream()
        reader = result.stream_events()
        texts: list[str] = []
        while len(texts) < deltas:
            event = await anext(reader)
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                texts.append(event.data.delta)
        if not deltas:
            await anext(reader)
            await endpoint.wait_requests()
        await _leave(desk, how, result, reader)
        await endpoint.wait_disconnected()
        assert result.is_complete
        await reader.aclose()


async def test_a_cancelled_caller_closes_the_connection(use_responses: bool) -> None:
    """So does cancelling a task that awaits Runner.run."""
    async with Endpoint([say(TEXT, fault=Fault("slow_first_byte", for_s=3600.0))]) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses)
        running = asyncio.create_task(desk.run())
        await endpoint.wait_requests()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await endpoint.wait_disconnected()


async def test_many_runs_at_once_over_http(use_responses: bool) -> None:
    """Fifty streams at the same time, each read to its end, leave no answer open."""
    async with Endpoint(Script([say(TEXT)], repeat=True)) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses)
        results = [Runner.run_streamed(desk.agent, str(n), run_config=desk.config) for n in range(50)]
        texts: list[list[str]] = [[] for _ in results]
        readers = [_texts(result.stream_events(), seen) for result, seen in zip(results, texts, strict=True)]
        await asyncio.gather(*readers)
        assert {"".join(seen) for seen in texts} == {TEXT}
        await endpoint.wait_idle()


def test_one_process_may_use_many_loops(use_responses: bool) -> None:
    """run_sync and plain `for`, one after the other: each loop's connections are closed with it."""
    with Endpoint(Script([say(TEXT)], repeat=True)) as endpoint:
        desk = _Desk(endpoint, use_responses=use_responses)
        for _ in range(3):
            assert Runner.run_sync(desk.agent, "hi", run_config=desk.config).final_output == TEXT
            result = Runner.run_streamed(desk.agent, "hi", run_config=desk.config)
            assert sum(1 for _ in result) > 5
            for event in Runner.run_streamed(desk.agent, "hi", run_config=desk.config):
                if event.type == "raw_response_event":
                    break
