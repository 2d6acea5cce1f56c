"""Writes the table of faults, policies and what the reader sees into docs/reliability.md, from runs over real sockets.

    python tools/reliability_table.py            # writes the page
    python tools/reliability_table.py --check    # exits with 1 where the page says something else

Each cell is a run against a local endpoint whose stream fails as the row says, with the policy that the column says.
All waiting is by a fake clock, which moves when the sockets have been silent for a moment. A test compares the page.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runstream import Agent, ModelSettings, RunConfig, Runner
from runstream.errors import AgentsException
from runstream.flow.fallback import PlainCall
from runstream.flow.timeouts import TimeLimits
from runstream.models.provider import OpenAIProvider
from runstream.testing import Endpoint, FakeClock, Fault, Script, say

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"
BROKEN, WHOLE, OTHER = "one two three four", "the whole answer", "another's answer"

_QUIET_S = 0.004
LIMITS = TimeLimits(connect_s=2, first_content_s=3, idle_s=2, model_call_s=60)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says, and how long the model's failure lasts."""

    title: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lasts: bool = False
    """Whether the model fails each time; otherwise once."""
    has_other: bool = False
    """Whether there is another model to ask."""
    only_streams: bool = False
    """Whether only streams fail."""


FAULTS: dict[str, Fault] = {
    "HTTP 400": Fault("http_error", status=400),
    "HTTP 404": Fault("http_error", status=404),
    "HTTP 429": Fault("http_error", status=429, retry_after_s=2.0),
    "HTTP 503": Fault("http_error", status=503),
    "no answer": Fault("slow_first_byte", for_s=60.0),
    "headers, then silence": Fault("silence", after="start"),
    "an error as the first event": Fault("error_event", after=0),
    "reset in the text": Fault("reset", after=2),
    "silence in the text": Fault("silence", after=2),
    "only keep-alives in the text": Fault("silence", after=2, pings_every_s=0.5),
    "a frame that is no JSON": Fault("broken_frame", after=2),
    "`response.failed` in the text": Fault("failed", after=2),
    "no end after the text": Fault("no_end"),
}

POLICIES: dict[str, Policy] = {
    "fail": Policy("as it is, the fault once"),
    "restart": Policy('`on_broken_stream="restart"`, the fault once', {"on_broken_stream": "restart"}),
    "continue": Policy('`on_broken_stream="continue"`, the fault once', {"on_broken_stream": "continue"}),
    "fallback": Policy("`fallback_models=[other]`, the fault always", lasts=True, has_other=True),
    "fallback, restart": Policy(
        '`fallback_models=[other]` and `"restart"`, the fault always',
        {"on_broken_stream": "restart"},
        lasts=True,
        has_other=True,
    ),
    "plain call": Policy(
        '`fallback_models=[PlainCall()]` and `"restart"`, streams fail always',
        {"on_broken_stream": "restart", "fallback_models": [PlainCall()]},
        lasts=True,
        only_streams=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader of the run got."""

    shown: tuple[str, ...]
    """The texts, one an attempt; all but the last were taken back."""
    error: str | None
    is_partial: bool
    answered_by_other: bool
    requests: int
    """Of the model that fails."""

    def __str__(self) -> str:
        texts = [f"“{text}”" for text in self.shown if text]
        parts = [" taken back, ".join(texts)] if texts else []
        if self.error is not None:
            parts.append(f"**{self.error}**")
        elif self.is_partial:
            parts.append("marked partial")
        count = f"{self.requests} requests" if self.requests > 1 else "1 request"
        return f"{', '.join(parts)} ({count})"


def _script(fault: Fault, policy: Policy) -> Script:
    if policy.only_streams:

        def choose(request: Any) -> Any:
            return say(BROKEN, fault=fault, every_s=1.0) if request.is_streamed else say(WHOLE)

        return Script(default=choose)
    if policy.lasts:
        return Script(default=say(BROKEN, fault=fault, every_s=1.0))
    return Script([say(BROKEN, fault=fault, every_s=1.0)], default=say(WHOLE))


async def see(fault: Fault, policy: Policy, *, use_responses: bool = True) -> Seen:
    """Make the run, and read it."""
    clock = FakeClock(autojump=False)
    async with Endpoint(_script(fault, policy), clock=clock) as endpoint, Endpoint([say(OTHER)], clock=clock) as spare:
        provider = OpenAIProvider(api_key="any", base_url=endpoint.url, use_responses=use_responses)
        other = OpenAIProvider(api_key="any", base_url=spare.url, use_responses=use_responses).get_model("other")
        config = RunConfig(
            clock=clock,
            model_provider=provider,
            time_limits=LIMITS,
            **{"fallback_models": [other] if policy.has_other else (), **policy.options},
        )
        agent = Agent(name="Ann", model="first", model_settings=ModelSettings(max_tokens=100))
        result = Runner.run_streamed(agent, "hi", run_config=config)
        shown = [""]
        count = 0

        def progress() -> tuple[int, ...]:
            return count, len(endpoint.requests), len(spare.requests), *(each.deltas_sent for each in endpoint.requests)

        time = asyncio.create_task(_pass_time(clock, progress))
        async for event in result.events():
            count += 1
            if event.kind == "model" and event.data.type == "response.output_text.delta":
                shown[-1] += event.data.delta
            elif event.kind == "item" and event.data.type == "message_output_item" and not shown[-1]:
                shown[-1] = event.data.raw.content[0].text  # it came whole
            elif event.kind == "attempt.discarded":
                shown.append("")
        time.cancel()
        error = result.run_loop_exception
        assert (result.partial_output or "") == shown[-1], "what counts is what readers have seen"
        return Seen(
            tuple(shown),
            None if error is None else _named(error),
            result.is_partial,
            bool(spare.requests),
            len(endpoint.requests),
        )


async def _pass_time(clock: FakeClock, progress: Callable[[], tuple[int, ...]]) -> None:
    """Let a second pass whenever nothing happens any more: what is on its way through a socket has arrived."""
    quiet = 0
    while True:
        before = progress()
        await asyncio.sleep(_QUIET_S)
        quiet = quiet + 1 if progress() == before else 0
        if quiet >= 4:
            quiet = 0
            await clock.advance(1.0)


def _named(error: BaseException) -> str:
    phase = getattr(error, "phase", None) if isinstance(error, AgentsException) else None
    return type(error).__name__ if phase is None else f"{type(error).__name__}, {phase}"


async def row(name: str) -> str:
    """The line of one fault."""
    cells = [str(await see(FAULTS[name], policy)) for policy in POLICIES.values()]
    return f"| {name} | {' | '.join(cells)} |"


async def table() -> str:
    """The table as Markdown."""
    lines = [f"| the model's stream | {' | '.join(policy.title for policy in POLICIES.values())} |"]
    lines.append("| --- |" + " --- |" * len(POLICIES))
    lines += [await row(name) for name in FAULTS]
    return "\n".join(lines) + "\n"


def put(page: str, made: str) -> str:
    """The page with that table. Raises ValueError for a page without a place for it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the table: {BEGIN.strip()} … {END.strip()}")
    return f"{before}{BEGIN}{made}{END}{after}"


def main() -> int:
    page = PAGE.read_text()
    made = put(page, asyncio.run(table()))
    if "--check" in sys.argv[1:]:
        return 0 if made == page else 1
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
