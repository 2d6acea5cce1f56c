"""Basic streaming: one question asked twice, first with `Runner.run`, then with `Runner.run_streamed`.

Both take the same time, but with the second there is something to read all along. (Whichever comes first takes some
tenths of a second more: the first request of a program loads the client.)
"""

import asyncio
import time
from collections import Counter

from openai.types.responses import ResponseTextDeltaEvent

from _service import service
from runstream import Agent, Runner
from runstream.testing import say

QUESTION = "In two sentences: what is streaming good for?"

agent = Agent(name="Teacher", instructions="You explain things briefly and plainly.")


async def regular() -> None:
    """Wait for the whole answer, then show it."""
    start = time.perf_counter()
    result = await Runner.run(agent, QUESTION)
    print(result.final_output)
    print(f"[all of it after {time.perf_counter() - start:.2f} s]")


async def streamed() -> None:
    """Show each piece of the answer as it comes."""
    start = time.perf_counter()
    first_text_s = None
    kinds: Counter[str] = Counter()

    # No `await`: this returns at once, and the run goes on while we read its events.
    result = Runner.run_streamed(agent, QUESTION)
    print(f"[{type(result).__name__}, complete: {result.is_complete}]")

    async for event in result.stream_events():
        kinds[event.type] += 1
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            if first_text_s is None:
                first_text_s = time.perf_counter() - start
            print(event.data.delta, end="", flush=True)

    # When the loop is over, so is the run, and the result has what `Runner.run` returns.
    print(f"\n[first text after {first_text_s:.2f} s, all of it after {time.perf_counter() - start:.2f} s]")
    print(f"[complete: {result.is_complete}, {len(result.final_output)} characters of final output]")
    print("\n=== What stream_events() gave ===")
    for kind, count in kinds.items():
        print(f"{count:4} x {kind}")


async def main() -> None:
    async with service([ANSWER, ANSWER]):
        print("=== Runner.run ===")
        await regular()
        print("\n=== Runner.run_streamed ===")
        await streamed()


# What the scripted model says where there is no key, a word every 20 ms.
ANSWER = say(
    "Streaming shows an answer while it is still being written, so nobody looks at an empty screen. "
    "The last word comes no sooner, but the first one does, and the waiting feels much shorter.",
    every_s=0.02,
)

if __name__ == "__main__":
    asyncio.run(main())
