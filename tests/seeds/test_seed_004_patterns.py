"""Seed 004: its fragments and the production patterns that it names, each against the endpoint.

The tests that the seed itself prints are in test_seed_004_printed_tests.py.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import ResponseTextDeltaEvent

from runstream import (
    Agent,
    ItemHelpers,
    ModelBehaviorError,
    ModelStreamTruncated,
    Runner,
    RunResultStreaming,
    function_tool,
)
from runstream.testing import EndpointRequest, Fault, HandoffTo, Script, ToolCall, say

pytestmark = pytest.mark.system

Fragment = Callable[[str], str]
RAW_BRANCH = 'if event.type == "raw_response_event":'
COMPLETED_BRANCH = 'if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):'


@function_tool
def look_up(number: str) -> str:
    """Look an invoice up."""
    return f"Invoice {number} is paid."


billing = Agent(name="Billing Agent", tools=[look_up])
triage = Agent(name="Triage Agent", handoffs=[billing])
WORK = [HandoffTo(billing), ToolCall("look_up", {"number": "7"}), "It is paid."]


async def text_of(result: RunResultStreaming) -> str:
    """The text of a run, from its deltas."""
    return "".join(
        [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]
    )


async def test_basic_streaming_flow(
    serving: Any, frame: Any, fragment: Fragment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text, tool calls and changes of the agent are told from one another, and the final output is there at the end."""
    async with serving(WORK):
        variables = await frame(fragment("004_basic_streaming_flow"), agent=triage, user_input="Is 7 paid?")
    assert capsys.readouterr().out == (
        "Agent changed to: Triage Agent\nAgent changed to: Billing Agent\nTool called...\nIt is paid."
    )
    assert variables["final_output"] == "It is paid."


async def test_streaming_ui(serving: Any, define: Any, fragment: Fragment) -> None:
    """The class shows text and progress of a run.

    As printed it reads `.delta` of every raw event, which only some of the official types have. So its condition is
    completed with the check for text deltas, in that one line; the frame adds the two methods that the seed leaves out.
    """
    printed = fragment("004_streaming_ui")
    assert printed.count(RAW_BRANCH) == 1
    base = define(printed.replace(RAW_BRANCH, COMPLETED_BRANCH))["StreamingUI"]

    class StreamingUI(base):
        def add_text_chunk(self, text: str) -> None:
            self.current_text += text

        def show_progress(self, status: str) -> None:
            self.status = status

    ui = StreamingUI()
    assert (ui.current_text, ui.status) == ("", "idle")
    async with serving(WORK):
        async for event in Runner.run_streamed(triage, "Is 7 paid?").stream_events():
            ui.process_event(event)
    assert (ui.current_text, ui.status) == ("It is paid.", "Processing...")


async def test_no_delta_is_faked(serving: Any, define: Any, fragment: Fragment, agent: Agent[Any]) -> None:
    """As printed, the class fails at the first raw event, whose official type has no `delta`."""
    ui = define(fragment("004_streaming_ui"))["StreamingUI"]()
    ui.add_text_chunk = str.lower
    async with serving("Hello!"):
        events = [event async for event in Runner.run_streamed(agent, "Hi.").stream_events()]
    first = next(event for event in events if event.type == "raw_response_event")
    assert first.data.type == "response.created"
    with pytest.raises(AttributeError, match="no attribute 'delta'"):
        ui.process_event(first)


@pytest.mark.parametrize(
    "fault", ["reset", "no_end", "truncated_body", "broken_frame", "error_event", "failed"], ids=str
)
async def test_error_handling_falls_back_to_a_regular_run(
    serving: Any, frame: Any, fragment: Fragment, agent: Agent[Any], fault: Any
) -> None:
    """However the stream breaks after text was seen, it raises once, and `Runner.run` gets the answer whole."""
    async with serving([say("This breaks off.", fault=Fault(fault)), "All is well."]) as endpoint:
        variables = await frame(fragment("004_error_handling"), agent=agent, input="How are you?")
    assert variables["fallback_result"].final_output == "All is well."
    assert isinstance(variables["result"].run_loop_exception, ModelBehaviorError)
    assert [request.is_streamed for request in endpoint.requests] == [True, False]


async def test_error_handling_is_not_needed_for_what_passes(
    serving: Any, frame: Any, fragment: Fragment, agent: Agent[Any]
) -> None:
    """A fault before the first text is retried out of sight: no fallback, one stream of events."""
    busy = Fault("http_error", status=503, retry_after_s=0)
    async with serving(Script(["All is well."], fault=busy, fault_times=2)) as endpoint:
        variables = await frame(fragment("004_error_handling"), agent=agent, input="How are you?")
    assert "fallback_result" not in variables
    assert variables["result"].final_output == "All is well."
    assert len(endpoint.requests) == 3


async def test_performance_monitoring(
    serving: Any, frame: Any, fragment: Fragment, agent: Agent[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first chunk comes while the answer is still being written; every raw event is counted."""
    async with serving(say("One two three four five.", every_s=0.02)):
        result = Runner.run_streamed(agent, "Count.")
        variables = await frame(fragment("004_performance_monitoring"), result=result)
    shown = re.fullmatch(r"Time to first chunk: (\d\.\d{3})s\nTotal time: (\d\.\d{3})s\n", capsys.readouterr().out)
    assert shown is not None
    first_s, total_s = map(float, shown.groups())
    # Four pauses follow the first chunk; half of them is left for a machine that was busy when it came.
    assert total_s - first_s > 2 * 0.02
    raw = [event async for event in result.stream_events() if event.type == "raw_response_event"]
    assert variables["chunk_count"] == len(raw)


async def test_concurrency_with_gather(serving: Any, agent: Agent[Any]) -> None:
    """Fifty streams at once, and each gets its own answer."""

    def echo(request: EndpointRequest) -> Any:
        return say(f"You said {request.user_text}.", every_s=0.001)

    async with serving(Script(default=echo)) as endpoint:
        texts = await asyncio.gather(*(text_of(Runner.run_streamed(agent, f"number {i}")) for i in range(50)))
    assert texts == [f"You said number {i}." for i in range(50)]
    assert len(endpoint.requests) == 50


async def test_timeout_with_wait_for_ends_the_run(serving: Any, agent: Agent[Any]) -> None:
    """A consumer that `wait_for` gives up takes its run with it: the service sees the connection close."""
    async with serving(say("One two three.", fault=Fault("silence", after=1))) as endpoint:
        result = Runner.run_streamed(agent, "Count.")
        await endpoint.wait_requests()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(text_of(result), 0.1)
        await endpoint.wait_disconnected()
        await result.wait()
    assert result.is_complete


async def test_timeout_of_one_event_loses_nothing(serving: Any, agent: Agent[Any]) -> None:
    """`wait_for(anext(...))` may time out, be called again, and every event still comes, once and in order."""
    timeouts = 0
    text = ""
    async with serving(say("One two three.", fault=Fault("silence", after=1, for_s=0.3))):
        events = Runner.run_streamed(agent, "Count.").stream_events()
        while True:
            try:
                event = await asyncio.wait_for(anext(events), 0.05)
            except TimeoutError:
                timeouts += 1
                continue
            except StopAsyncIteration:
                break
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                text += event.data.delta
    assert timeouts > 0
    assert text == "One two three."


async def test_partial_results_on_interruption(serving: Any, agent: Agent[Any]) -> None:
    """What was shown before the stream broke is in the error's data, in the result, and in the next turn's input."""
    async with serving([say("One two three.", fault=Fault("reset", after=2)), "Four."]) as endpoint:
        result = Runner.run_streamed(agent, "Count.")
        with pytest.raises(ModelStreamTruncated) as caught:
            await text_of(result)
        assert caught.value.run_data is not None
        for items in (caught.value.run_data.new_items, result.new_items):
            assert ItemHelpers.text_message_outputs(items) == "One two"

        again = await Runner.run(agent, [*result.to_input_list(), {"role": "user", "content": "Go on."}])
    assert again.final_output == "Four."
    assert [item["role"] for item in endpoint.requests[1].body["input"]] == ["user", "assistant", "user"]


async def test_buffering_by_words(serving: Any, agent: Agent[Any]) -> None:
    """Deltas cut anywhere can be shown as whole words: the rest waits for the next delta."""
    words: list[str] = []
    rest = ""
    async with serving(say("Smooth output word by word.", chunks=3)):
        async for event in Runner.run_streamed(agent, "Hi.").stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                *whole, rest = (rest + event.data.delta).split(" ")
                words += whole
    assert [*words, rest] == ["Smooth", "output", "word", "by", "word."]
