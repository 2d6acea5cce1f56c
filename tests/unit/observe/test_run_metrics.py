"""The metrics of a run, as a fold of its log."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, function_tool
from runstream.errors import ModelStreamTruncated
from runstream.events.codec import decode, encode
from runstream.events.event import (
    ApprovalResolved,
    AttemptDiscarded,
    ErrorInfo,
    Event,
    ItemAdded,
    RunEnd,
    RunQueued,
    RunStart,
)
from runstream.events.model_event import build_event
from runstream.events.segment import decode_segment, encode_segment
from runstream.observe import MetricsFold, RunMetrics
from runstream.observe.figures import FirstTimes, TokenUsage
from runstream.testing import FakeClock, Fault, Raise, ScriptedModel, ToolCall, Turn


class Log:
    """Events written by hand, with the times that the test gives."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, kind: str, at: float, data: Any, *, attempt: int = 0, path: tuple[str, ...] = ()) -> Log:
        self.events.append(Event("run_1", len(self.events) + 1, at, kind, "Desk", attempt, path, data))
        return self

    def start(self, at: float) -> Log:
        return self.add("run.start", at, RunStart("hi"))

    def model(self, at: float, fields: dict[str, Any], attempt: int, path: tuple[str, ...] = ()) -> Log:
        return self.add("model", at, build_event(fields), attempt=attempt, path=path)

    def text(self, at: float, *, attempt: int = 1, path: tuple[str, ...] = ()) -> Log:
        kind = "response.output_text.delta"
        fields = {"type": kind, "item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
        return self.model(at, {**fields, "delta": "x", "sequence_number": 1}, attempt, path)

    def reasoning(self, at: float) -> Log:
        fields = {"type": "response.reasoning_text.delta", "item_id": "r", "output_index": 0, "content_index": 0}
        return self.model(at, {**fields, "delta": "x", "sequence_number": 1}, 1)

    def response(self, at: float, ending: str, *, attempt: int = 1, model: str = "small", tokens: int = 10) -> Log:
        details = {"input_tokens_details": {"cached_tokens": 2}, "output_tokens_details": {"reasoning_tokens": 3}}
        usage = {"input_tokens": 5, "output_tokens": tokens, "total_tokens": 5 + tokens, **details}
        response: dict[str, Any] = {"id": "r", "output": [], "model": model}
        if ending not in ("created", "in_progress"):
            response["usage"] = usage
        return self.model(at, {"type": f"response.{ending}", "response": response, "sequence_number": 0}, attempt)

    def item(self, at: float, kind: str, path: tuple[str, ...] = (), **raw: Any) -> Log:
        return self.add("item", at, ItemAdded(kind, kind, raw), path=path)

    def end(self, at: float, status: Any = "completed", error: ErrorInfo | None = None) -> Log:
        return self.add("run.end", at, RunEnd(status, error, usage={"requests": 2, "total_tokens": 15}))

    @property
    def metrics(self) -> RunMetrics:
        return RunMetrics.of(self.events)


def test_time_in_the_queue_is_no_time_of_the_model() -> None:
    """A run that waits for its place says how long, and what it waits for; its first times begin when it has it."""
    log = Log().start(10.0).add("run.queued", 10.0, RunQueued(2)).add("run.queued", 13.0, RunQueued(1))
    fold = MetricsFold()
    for event in log.events:
        fold.apply(event)
    assert (fold.activity, fold.metrics.queued_s) == ("waiting: next", 3.0)
    metrics = log.add("run.queued", 15.0, RunQueued(0)).text(15.5).response(16.0, "completed").end(16.0).metrics
    assert (metrics.queued_s, metrics.first.text_s, metrics.duration_s) == (5.0, 0.5, 6.0)
    assert metrics.turns[0].first.text_s == 0.5
    assert Log().start(0.0).add("run.queued", 0.0, RunQueued(1)).end(4.0, "cancelled").metrics.queued_s == 4.0


def test_first_times_are_from_the_begin_of_the_run() -> None:
    """The first event, reasoning, text and tool are each counted from run.start."""
    log = Log().start(100.0).add("agent.start", 100.5, None).response(101.0, "created").reasoning(102.0).text(103.0)
    log.model(104.0, {"type": "response.function_call_arguments.delta", "delta": "{", "item_id": "f"}, 1)
    metrics = log.response(105.0, "completed").end(106.0).metrics
    assert metrics.first == FirstTimes(1.0, 2.0, 3.0, 4.0)
    assert metrics.turns[0].first == FirstTimes(0.5, 1.5, 2.5, 3.5)  # from the turn's begin, at agent.start
    assert metrics.duration_s == 6.0


def test_gaps_are_between_reads() -> None:
    """Deltas that came in one read are one chunk; a long pause is a stall; the pause before the text is none."""
    log = Log().start(0.0).response(5.0, "created").text(9.0).text(9.0).text(9.0).text(9.1).text(9.2).text(12.2)
    metrics = log.response(12.2, "completed").end(12.3).metrics
    (attempt,) = metrics.turns[0].attempts
    assert (attempt.chunks, attempt.deltas, attempt.gaps.count, attempt.gaps.stalls) == (4, 6, 3, 1)
    assert attempt.gaps.p50_s == pytest.approx(0.1, rel=0.02)
    assert attempt.gaps.p99_s == attempt.gaps.longest_s == pytest.approx(3.0)
    assert attempt.streaming_s == pytest.approx(3.2)
    assert metrics.output_tokens_per_s == metrics.turns[0].output_tokens_per_s == pytest.approx(10 / 3.2)


def test_an_attempt_that_was_discarded() -> None:
    """A discarded attempt and the one after it belong to one turn; the new one's times are from the discard."""
    log = Log().start(0.0).response(1.0, "created").text(2.0)
    log.add("attempt.discarded", 3.0, AttemptDiscarded(2, "retry")).text(5.0, attempt=2)
    metrics = log.response(6.0, "completed", attempt=2).end(6.0).metrics
    (turn,) = metrics.turns
    assert [(each.number, each.outcome, each.reason) for each in turn.attempts] == [
        (1, "discarded", "retry"),
        (2, "completed", None),
    ]
    assert turn.attempts[1].first.text_s == 2.0
    assert (metrics.retries, metrics.discarded, metrics.fallbacks, turn.attempts_made) == (1, 1, 0, 2)


def test_a_retry_that_nobody_saw() -> None:
    """An attempt that failed before its first content is known by the number of the next."""
    metrics = Log().start(0.0).text(2.0, attempt=3).response(3.0, "completed", attempt=3).end(3.0).metrics
    assert (metrics.retries, metrics.turns[0].attempts_made, len(metrics.turns[0].attempts)) == (2, 3, 1)


async def test_attempts_that_nobody_saw_and_that_no_other_followed() -> None:
    """Where the run fails for them, its count of requests tells of them, with or without content before."""
    broken = Turn(["one two"], fault=Fault("reset", after=1))
    for steps, outcomes in (([], [(3, "failed")]), ([broken], [(1, "broken")])):
        model = ScriptedModel([*steps, *[Fault("http_error", status=503)] * (3 - len(steps))])
        config = RunConfig(clock=FakeClock(), on_broken_stream="restart")
        result = Runner.run_streamed(Agent(name="Desk", model=model), "hi", run_config=config)
        metrics = RunMetrics.of([event async for event in result.events()])
        (turn,) = metrics.turns
        assert (metrics.requests, metrics.retries, turn.attempts_made) == (3, 2, 3)
        assert [(attempt.number, attempt.outcome) for attempt in turn.attempts] == outcomes


def test_another_model_is_a_fallback() -> None:
    """An attempt that another model answers than the one before is a fallback; in another turn it is none."""
    log = Log().start(0.0).response(1.0, "created").text(1.0).response(2.0, "failed")
    log.add("attempt.discarded", 2.0, AttemptDiscarded(2, "failed"))
    log.response(3.0, "completed", attempt=2, model="large").response(4.0, "completed", model="small")
    metrics = log.end(4.0).metrics
    assert metrics.fallbacks == 1
    assert [attempt.outcome for attempt in metrics.turns[0].attempts] == ["failed", "completed"]
    assert len(metrics.turns) == 2


def test_a_takeover_counts_attempts_on() -> None:
    """After another worker took over, attempts count from 1 again, within the same turn."""
    log = Log().start(0.0).text(1.0, attempt=2).add("attempt.discarded", 9.0, AttemptDiscarded(2, "taken_over"))
    metrics = log.text(10.0).response(11.0, "completed").end(11.0).metrics
    (turn,) = metrics.turns
    assert turn.attempts_made == 3
    assert turn.attempts[1].started_at == 9.0


def test_tools_last_from_their_call_to_their_output() -> None:
    """Each call is paired with its output, by its id; what a person was asked is not the tool's time."""
    log = Log().start(0.0).response(1.0, "completed")
    log.item(1.0, "tool_call_item", name="quick", call_id="a").item(1.0, "tool_call_item", name="slow", call_id="b")
    log.item(1.5, "tool_call_output_item", call_id="a")
    log.item(1.5, "tool_approval_item", call_id="b").add("approval.resolved", 60.0, ApprovalResolved("b", "slow", True))
    log.item(62.0, "tool_call_output_item", call_id="b").item(62.0, "tool_call_item", type="web_search_call", id="w")
    metrics = log.end(63.0).metrics
    assert [(tool.name, tool.duration_s) for tool in metrics.tools] == [
        ("quick", 0.5),
        ("slow", 2.0),
        ("web_search_call", None),
    ]
    assert metrics.approvals == 1


def test_usage_and_errors() -> None:
    """Usage is the sum over responses, or what the run counted; the error's class and code are kept, not its text."""
    log = Log().start(0.0).response(1.0, "completed", tokens=20)
    metrics = log.end(2.0, "failed", ErrorInfo("RateLimitError", "secret", "rate_limit")).metrics
    assert metrics.usage == TokenUsage(5, 20, 25, 2, 3)
    assert (metrics.status, metrics.error_type, metrics.error_code) == ("failed", "RateLimitError", "rate_limit")
    assert metrics.requests == 2
    assert "secret" not in repr(metrics)


def test_nested_agents_have_turns_of_their_own() -> None:
    """A nested agent's turns are told apart by their path and do not count for the run's first text."""
    log = Log().start(0.0).response(1.0, "created").text(1.0, path=("call_1",)).text(3.0)
    metrics = log.response(4.0, "completed").end(4.0).metrics
    assert metrics.first.text_s == 3.0
    assert {turn.path for turn in metrics.turns} == {(), ("call_1",)}


def test_a_run_that_broke_off() -> None:
    """What was open when the run ended is closed with it."""
    cancelled = Log().start(0.0).text(1.0).item(1.0, "tool_call_item", name="t", call_id="a").end(2.0, "cancelled")
    (attempt,) = cancelled.metrics.turns[0].attempts
    assert (attempt.outcome, attempt.ended_at) == ("cancelled", 2.0)
    assert cancelled.metrics.tools[0].duration_s is None
    failed = Log().start(0.0).text(1.0).end(2.0, "failed", ErrorInfo("E", ""))
    assert failed.metrics.turns[0].attempts[0].outcome == "broken"


def test_an_empty_log_has_figures_too() -> None:
    """Nothing is known, and nothing raises."""
    metrics = RunMetrics.of([])
    assert (metrics.events, metrics.first, metrics.gaps.p50_s, metrics.turns) == (0, FirstTimes(), None, ())


def test_a_stalled_answer_is_known_while_it_stalls() -> None:
    """`is_stalled` compares the time of now with the last content; after the end nothing is stalled."""
    fold = MetricsFold(stall_s=2.0)
    for event in Log().start(0.0).text(1.0).events:
        fold.apply(event)
    assert (fold.is_stalled(2.9), fold.is_stalled(3.0)) == (False, True)


async def some_run() -> list[Event]:
    """A run with a tool of 0.75 s, a retry that nobody saw, and an answer with a word every 0.05 s."""
    clock = FakeClock()

    @function_tool
    async def look_up(order: str) -> str:
        """Look an order up."""
        await clock.sleep(0.75)
        return "ready"

    steps = [
        Turn([ToolCall("look_up", {"order": "1"})]),
        Raise(ModelStreamTruncated("gone")),
        Turn(["It is ready: come and get it, please."], every_s=0.05),
    ]
    agent = Agent(name="Desk", model=ScriptedModel(steps, clock=clock), tools=[look_up])
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    return [event async for event in result.events()]


async def test_a_replayed_log_gives_the_same_figures() -> None:
    """Live and from a store's segments the figures are equal; JSON lines keep times to the microsecond."""
    events = await some_run()
    metrics = RunMetrics.of(events)
    assert RunMetrics.of(decode_segment(encode_segment(events), events[0].run_id)) == metrics
    from_lines = RunMetrics.of(decode(encode(event)) for event in events)
    assert from_lines.duration_s == pytest.approx(metrics.duration_s, abs=2e-6)
    assert (from_lines.retries, from_lines.usage, from_lines.deltas) == (1, metrics.usage, metrics.deltas)
    assert metrics.tools[0].duration_s == pytest.approx(0.75)
    assert metrics.gaps.p95_s == pytest.approx(0.05, rel=0.02)
    assert metrics.first.tool_s == 0.0
