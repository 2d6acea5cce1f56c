"""Run item events: what an agent does step by step (its tool calls, their outputs, its messages), without the tokens.

An item event comes when something is complete: good for progress lines and logs.
"""

import asyncio
import time

from _service import service
from runstream import Agent, ItemHelpers, Runner, function_tool
from runstream.testing import ToolCall

WEATHER = {"Paris": "18 degrees, cloudy", "Tokyo": "26 degrees, clear"}


@function_tool
async def get_weather(city: str) -> str:
    """The weather in a city now.

    Args:
        city: Name of the city, in English.
    """
    await asyncio.sleep(0.6 if city == "Paris" else 0.2)  # the Paris weather service is slow
    return f"{city}: {WEATHER.get(city, 'unknown')}"


agent = Agent(
    name="Weather Reporter",
    instructions="Ask the tool for every city, all at once. Then answer in one sentence.",
    tools=[get_weather],
)


async def main() -> None:
    called_at: dict[str | None, float] = {}  # call id -> when the call was made

    async with service(SCRIPT):
        start = time.perf_counter()

        def show(what: str, text: str) -> None:
            print(f"{time.perf_counter() - start:5.2f} s  {what:8} {text}")

        result = Runner.run_streamed(agent, "Which is warmer now, Paris or Tokyo?")
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                continue  # the tokens: see 02_raw_response_events.py

            if event.type == "agent_updated_stream_event":
                show("agent", event.new_agent.name)
            elif event.item.type == "tool_call_item":
                called_at[event.item.call_id] = time.perf_counter()
                show("call", f"{event.item.tool_name} {event.item.raw_item.arguments}")
            elif event.item.type == "tool_call_output_item":
                # An output comes as soon as its own tool is done, so the order may differ from that of the calls.
                took_s = time.perf_counter() - called_at[event.item.call_id]
                show("output", f"{event.item.output}  [took {took_s:.1f} s]")
            elif event.item.type == "message_output_item":
                show("message", ItemHelpers.text_message_output(event.item))

    print("\n=== The same items, from the result ===")
    for item in result.new_items:
        print(f"{item.type:22} by {item.agent.name}")
    print(f"\nFinal output: {result.final_output}")


# What the scripted model does where there is no key: two tool calls in one turn, then the answer.
SCRIPT = [
    [
        "I will look at both cities.",
        ToolCall("get_weather", {"city": "Paris"}),
        ToolCall("get_weather", {"city": "Tokyo"}),
    ],
    "Tokyo is warmer: 26 degrees and clear, against 18 degrees and clouds in Paris.",
]

if __name__ == "__main__":
    asyncio.run(main())
