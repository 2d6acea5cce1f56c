"""The metrics of a run as a pure fold of its log: live or replayed, the same events give the same figures.

Owns `MetricsFold` and `RunMetrics`. Asks for no time: every figure is a difference of the events' own stamps. Keeps no
content. A delta costs a few comparisons and one count; what a run keeps is bounded by its turns and tool calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runstream.agent.raw_item import read_field
from runstream.events.event import (
    AGENT_START,
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    GUARDRAIL,
    INPUT_ADDED,
    ITEM,
    MODEL,
    RUN_END,
    RUN_QUEUED,
    RUN_START,
    Event,
    RunEnd,
    RunStatus,
)
from runstream.observe.calls import (
    CONTENT,
    EVENT,
    FIRST_NAMES,
    OUTCOMES,
    TOOL,
    Attempt,
    Lane,
    QueueTime,
    Turn,
    contents_of,
    held_up_turn,
    is_fallback,
    total_usage,
    usage_of,
)
from runstream.observe.figures import (
    SHORTEST_S,
    AttemptMetrics,
    FirstTimes,
    GapFigures,
    TokenUsage,
    ToolMetrics,
    TurnMetrics,
)
from runstream.observe.sketch import Sketch
from runstream.view.texts import queue_text

__all__ = ["FoldListener", "MetricsFold", "RunMetrics"]


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The figures of one run, so far."""

    run_id: str
    agent: str | None
    """The one that began."""
    status: RunStatus | None
    error_type: str | None
    """The name of the error's class; its message is content."""
    error_code: str | None
    started_at: float
    """Seconds since the epoch."""
    duration_s: float
    """To the latest event."""
    first: FirstTimes
    """From the begin of the run, without the time in the queue before it, and without nested agents."""
    events: int
    deltas: int
    gaps: GapFigures
    output_tokens_per_s: float | None
    deltas_per_s: float | None
    """Over the time in which answers streamed. Rates over less than a tenth of a second are None."""
    turns: tuple[TurnMetrics, ...]
    retries: int
    """Model calls that were made again."""
    discarded: int
    """Attempts that readers had seen of and that became void."""
    fallbacks: int
    """Attempts that another model answered than the attempt before."""
    tools: tuple[ToolMetrics, ...]
    handoffs: int
    approvals: int
    """Calls that a person was asked about."""
    requests: int
    """To models, as the run counted them; 0 before its end."""
    usage: TokenUsage
    """The sum over complete responses; of an ended run what the run counted, if that is more."""
    queued_s: float = 0.0
    """How long the run waited for its place (`RunConfig.load_limits`), so far."""

    @classmethod
    def of(cls, events: Iterable[Event], *, stall_s: float = 2.0) -> RunMetrics:
        """The figures of events of one run, in their order: live or replayed, they are the same."""
        fold = MetricsFold(stall_s=stall_s)
        for event in events:
            fold.apply(event)
        return fold.metrics


class FoldListener:
    """What a fold tells as it goes, never for a delta. Each method does nothing unless it is overridden."""

    def first(self, what: str, delay_s: float, agent: str | None) -> None:
        """The run's first `event`, `reasoning`, `text` or `tool`, so long after its begin."""

    def attempt_began(self, number: int, agent: str | None) -> None:
        """The first event of a model call; a number above 1 says that it is made again."""

    def attempt_ended(self, attempt: AttemptMetrics, gaps: Sketch, agent: str | None) -> None:
        """A model call that the log has events of is over."""

    def attempt_discarded(self, reason: str) -> None:
        """What readers had seen of an attempt is void."""

    def tool_ended(self, tool: ToolMetrics) -> None:
        """A tool has its output."""

    def run_ended(self, metrics: RunMetrics) -> None:
        """The run is over."""


class MetricsFold:
    """Apply a run's events in order, from the first; read `metrics` at any time.

    A pause of `stall_s` seconds or more between two chunks of an answer is a stall.
    """

    def __init__(self, *, stall_s: float = 2.0, listener: FoldListener | None = None) -> None:
        self.stall_s = stall_s
        self._listener = listener
        self._last: Event | None = None
        self._run_id = ""
        self._agent: str | None = None
        self._started_at = 0.0
        self._queue = QueueTime()
        self._events = 0
        self._lanes: dict[tuple[str, ...], Lane] = {}
        self._turns: list[Turn] = []
        self._firsts: list[float | None] = [None, None, None, None]
        self._tools: list[ToolMetrics] = []
        self._open_tools: dict[tuple[tuple[str, ...], str], list[ToolMetrics]] = {}
        self._is_resumed = False
        """Whether the run has gone on from another one's state, whose usage it counts on."""
        self._asks = False
        """Whether the run's own agent is to be answered next: nothing in the log says that a model is being asked."""
        self._discarded = 0
        self._fallbacks = 0
        self._handoffs = 0
        self._approvals = 0
        self._end: RunEnd | None = None
        # The content that came last: more of it is only counted.
        self._class: type[Any] | None = None
        self._attempt: Attempt = Attempt(0, 0.0)
        self._number = 0
        self._path: tuple[str, ...] = ()

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self._events += 1
        self._last = event
        data = event.data
        if data.__class__ is self._class and event.attempt == self._number and event.path == self._path:
            attempt = self._attempt
            attempt.deltas += 1
            at = event.at
            if at != attempt.last_at:
                gap_s = at - attempt.last_at
                attempt.last_at = at
                attempt.chunks += 1
                attempt.gaps.add(gap_s)
                if gap_s >= self.stall_s:
                    attempt.stalls += 1
            return
        if self._events == 1:
            self._run_id, self._agent, self._started_at = event.run_id, event.agent, event.at
        kind = event.kind
        lane = self._lanes.get(event.path)
        if lane is None:
            lane = self._lanes[event.path] = Lane(event.path, event.at)
        if kind == MODEL:
            self._apply_model(event, lane)
            return
        if kind == ITEM:
            self._apply_item(event)
        elif kind == AGENT_START:
            lane.agent = event.agent
            self._asks |= not event.path
        elif kind == ATTEMPT_DISCARDED:
            self._discard(event, lane)
        elif kind == GUARDRAIL and not held_up_turn(event.data):
            return
        elif kind == APPROVAL_RESOLVED:
            self._start_anew(event)
        elif kind == RUN_QUEUED:
            self._queue.move(data.position, event.at)
        elif kind == RUN_END and not event.path:
            self._queue.move(0, event.at)
            self._apply_end(event)
        elif kind == INPUT_ADDED:
            self._asks = True
        elif kind == RUN_START:
            self._agent = event.agent
            self._is_resumed = event.data.resumed is not None
        lane.last_at = event.at

    # Model calls.

    def _apply_model(self, event: Event, lane: Lane) -> None:
        data, at = event.data, event.at
        attempt = lane.attempt
        if attempt is None or event.attempt != attempt.number:
            attempt = self._begin_attempt(event, lane)
        kind: str = data.type
        content = CONTENT.get(kind)
        if content is not None or kind.endswith(".delta"):
            attempt.deltas += 1
            if not attempt.chunks:
                attempt.first_at = attempt.last_at = at
                attempt.chunks = 1
            elif at != attempt.last_at:
                gap_s = at - attempt.last_at
                attempt.last_at = at
                attempt.chunks += 1
                attempt.gaps.add(gap_s)
                attempt.stalls += gap_s >= self.stall_s
            if content is not None:
                self._mark(content, lane, attempt, at)
            self._class, self._attempt = data.__class__, attempt
            self._number, self._path = event.attempt, event.path
            return
        response = read_field(data, "response")
        if response is not None:
            attempt.model = read_field(response, "model") or attempt.model
        if kind == "response.output_item.added" and str(read_field(data.item, "type")).endswith("_call"):
            self._mark(TOOL, lane, attempt, at)
        outcome = OUTCOMES.get(kind)
        if outcome is not None:
            if response is not None:
                attempt.usage = usage_of(response)
                for what in () if attempt.deltas else contents_of(response):
                    self._mark(what, lane, attempt, at)
            self._end_attempt(lane, outcome, at)

    def _begin_attempt(self, event: Event, lane: Lane) -> Attempt:
        self._end_attempt(lane, "broken", lane.last_at)
        turn = lane.turn
        if turn is None or turn.is_answered:
            turn = self._begin_turn(event, lane)
        if turn.attempts and event.attempt <= turn.attempts[-1].number:
            turn.made_before = turn.made
        turn.made = turn.made_before + max(event.attempt, 1)
        started_at = turn.started_at if lane.restart_at is None else lane.restart_at
        lane.restart_at = None
        attempt = lane.attempt = Attempt(event.attempt, started_at)
        turn.attempts.append(attempt)
        if self._listener is not None:
            self._listener.attempt_began(event.attempt, event.agent)
        self._mark(EVENT, lane, attempt, event.at)
        return attempt

    def _begin_turn(self, event: Event, lane: Lane) -> Turn:
        if lane.turn is not None:
            lane.turn.ended_at = lane.last_at
        turn = lane.turn = Turn(event.agent, event.path, lane.last_at)
        self._asks &= bool(event.path)
        self._turns.append(turn)
        return turn

    def _mark(self, what: int, lane: Lane, attempt: Attempt, at: float) -> None:
        turn = lane.turn
        if attempt.firsts[what] is None:
            attempt.firsts[what] = at - attempt.started_at
        if turn is not None and turn.firsts[what] is None:
            turn.firsts[what] = at - turn.started_at
        if self._firsts[what] is None and not lane.path:
            delay_s = self._firsts[what] = at - self._started_at - self._queue.waited_s
            if self._listener is not None:
                self._listener.first(FIRST_NAMES[what], delay_s, self._agent)

    def _end_attempt(self, lane: Lane, outcome: str, at: float) -> None:
        attempt, lane.attempt = lane.attempt, None
        if attempt is None:
            return
        self._class = None
        attempt.outcome = outcome
        attempt.ended_at = at = max(at, attempt.last_at, attempt.started_at)
        lane.last_at = max(lane.last_at, at)
        if lane.turn is not None:
            lane.turn.is_answered = outcome == "completed"
        if self._listener is not None:
            self._listener.attempt_ended(attempt.metrics, attempt.gaps, lane.agent)

    def _discard(self, event: Event, lane: Lane) -> None:
        reason: str = event.data.reason
        self._fallbacks += reason == "fallback"
        turn = lane.turn
        if event.data.from_seq < event.seq:
            self._discarded += 1
            if turn is not None and turn.attempts:
                turn.is_answered = False
                turn.attempts[-1].reason = reason
            if self._listener is not None:
                self._listener.attempt_discarded(reason)
        elif turn is None or turn.is_answered:
            # It failed before anything of it was in the log: the turn begins with it all the same.
            self._begin_turn(event, lane)
        self._end_attempt(lane, "discarded", event.at)
        lane.restart_at = event.at

    # Tools, people, the end.

    def _apply_item(self, event: Event) -> None:
        kind, raw = event.data.type, event.data.raw
        if kind == "tool_call_item":
            call_id = read_field(raw, "call_id")
            name = str(read_field(raw, "name") or read_field(raw, "type"))
            key = str(call_id or read_field(raw, "id") or "")
            tool = ToolMetrics(name, key, event.agent, event.path, event.at, None)
            if call_id is None:
                self._tools.append(tool)  # the provider runs it: no output of it will come
            else:
                self._open_tools.setdefault((event.path, key), []).append(tool)
        elif kind == "tool_call_output_item":
            key = str(read_field(raw, "call_id"))
            nested = self._lanes.pop((*event.path, key), None)
            if nested is not None:
                self._end_lane(nested, "broken", event.at)
            self._asks |= not event.path
            waiting = self._open_tools.get((event.path, key))
            if waiting:
                self._end_tool(waiting.pop(0), event.at)
        elif kind == "handoff_output_item":
            self._handoffs += 1
        elif kind == "tool_approval_item":
            self._approvals += 1

    def _end_tool(self, tool: ToolMetrics, at: float) -> None:
        ended = ToolMetrics(tool.name, tool.call_id, tool.agent, tool.path, tool.started_at, at - tool.started_at)
        self._tools.append(ended)
        if self._listener is not None:
            self._listener.tool_ended(ended)

    def _start_anew(self, event: Event) -> None:
        """A person's time to think is none of the tool's."""
        waiting = self._open_tools.get((event.path, event.data.call_id))
        if waiting and event.data.approved:
            old = waiting[0]
            waiting[0] = ToolMetrics(old.name, old.call_id, old.agent, old.path, event.at, None)

    def _apply_end(self, event: Event) -> None:
        self._end = event.data
        self._note_silent_attempts(event)
        broken = "cancelled" if event.data.status == "cancelled" else "broken"
        for lane in self._lanes.values():
            self._end_lane(lane, broken, event.at)
        if self._listener is not None:
            self._listener.run_ended(self.metrics)

    def _note_silent_attempts(self, event: Event) -> None:
        """Attempts that failed before their first content have no events; where no other follows, and the run fails
        for it, its count of requests tells of them."""
        lane = self._lanes.get(())
        silent = self._counted.get("requests", 0) - sum(turn.made for turn in self._turns)
        if event.data.status != "failed" or self._is_resumed or lane is None or silent <= 0:
            return
        if self._is_asked_anew:
            turn = self._begin_turn(event, lane)
            lane.attempt = Attempt(silent, turn.started_at)
            turn.attempts.append(lane.attempt)
        elif lane.turn is None or lane.turn.is_answered:
            return
        else:
            turn = lane.turn
        turn.made += silent
        if self._listener is not None:
            self._listener.attempt_began(turn.made, event.agent)
        if not turn.attempts[-1].deltas:
            self._end_attempt(lane, "failed", event.at)

    def _end_lane(self, lane: Lane, outcome: str, at: float) -> None:
        self._end_attempt(lane, outcome, at)
        if lane.turn is not None and lane.turn.ended_at is None:
            lane.turn.ended_at = at

    # The figures.

    @property
    def gap_sketches(self) -> list[Sketch]:
        """The pauses of each model call; not to be changed."""
        return [attempt.gaps for turn in self._turns for attempt in turn.attempts]

    @property
    def open_tools(self) -> list[ToolMetrics]:
        """The calls that have no output yet."""
        return [tool for waiting in self._open_tools.values() for tool in waiting]

    def is_stalled(self, now: float) -> bool:
        """Whether an answer that has begun has paused for longer than `stall_s` by now."""
        under_way = [lane.attempt for lane in self._lanes.values() if lane.attempt is not None]
        return any(attempt.chunks and now - attempt.last_at >= self.stall_s for attempt in under_way)

    @property
    def activity(self) -> str:
        """What the run does, in a few words: its tools, whether it waits for its place, answers, asks, or has ended."""
        if self._end is not None:
            return self._end.status
        if self._queue.position:
            return queue_text(self._queue.position)
        tools = self.open_tools
        if tools:
            return ", ".join(dict.fromkeys(tool.name for tool in tools))
        attempts = [lane.attempt for lane in self._lanes.values() if lane.attempt is not None]
        if not attempts:
            return "asks the model" if self._is_asked else "finishes"
        return "answers" if any(attempt.chunks for attempt in attempts) else "waits for content"

    @property
    def _is_asked_anew(self) -> bool:
        """Whether the next turn's answer is to come."""
        return self._asks and not self.open_tools

    @property
    def _is_asked(self) -> bool:
        """Whether an answer of a model is to come next."""
        turn = None if (lane := self._lanes.get(())) is None else lane.turn
        return self._asks or turn is None or not turn.is_answered

    @property
    def turns_begun(self) -> int:
        """How many turns the run and its nested agents have begun, with one of which no event has come yet."""
        return len(self._turns) + (self._end is None and self._is_asked_anew)

    @property
    def last_at(self) -> float:
        """The time of the latest event; 0 before the first."""
        return 0.0 if self._last is None else self._last.at

    @property
    def active_agent(self) -> str | None:
        """The one that is at work; the last one of a run that has ended."""
        return None if self._last is None else self._last.agent

    @property
    def metrics(self) -> RunMetrics:
        """The figures of the events so far."""
        gaps, stalls, deltas, tokens, counted_s, streaming_s, fallbacks = Sketch(), 0, 0, 0, 0.0, 0.0, self._fallbacks
        for turn in self._turns:
            for index, attempt in enumerate(turn.attempts):
                gaps.merge(attempt.gaps)
                stalls += attempt.stalls
                deltas += attempt.deltas
                took_s = attempt.last_at - attempt.first_at
                streaming_s += took_s
                if attempt.usage is not None and took_s >= SHORTEST_S:
                    tokens += attempt.usage.output_tokens
                    counted_s += took_s
                fallbacks += index > 0 and is_fallback(turn.attempts[index - 1], attempt)
        end = self._end
        error = None if end is None else end.error
        return RunMetrics(
            run_id=self._run_id,
            agent=self._agent,
            status=None if end is None else end.status,
            error_type=None if error is None else error.type,
            error_code=None if error is None else error.code,
            started_at=self._started_at,
            duration_s=self.last_at - self._started_at,
            first=FirstTimes(*self._firsts),
            events=self._events,
            deltas=deltas,
            gaps=GapFigures.of(gaps, stalls),
            output_tokens_per_s=tokens / counted_s if counted_s > 0 else None,
            deltas_per_s=deltas / streaming_s if streaming_s >= SHORTEST_S else None,
            turns=tuple(turn.metrics(number) for number, turn in enumerate(self._turns, start=1)),
            retries=sum(max(turn.made - 1, 0) for turn in self._turns),
            discarded=self._discarded,
            fallbacks=fallbacks,
            tools=(*self._tools, *self.open_tools),
            handoffs=self._handoffs,
            approvals=self._approvals,
            requests=self._counted.get("requests", 0),
            usage=total_usage([each.usage for turn in self._turns for each in turn.attempts], self._counted),
            queued_s=self._queue.waited_s,
        )

    @property
    def _counted(self) -> dict[str, int]:
        """What the run itself has counted in the end."""
        return {} if self._end is None or self._end.usage is None else self._end.usage
