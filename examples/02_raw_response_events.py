"""Raw response events: the answer token by token, how the tokens arrive in time, and the text put together again.

A raw event is one event of the model's own stream, in the format of the OpenAI Responses API.
"""

import asyncio
import time
from collections import Counter
from itertools import pairwise

from openai.types.responses import ResponseTextDeltaEvent

from _service import service
from runstream import Agent, Runner
from runstream.testing import say

agent = Agent(name="Teacher", instructions="You explain things briefly and plainly.")


async def main() -> None:
    tokens: list[str] = []
    times_s: list[float] = []  # when each token came, counted from the start
    raw_types: Counter[str] = Counter()

    async with service(ANSWER):
        start = time.perf_counter()
        result = Runner.run_streamed(agent, "In three sentences: what is a token?")

        print("=== Tokens, with a bar between them ===")
        async for event in result.stream_events():
            if event.type != "raw_response_event":
                continue
            raw_types[event.data.type] += 1
            # Only text deltas have a text in `delta`; the other raw events say where the response stands.
            if isinstance(event.data, ResponseTextDeltaEvent):
                tokens.append(event.data.delta)
                times_s.append(time.perf_counter() - start)
                print(event.data.delta, end="|", flush=True)

    print("\n\n=== Timing ===")
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    writing_s = times_s[-1] - times_s[0]
    print(f"first token after   {times_s[0]:.3f} s")
    print(f"last token after    {times_s[-1]:.3f} s")
    if gaps_s:
        print(f"tokens              {len(tokens)}, that is {len(gaps_s) / writing_s:.0f} per second")
        print(f"between two tokens  {writing_s / len(gaps_s):.3f} s on average, {max(gaps_s):.3f} s at most")

    print("\n=== Every raw event ===")
    for raw_type, count in raw_types.items():
        print(f"{count:4} x {raw_type}")

    print("\n=== The text, put together from its tokens ===")
    text = "".join(tokens)
    print(text)
    print(f"[equals result.final_output: {text == result.final_output}]")


# What the scripted model says where there is no key: it "thinks" for a moment, then a word every 30 ms.
ANSWER = say(
    "A token is a small piece of text, often a word or a part of one. "
    "A language model writes its answer one token after the other, and each is sent as soon as it is chosen. "
    "Put them together in the order in which they came, and you have the text.",
    first_after_s=0.3,
    every_s=0.03,
)

if __name__ == "__main__":
    asyncio.run(main())
