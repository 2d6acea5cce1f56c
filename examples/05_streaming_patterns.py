"""Streaming patterns: what stands in production between a model that fails, stalls or stutters and a person who waits.

Each is a function of its own, and none needs the others. The scripted model fails in every way that is shown here; the
real service seldom does, and then some of these have nothing to show.
"""

import asyncio
import logging
import os
import re
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from openai.types.responses import ResponseTextDeltaEvent

from _service import service
from runstream import (
    Agent,
    AgentsException,
    CircuitBreakers,
    LoadLimits,
    ModelRetryBackoffSettings,
    ModelRetrySettings,
    ModelSettings,
    ModelTimeoutError,
    PlainCall,
    RunConfig,
    Runner,
    RunView,
    TimeLimits,
    function_tool,
    gather,
    merge,
    pipe,
    race,
    smooth,
)
from runstream.observe import Alerts, Metrics, RunMetrics, error_rate, set_observers
from runstream.testing import Fault, ToolCall, Turn, When
from runstream.view.entries import ToolEntry

SPARE_MODEL = "gpt-4.1-mini"
FIRST_CONTENT_S = 30.0 if os.environ.get("OPENAI_API_KEY") else 0.3
# Where a pattern is about something else than retries, its first failure is to count.
ONE_ATTEMPT = ModelSettings(retry=ModelRetrySettings(max_retries=0))
ONE_RETRY = ModelSettings(retry=ModelRetrySettings(max_retries=1, backoff=ModelRetryBackoffSettings(initial_delay=0.1)))


@function_tool
async def search_flights(city: str) -> str:
    """Find flights to a city."""
    await asyncio.sleep(0.2)
    return f"Two flights to {city}: at 9:40 and at 17:05."


agent = Agent(name="Assistant", instructions="You answer briefly and plainly.", tools=[search_flights])


def text_of(event: Any) -> str:
    """The text that an event of `stream_events()` brings, if any."""
    is_text = event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
    return event.data.delta if is_text else ""


async def user_interface() -> None:
    """One view of the whole run: what a page or a terminal draws again whenever an event has changed it."""
    view = RunView()
    statuses: list[str] = []
    async for event in Runner.run_streamed(agent, "When can I fly to Lisbon?").events():
        view.apply(event)
        tool = next((entry for entry in reversed(view.entries) if isinstance(entry, ToolEntry)), None)
        if view.status != "running" or tool is None:
            status = view.status
        else:
            status = "writing" if view.text else f"{tool.title or tool.name}: {tool.state}"
        if [status] != statuses[-1:]:
            statuses.append(status)
            print(f"  [{status}]")
    print(f"  {view.text}")
    print(f"  [{len(view.entries)} entries, {view.figures.turns} turns, {view.figures.tokens} tokens]")


async def buffered() -> None:
    """Collect the text and hand on whole sentences: for speech, translation, or a slow channel."""
    held, sentences = "", []
    async for event in Runner.run_streamed(agent, "Tell me about Lisbon.").stream_events():
        held += text_of(event)
        *whole, held = re.split(r"(?<=[.!?]) ", held)
        for sentence in whole:
            sentences.append(sentence)
            print(f"  {len(sentences)}: {sentence}")
    print(f"  {len(sentences) + 1}: {held}")


async def smoothed() -> None:
    """The model sends bursts; the person sees an even flow of whole words, at most half a second late."""
    for name, operator in (("as it comes", None), ("smoothed", partial(smooth, by="word", max_lag_s=0.5))):
        source = Runner.run_streamed(agent, "Tell me about bursts.").stream_events()
        times_s = [time.perf_counter() async for event in (operator(source) if operator else source) if text_of(event)]
        longest_s = max((later - earlier for earlier, later in pairwise(times_s)), default=0.0)
        print(f"  {name:12} {len(times_s)} pieces, longest pause {longest_s * 1000:.0f} ms")


async def own_operator() -> None:
    """A custom processor is an asynchronous generator from events to events; `pipe` puts several together."""

    async def masked(events: Any) -> Any:
        async for event in events:
            if text_of(event):
                text = re.sub(r"\S+@\S+\w", "[address]", event.data.delta)
                # Other readers see the same event: change a copy.
                event = replace(event, data=event.data.model_copy(update={"delta": text}))
            yield event

    async def only_text(events: Any) -> Any:
        async for event in events:
            if text_of(event):
                yield event.data.delta

    result = Runner.run_streamed(agent, "Who can help me?")
    # Smoothing before it sees to it that words come whole.
    shown = [text async for text in pipe(result.stream_events(), smooth, masked, only_text)]
    print(f"  shown here:  {''.join(shown)}")
    print(f"  in the log:  {result.final_output}")


async def fallback_to_a_plain_call() -> None:
    """A stream that breaks is begun again; if that fails too, the same model is asked once more without a stream."""
    config = RunConfig(model_settings=ONE_RETRY, on_broken_stream="restart", fallback_models=[PlainCall()])
    result = Runner.run_streamed(agent, "Why do streams break?", run_config=config)
    async for event in result.events():
        if event.kind == "attempt.discarded":
            # An interface takes back what was shown since then. (A `RunView` does.)
            print(f"  [void since event {event.data.from_seq}: {event.data.reason}]")
    print(f"  {result.final_output}")


async def what_is_left() -> None:
    """Graceful degradation: a run that fails for good still has what had come, and the conversation goes on."""
    result = Runner.run_streamed(agent, "Tell me a long story.", run_config=RunConfig(model_settings=ONE_ATTEMPT))
    try:
        async for _ in result.stream_events():
            pass
    except AgentsException as error:
        print(f"  [{type(error).__name__}]")
    print(f"  [partial: {result.is_partial}] {result.partial_output} ...")
    go_on = [*result.to_input_list(), {"role": "user", "content": "Go on."}]
    print(f"  {(await Runner.run(agent, go_on)).final_output}")


async def time_limits() -> None:
    """A limit for each phase of a call: the error says which one passed, and what had come by then."""
    limits = TimeLimits(connect_s=10, first_content_s=10, idle_s=0.3, model_call_s=60, run_s=120)
    config = RunConfig(model_settings=ONE_ATTEMPT, time_limits=limits)
    try:
        await Runner.run_streamed(agent, "Think hard.", run_config=config).wait()
    except ModelTimeoutError as error:
        print(f"  [{error.phase}: nothing for {error.limit_s} s, after {error.chars} characters]")
    else:
        print("  [no limit has passed]")


async def circuit_breaker() -> None:
    """A model that has failed twice is not waited for again: the spare one answers at once, until a probe succeeds."""
    breakers = CircuitBreakers(failures=2, open_s=0.5)
    config = RunConfig(
        model_settings=ONE_ATTEMPT,
        time_limits=TimeLimits(first_content_s=FIRST_CONTENT_S),
        fallback_models=[SPARE_MODEL],
        circuit_breakers=breakers,
    )
    for number in range(1, 6):
        if number == 5:
            await asyncio.sleep(0.6)
        start = time.perf_counter()
        result = Runner.run_streamed(agent, "Are you there?", run_config=config)
        await result.wait()
        states = ", ".join(breaker.state for breaker in breakers)
        took_s = time.perf_counter() - start
        print(f"  {number}: {result.answered_by} after {took_s:.2f} s [breakers: {states}]")


async def performance() -> None:
    """The figures of a run are a fold of its log: the same live, and from a stored log next year."""
    result = Runner.run_streamed(agent, "Tell me about Lisbon.")
    metrics = RunMetrics.of([event async for event in result.events()])
    print(f"  time to first text {metrics.first.text_s:.3f} s, the whole run {metrics.duration_s:.3f} s")
    print(f"  {metrics.deltas} deltas, {metrics.deltas_per_s:.0f} a second, {metrics.usage.output_tokens} tokens")
    print(f"  pauses: half below {metrics.gaps.p50_s:.3f} s, longest {metrics.gaps.longest_s:.3f} s")


async def many_streams() -> None:
    """Several runs in one loop, each with a name; many runs, two at a time; and the first good answer."""
    results = {city: Runner.run_streamed(agent, f"What is {city} known for?") for city in ("Porto", "Faro")}
    texts: defaultdict[str, str] = defaultdict(str)
    order: list[str] = []
    async for city, event in merge(results):
        if text_of(event):
            texts[city] += text_of(event)
            order.append(city)
    changes = sum(one != other for one, other in pairwise(order))
    print(f"  merge: {dict(texts)}, {'side by side' if changes > 2 else 'one after the other'}")

    # At most two run at once, also those that other parts of the program begin with the same limits.
    config = RunConfig(load_limits=LoadLimits(max_runs=2, max_queue=10))
    questions = [f"What is {city} known for?" for city in ("Porto", "Faro", "Nowhere")]
    runs = [partial(Runner.run_streamed, agent, question, run_config=config) for question in questions]
    outcomes = await gather(runs, on_error="keep")
    print(f"  gather: {[outcome.status for outcome in outcomes]}")

    winner = await race(
        lambda: Runner.run_streamed(agent, "Think hard."),
        lambda: Runner.run_streamed(agent, "What is Porto known for?"),
        timeout_s=30,
    )
    print(f"  race: {winner.final_output}")


async def cancelling() -> None:
    """Four ways to stop: at once, after the turn, by leaving the loop, and after a time."""
    result = Runner.run_streamed(agent, "Tell me about Lisbon.")
    async for event in result.stream_events():
        if text_of(event):
            result.cancel()  # the loop ends by itself, and the provider's connection is closed
    print(f"  cancel(): {result.status}, and kept: {result.partial_output!r}")

    result = Runner.run_streamed(agent, "When can I fly to Lisbon?")
    async for event in result.stream_events():
        if event.type == "run_item_stream_event" and event.item.type == "tool_call_item":
            result.cancel(mode="after_turn")  # the tool ends, and no further call of the model is made
    print(f"  cancel(mode='after_turn'): {result.status}, {[item.type for item in result.new_items]}")

    result = Runner.run_streamed(agent, "Tell me about Lisbon.")
    async with result:
        async for event in result.stream_events():
            if text_of(event):
                break  # nobody reads on, so nobody pays for more
    print(f"  break: {result.status}")

    [outcome] = await gather([partial(Runner.run_streamed, agent, "Think hard.")], timeout_s=0.3)
    print(f"  gather(timeout_s=...): {outcome.status}, and kept: {outcome.result.partial_output!r}")


async def monitoring(figures: Metrics) -> None:
    """All of the above, as a process sees it: an observer has followed every run, and a rule looks at the figures."""
    now = figures.snapshot()
    print(f"  {sum(now.ended.values())} runs: {dict(now.ended)}, {now.live} live")
    print(f"  errors: {dict(now.errors)}, {now.fallbacks} fallbacks")
    print(f"  time to first text: p50 {now.first_text.quantile(0.5):.2f} s, p95 {now.first_text.quantile(0.95):.2f} s")
    # `async with Alerts(...)` looks again every ten seconds.
    for alert in Alerts(figures, [error_rate(0.05, min_runs=10)]).check():
        print(f"  alert: {alert.text}")


PATTERNS = (
    user_interface,
    buffered,
    smoothed,
    own_operator,
    fallback_to_a_plain_call,
    what_is_left,
    time_limits,
    circuit_breaker,
    performance,
    many_streams,
    cancelling,
)


async def main() -> None:
    # Alerts and breakers are logged as warnings; here it is printed what they do.
    logging.getLogger("runstream").setLevel(logging.ERROR)
    figures = Metrics()
    set_observers([figures])
    async with service(SCRIPT):
        for pattern in PATTERNS:
            print(f"=== {pattern.__name__.replace('_', ' ')} ===")
            await pattern()
            print()
        print("=== monitoring ===")
        await monitoring(figures)


def answer(question: str, *texts: Any, model: str | None = None, **options: Any) -> Turn:
    """How the scripted model answers that question, every time unless `times` says how often."""
    return Turn(texts, when=When(question, model=model), **{"times": None, "every_s": 0.02, **options})


LISBON = "Lisbon lies on seven hills. It has trams. Its tower has stood by the river since 1519."

# What the scripted model does where there is no key. The first turn that fits a question answers it.
SCRIPT = [
    Turn([ToolCall("search_flights", {"city": "Lisbon"})], when=When("fly to Lisbon", after_tool=False), times=None),
    answer("fly to Lisbon", "There are two flights: at 9:40 and at 17:05."),
    answer("Tell me about Lisbon", LISBON),
    answer("bursts", "A burst of words, then nothing, then a burst again: " * 4, chunks=40, every_s=0.2),
    answer("Who can help me?", "Write to anna@example.com, or ask at the desk.", chunks=5),
    answer("Why do streams break?", "Streams break because", fault=Fault("reset", after=3), times=2),
    answer("Why do streams break?", "Because proxies cut them. A plain call gets through."),
    answer("Tell me a long story", "Once upon a time there was a king who", fault=Fault("truncated_body", after=8)),
    answer("Go on", "... had three daughters."),
    answer("Think hard", "Let me think", fault=Fault("silence", after=3)),
    answer("Are you there?", "Yes, instead of the other one.", model=SPARE_MODEL),
    answer("Are you there?", fault=Fault("silence", after="start"), times=2),
    answer("Are you there?", "Yes, I am back."),
    answer("What is Porto known for?", "Wine from the valley, and six bridges."),
    answer("What is Faro known for?", "A lagoon, and storks on the roofs."),
    answer("What is Nowhere known for?", fault=Fault("http_error", status=400)),
]

if __name__ == "__main__":
    asyncio.run(main())
