"""Stream guardrails at work: a model's stream as it may be shown, while its text is checked beside it.

Stands between the model and the log, so that no reader, early, late or elsewhere, ever has what was blocked. The model
is read on while a check takes its time; what comes meanwhile waits here, at most one response. What may be shown when
is decided in `held_text`. A check that fails lets nothing pass: its error ends the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.guardrail import GuardrailFunctionOutput, OutputGuardrailTripwireTriggered
from runstream.agent.items import ModelResponse
from runstream.agent.model import ModelBatch, ModelBatches
from runstream.agent.stream_guardrail import StreamGuardrail, StreamGuardrailResult
from runstream.errors import AgentsException, UserError
from runstream.events.event import GuardrailChecked, GuardrailOutcome
from runstream.run.active import ActiveRun
from runstream.run.held_text import Check, HeldText, TextWatch
from runstream.run.replaced_text import ShownResponse
from runstream.run.run_log import broken_event

__all__ = ["HoldBack", "check_response"]

_UNCHECKED_EVENTS = 32


class HoldBack:
    """The batches of a model call, held back until the guardrails have let them pass.

    Raises OutputGuardrailTripwireTriggered, once what had passed is handed on; with `on_trip="replace"` the message is
    ended with the replacement instead, and the response with it. What the stream itself raises comes after what it
    had brought.
    """

    def __init__(
        self, run: ActiveRun, agent: Agent[Any], guardrails: Sequence[StreamGuardrail[Any]], batches: ModelBatches
    ) -> None:
        self._run = run
        self._agent = agent
        self._batches = batches
        self._attempt = run.attempt
        self._results = [_result_of(run, agent, guardrail) for guardrail in guardrails]
        self._parts = [_Part(result) for result in self._results]
        self._is_told = False
        self._held = HeldText([TextWatch(each.guardrail.window, each.info) for each in self._results])
        self._shown = ShownResponse() if any(each.on_trip == "replace" for each in guardrails) else None
        self._reading: asyncio.Task[None] | None = None
        self._checks: dict[int, asyncio.Task[None]] = {}
        self._due_at: float | None = None
        self._news = asyncio.Event()
        self._is_over = False
        self._failure: BaseException | None = None
        self._usage: Any = None
        """What the model says that the response has used, once it is complete."""
        self._tripped: StreamGuardrailResult | None = None
        self._broken: BaseException | None = None
        _refuse_replacement_of_json(agent, guardrails)

    def __aiter__(self) -> HoldBack:
        return self

    async def __anext__(self) -> ModelBatch:
        if self._reading is None:
            self._reading = self._run.scope.spawn(self._read(), "a guarded stream")
        while True:
            self._news.clear()
            if self._attempt != self._run.attempt:
                self._restart()
            self._begin_checks()
            batch = self._held.release()
            if batch is not None:
                if self._shown is not None:
                    self._shown.note(batch)
                return batch
            if self._broken is not None:
                self._tell()
                raise self._broken
            if self._tripped is not None:
                return await self._trip(self._tripped)
            if self._is_over and self._held.is_empty:
                self._tell()
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            await self._wait()

    async def aclose(self) -> None:
        """Stop reading the model, and what checks."""
        tasks = [*self._checks.values(), *([] if self._reading is None else [self._reading])]
        await self._run.scope.stop(tasks)
        if self._reading is None:
            await self._batches.aclose()

    async def _wait(self) -> None:
        """Until something has come, a check has ended, or one is due."""
        if self._due_at is None:
            await self._news.wait()
            return
        try:
            async with self._run.clock.timeout(max(self._due_at - self._run.clock.now(), 0.0)):
                await self._news.wait()
        except TimeoutError:
            pass  # a check is due

    async def _read(self) -> None:
        unchecked = 0
        try:
            async with aclosing(cast("Any", self._batches)):
                async for batch in self._batches:
                    if self._attempt != self._run.attempt:
                        self._restart()
                    self._take(batch)
                    self._news.set()
                    unchecked += len(batch.events)
                    if unchecked >= _UNCHECKED_EVENTS:
                        # What is there already is handed over without waiting: those who check get their turn here.
                        unchecked = 0
                        await self._run.clock.sleep(0)
        except Exception as error:
            self._failure = error
        self._held.complete()
        self._is_over = True
        self._news.set()

    def _take(self, batch: ModelBatch) -> None:
        now = self._run.clock.now()
        for event, frame in zip(batch.events, batch.frames, strict=True):
            if event.type == "response.completed":
                self._usage = getattr(event.response, "usage", None)
            try:
                self._held.take(event, frame, now)
            except (AttributeError, TypeError, ValueError) as error:
                raise broken_event(event, error, frame) from error

    def _restart(self) -> None:
        """The call is made again: what was held back of the attempt before is void."""
        self._attempt = self._run.attempt
        self._held.restart()
        for task in self._checks.values():
            task.cancel()
        self._checks = {}
        if self._shown is not None:
            self._shown = ShownResponse()

    def _begin_checks(self) -> None:
        self._due_at = None
        for index, watch in enumerate(self._held.watches):
            while index not in self._checks and self._tripped is None and self._broken is None:
                check = self._held.next_check(watch, self._run.clock.now())
                if not isinstance(check, Check):
                    if check is not None and (self._due_at is None or check < self._due_at):
                        self._due_at = check
                    break
                result = self._results[index]
                result.info.checks += 1
                self._parts[index].begin(self._run.now())
                try:
                    asked = result.guardrail.ask(self._run.context, self._agent, check.given)
                    if isinstance(asked, Awaitable):
                        work = self._finish(index, check, asked)
                        self._checks[index] = self._run.scope.spawn(work, f"guardrail {result.guardrail.get_name()}")
                    else:
                        self._decide(index, check, asked)
                except Exception as error:
                    self._break(index, error)

    def _break(self, index: int, error: BaseException) -> None:
        """A check has failed."""
        self._broken = self._broken or error
        self._parts[index].outcome = "failed"
        self._parts[index].ended_at = self._run.now()

    async def _finish(self, index: int, check: Check, asked: Awaitable[GuardrailFunctionOutput]) -> None:
        task = asyncio.current_task()
        try:
            output = await asked
            if self._checks.get(index) is task:
                self._decide(index, check, output)
        except Exception as error:
            self._break(index, error)
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            name = self._results[index].guardrail.get_name()
            broken = AgentsException(f"The guardrail {name!r} was cancelled by something that it waited for.")
            broken.__cause__ = error
            self._break(index, broken)
        if self._checks.get(index) is task:
            del self._checks[index]
        self._news.set()

    def _decide(self, index: int, check: Check, output: GuardrailFunctionOutput) -> None:
        result, part = self._results[index], self._parts[index]
        result.output = result.guardrail.checked(output)
        part.ended_at = self._run.now()
        if output.tripwire_triggered:
            part.outcome = "tripped" if result.guardrail.on_trip == "stop" else "rejected"
            result.agent_output = self._held.shown_of(check)
            self._tripped = self._tripped or result
        else:
            self._held.let_pass(self._held.watches[index], check, self._run.clock.now())

    async def _trip(self, result: StreamGuardrailResult) -> ModelBatch:
        """Drop what is held back, and close the model's stream. Returns what the message ends with instead."""
        self._tell()
        await self.aclose()
        self._held.restart()
        self._is_over, self._failure, self._tripped = True, None, None
        if result.guardrail.on_trip == "stop":
            tripped = OutputGuardrailTripwireTriggered(result)
            tripped.usage = self._usage
            raise tripped
        assert self._shown is not None
        return self._shown.end_with(result.guardrail.replacement, self._usage)

    def _tell(self) -> None:
        """Write into the log what has been decided about this call, once, and after the text that was let pass."""
        told, self._is_told = self._is_told, True
        for part in () if told else self._parts:
            if part.began_at is not None:
                self._run.emit_guardrail(part.event(part.began_at), self._agent)


class _Part:
    """What one model call has of a guardrail's result in the run."""

    def __init__(self, result: StreamGuardrailResult) -> None:
        self._result = result
        self._checks, self._characters = result.info.checks, result.info.characters
        self._deltas = result.info.deltas
        self.outcome: GuardrailOutcome = "passed"
        self.began_at: float | None = None
        self.ended_at = 0.0

    def begin(self, now: float) -> None:
        """It is asked."""
        if self.began_at is None:
            self.began_at = self.ended_at = now

    def event(self, began_at: float) -> GuardrailChecked:
        """For the log. What the guardrail says of its outcomes stays out of it: it may quote what is blocked later."""
        info, guardrail = self._result.info, self._result.guardrail
        delays_s = sorted(info.delays_s[self._deltas :])
        return GuardrailChecked(
            guardrail.get_name(),
            "stream",
            self.outcome,
            began_at,
            max(self.ended_at - began_at, 0.0),
            delays_s[(len(delays_s) - 1) // 2] if delays_s else 0.0,
            delays_s[-1] if delays_s else 0.0,
            info.checks - self._checks,
            info.characters - self._characters,
            message=guardrail.replacement if self.outcome == "rejected" else None,
        )


def _result_of(run: ActiveRun, agent: Agent[Any], guardrail: StreamGuardrail[Any]) -> StreamGuardrailResult:
    """The guardrail's result in this run, which counts on over its model calls."""
    for known in run.guardrails.stream:
        if known.guardrail is guardrail and known.agent is agent:
            return known
    result = StreamGuardrailResult(guardrail, None, agent, GuardrailFunctionOutput(None, False))
    run.guardrails.stream.append(result)
    return result


def _refuse_replacement_of_json(agent: Agent[Any], guardrails: Sequence[StreamGuardrail[Any]]) -> None:
    for guardrail in guardrails:
        if guardrail.on_trip == "replace" and agent.output_type not in (None, str):
            raise UserError(
                f"Agent {agent.name!r}: the guardrail {guardrail.get_name()!r} has on_trip='replace', which would "
                "leave half an object of the agent's output_type; use on_trip='stop'"
            )


async def check_response(
    run: ActiveRun, agent: Agent[Any], guardrails: Sequence[StreamGuardrail[Any]], response: ModelResponse
) -> ModelResponse:
    """A response that was not streamed, as it may be shown. Raises OutputGuardrailTripwireTriggered."""
    whole = response.to_completed_event()
    last: Any = whole
    async with aclosing(HoldBack(run, agent, guardrails, _one_batch(whole))) as held:
        async for batch in held:
            last = batch.events[-1]
    if last is whole:
        return response
    replaced = ModelResponse.from_response(last.response)
    replaced.usage, replaced.response_id = response.usage, response.response_id
    return replaced


async def _one_batch(event: Any) -> AsyncGenerator[ModelBatch, None]:
    yield ModelBatch([event], [None])
