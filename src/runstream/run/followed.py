"""A run that is carried out elsewhere, or was: its state and its readers, from what its store has of it.

Each reader has a place of its own in the stored log, fetched as it reads: nothing is read ahead of it, and a slow
reader costs the others nothing. What readers pass is folded once into the state that the handle shows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from runstream.agent.agent import Agent
from runstream.agent.context import RunContextWrapper
from runstream.agent.items import RunItem, ToolApprovalItem, ToolCallOutputItem
from runstream.agent.usage import Usage
from runstream.errors import AgentsException, RunErrorDetails, RunSealed, UserError
from runstream.events.event import APPROVAL_RESOLVED, ITEM, RUN_END, Event
from runstream.log.base import Command, Log, RunRecord, Segment
from runstream.log.cursor import Cursor, resolve
from runstream.log.fold import RunFold
from runstream.run.bind import AgentBook
from runstream.run.config import RunConfig
from runstream.run.feed import StoredFeed, events_of
from runstream.run.guardrail_results import GuardrailResults
from runstream.run.history import latest_text, left_by_filter
from runstream.run.host import StoreHost
from runstream.run.readers import Place
from runstream.run.resume import apply, restore_approvals

__all__ = ["FollowedRun", "follow"]

_logger = logging.getLogger("runstream")


class _ThroughStore:
    """Sends what people ask of the run to whoever carries it out."""

    def __init__(self, followed: FollowedRun) -> None:
        self._followed = followed

    async def send(self, command: Command) -> None:
        await self._followed.store.send(self._followed.run_id, command)


class FollowedRun:
    """What a result and its readers need of a run, as `ActiveRun` is for one that is carried out here."""

    def __init__(self, host: StoreHost, record: RunRecord, book: AgentBook, after: int, config: RunConfig) -> None:
        self._host = host
        self.store = host.store
        self.book = book
        self.run_id = record.run_id
        self.record = record
        self.after = after
        """Where readers begin that do not say it."""
        self.config = config
        self.clock = config.clock
        self.fold = RunFold()
        self.durable = _ThroughStore(self)
        self.context: RunContextWrapper[Any] = RunContextWrapper(None)
        self.task = None
        self.is_nested = False
        self.cancel_mode: Literal["immediate", "after_turn"] | None = None
        self.error: BaseException | None = None
        self.final_output: Any = None
        self.gate_seq = float("inf")
        self.nested_requests: dict[str, ToolApprovalItem] = {}
        """By call id: what agents that run as tools wait for."""
        self._folded_seq = record.first_seq - 1
        self._epochs: list[tuple[int, int]] = list(record.epochs)
        self._places: list[Place] = []

    # The state, as far as anybody has read.

    @property
    def guardrails(self) -> GuardrailResults:
        """What guardrails have found, as the log tells it."""
        found = GuardrailResults.from_log(self.fold.guardrails, self.book, self.config)
        for result in found.output:
            result.agent_output = self.final_output
        found.input_passed = _has_passed(self.fold)
        return found

    async def catch_up(self) -> None:
        """Fold what the store has now."""
        while True:
            page = await self.store.read(self.run_id, self._folded_seq)
            if not page.segments:
                return
            for event in events_of(page.segments, self.run_id, self._folded_seq, self.book, deltas=False):
                self._fold(event)
            self._folded_seq = page.segments[-1].last_seq
            self._note_epochs(page.segments)

    def take_in(self, events: Sequence[Event], segment: Segment) -> None:
        """Fold events that a reader has fetched, unless another has fetched them before."""
        self._note_epochs((segment,))
        for event in events:
            if event.seq == self._folded_seq + 1:
                self._folded_seq = event.seq
                self._fold(event)

    def _note_epochs(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if not self._epochs or segment.epoch > self._epochs[-1][0]:
                self._epochs.append((segment.epoch, segment.first_seq))

    def _fold(self, event: Event) -> None:
        if event.path:
            self._fold_nested(event)
            return
        before = len(self.fold.responses)
        apply(self.fold, event, self.book)
        for response in self.fold.responses[before:]:
            self.context.usage.add(response.usage)
        if event.kind == APPROVAL_RESOLVED:
            restore_approvals(self.fold, self.context)
        elif event.kind == RUN_END:
            self._end(event)

    def _fold_nested(self, event: Event) -> None:
        requests = self.nested_requests
        if event.kind == APPROVAL_RESOLVED:
            requests.pop(event.data.call_id, None)
        elif event.kind == ITEM:
            request = event.live
            if isinstance(request, ToolApprovalItem) and request.call_id is not None:
                requests[request.call_id] = request
            elif isinstance(request, ToolCallOutputItem):
                requests.pop(request.call_id or "", None)

    def _end(self, event: Event) -> None:
        if event.data.error is None:
            self.final_output = event.live
        else:
            error: AgentsException = event.live
            error.run_data = self.error_details()
            self.error = error
        if event.data.usage is not None:
            self.context.usage = Usage(**event.data.usage)

    def log_for(self, after: int, place: Place) -> Log:
        """The log as a reader that begins after that seq sees it. Raises UserError for a seq that is not there yet."""
        newest = max(self._folded_seq, self.record.last_seq)
        if after > newest:
            raise UserError(f"after={after} is not a cursor of this log: it holds the events 1 to {newest}")
        place.feed = self._feed(after)
        return place.feed

    def _feed(self, after: int) -> StoredFeed:
        return StoredFeed(self.store, self.run_id, after, self.book, self.take_in)

    def cursor_of(self, seq: int) -> str:
        """The cursor after that event, for readers in other processes."""
        epoch = 0
        for number, first_seq in self._epochs:
            if first_seq <= seq:
                epoch = number
        return str(Cursor(epoch if seq else 0, seq))

    @property
    def items(self) -> Sequence[RunItem]:
        return self.fold.items

    @property
    def agent(self) -> Agent[Any]:
        """The active agent; the starting one before there is one."""
        return self.fold.agent if self.fold.agent is not None else self.book.find(self.record.agent)

    @property
    def input(self) -> Any:
        """What the run was started with, or what a handoff's filter put in its place; empty before it has begun."""
        left = left_by_filter(self.fold)
        if left is not None:
            return left[0]
        return "" if self.fold.start is None else self.fold.start.input

    @property
    def filtered(self) -> tuple[int, tuple[RunItem, ...]] | None:
        """As `ActiveRun.filtered`."""
        left = left_by_filter(self.fold)
        return None if left is None else (self.fold.history_index, tuple(left[1]))

    @property
    def max_turns(self) -> int | None:
        return None if self.fold.start is None else self.fold.start.max_turns

    @property
    def turn(self) -> int:
        return len(self.fold.responses) + (self.fold.response_seq is not None)

    @property
    def omits_reasoning_ids(self) -> bool:
        return self.config.reasoning_item_id_policy == "omit"

    @property
    def ended(self) -> bool:
        return self.fold.end is not None

    @property
    def silenced(self) -> bool:
        """Whether this handle has cancelled the run: the SDK's view yields nothing more."""
        return self.cancel_mode == "immediate"

    @property
    def interruptions(self) -> list[ToolApprovalItem]:
        """Calls that wait for a person."""
        if self.fold.end is not None and self.fold.end.status != "interrupted":
            return []
        answered = {answer.call_id for answer in self.fold.approvals}
        own = [item for item in self.fold.items if isinstance(item, ToolApprovalItem) and item.call_id not in answered]
        return [*own, *self.nested_requests.values()]

    def error_details(self) -> RunErrorDetails:
        return RunErrorDetails(
            input=self.input,
            new_items=list(self.items),
            raw_responses=list(self.fold.responses),
            last_agent=self.agent,
            context_wrapper=self.context,
            input_guardrail_results=[],
            output_guardrail_results=[],
            partial_output=self.partial_output,
        )

    @property
    def partial_output(self) -> Any:
        """What there is of an answer: the final output, else the text of the last message."""
        return self.final_output if self.final_output is not None else latest_text((), self.items)

    def error_told(self) -> None:
        """There is no task here whose error could go unseen."""

    # Readers.

    def check_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop: a store belongs to it."""
        return asyncio.get_running_loop()

    def enter(self, place: Place) -> None:
        """A reader has begun."""
        self._places.append(place)

    def leave(self, place: Place) -> None:
        """A reader goes away: nothing happens to the run."""
        if place in self._places:
            self._places.remove(place)
        if place.feed is not None:
            place.feed.abandon()

    def reader_waits(self) -> None:
        """No turn waits for these readers."""

    def handed_over(self) -> None:
        """As above."""

    async def wait_ended(self) -> None:
        """Return once the end of the run is folded."""
        feed = self._feed(self._folded_seq)
        try:
            while not self.ended:
                await feed.wait(feed.last_seq)
        finally:
            await feed.aclose()

    def cancel(self, mode: Literal["immediate", "after_turn"]) -> asyncio.Task[None]:
        """Ask whoever carries the run out to end it. The request goes out at once; awaited, it is kept."""
        if mode not in ("immediate", "after_turn"):
            raise UserError(f"cancel mode must be 'immediate' or 'after_turn', not {mode!r}")
        self.cancel_mode = mode
        if mode == "immediate":
            for place in self._places:
                place.silenced = True
        return self._host.see_to(lambda: self._send_cancel(mode))

    async def _send_cancel(self, mode: str) -> None:
        try:
            await self.store.send(self.run_id, Command("cancel", {"mode": mode}))
        except RunSealed:
            pass  # it has ended by itself meanwhile
        except AgentsException as error:
            # Whoever asked may not wait for it.
            _logger.error("the run %s cannot be told to end: %s", self.run_id, error)
            raise


async def follow(host: StoreHost, run_id: str, after: int | str, book: AgentBook, config: RunConfig) -> FollowedRun:
    """The run of that id. Raises RunNotFound, CursorInvalid, CursorExpired."""
    record = await host.store.find(run_id)
    seq = resolve(after, record.epochs, record.first_seq, record.last_seq)
    # Whoever reads does not own: leaving `async with` the handle leaves the run alone.
    followed = FollowedRun(host, record, book, seq, replace(config, on_abandon="detach"))
    await followed.catch_up()
    return followed


def _has_passed(fold: RunFold) -> bool:
    """Whether the first turn is over: its input was let pass then."""
    return len(fold.responses) > 1 or (fold.end is not None and fold.end.status in ("completed", "interrupted"))
