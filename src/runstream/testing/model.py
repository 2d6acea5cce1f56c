"""A model that says what a script tells it to, in process and without a network.

Owns `ScriptedModel`. Streamed and unstreamed calls play the same timeline; all waiting goes through the clock that is
passed in, so that with a `FakeClock` slow models cost no time.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

from runstream.agent.model import Model, ModelTracing
from runstream.agent.raw_item import read_field, to_plain
from runstream.agent.response import ModelResponse
from runstream.agent.usage import Usage
from runstream.clock import Clock, system_clock
from runstream.errors import ModelStreamBroken, ModelStreamFailed, ModelStreamTruncated
from runstream.testing.fault_replies import error_headers, error_text
from runstream.testing.faults import Fault, Raise
from runstream.testing.model_step import ModelCall, ModelStep, coerce_model_step, coerce_model_steps
from runstream.testing.reply import Reply, StreamEvent, digest_of
from runstream.testing.responses_events import error_event, failed_event, response_events
from runstream.testing.script import Playback, Script, Step, StepLike
from runstream.testing.steps import Tokens, Turn
from runstream.testing.timeline import Wait, timeline

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from runstream.agent.response import TResponseInputItem, TResponseStreamEvent

__all__ = ["ScriptedModel"]

# The official client's errors by their status.
_ERRORS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


class ScriptedModel(Model):
    """A model that plays a script.

    `steps` is a `Script` or a list of steps: what a script may hold (strings, parts, turns, faults, functions of the
    `ModelCall`), exceptions, and the SDK's forms (`ModelStep` or its dict, `ModelResponse`, lists of output items).

    As a context manager it fails, if nothing else did, when steps are left over. A call beyond the script raises
    `UnexpectedModelCall`. Faults raise what a real model's client raises. `emit_traces` is accepted for the SDK's sake:
    there are no traces.
    """

    def __init__(
        self,
        steps: Script | StepLike | Iterable[Any] = (),
        *,
        default: Any = None,
        repeat: bool = False,
        emit_traces: bool = False,
        default_usage: Usage | None = None,
        clock: Clock = system_clock,
        name: str = "scripted",
    ) -> None:
        script = steps if isinstance(steps, Script) else None
        if script is not None:
            default, repeat, steps = script.default, script.repeat, cast("tuple[Step, ...]", script.steps)
        elif isinstance(steps, str | Mapping) or not isinstance(steps, Iterable):
            steps = [steps]
        self._playback: Playback[Turn | ModelStep] = Playback(
            coerce_model_steps(cast("Iterable[object]", steps)),
            coerce_model_step,
            repeat=repeat,
            default=None if default is None else coerce_model_step(default),
            fault=script.fault if script else None,
            fault_times=script.fault_times if script else None,
        )
        self._default_usage = default_usage
        self._clock = clock
        self._name = name
        self._calls: list[ModelCall] = []
        self._advice: list[tuple[Exception, Any]] = []
        self._open_streams = 0
        self._abandoned_streams = 0

    @property
    def calls(self) -> tuple[ModelCall, ...]:
        """The calls so far, in order."""
        return tuple(self._calls)

    @property
    def first_call(self) -> ModelCall | None:
        return self._calls[0] if self._calls else None

    @property
    def last_call(self) -> ModelCall | None:
        return self._calls[-1] if self._calls else None

    @property
    def remaining_steps(self) -> int:
        """How many steps have not been played."""
        return len(self._playback.left_over)

    @property
    def open_streams(self) -> int:
        """Streams that have begun and not ended."""
        return self._open_streams

    @property
    def abandoned_streams(self) -> int:
        """Streams that were closed or cancelled before their end."""
        return self._abandoned_streams

    def enqueue(self, step: Any) -> None:
        """Append one step. Raises InvalidModelStep for what is none."""
        self._playback.add(step)

    def extend(self, steps: Iterable[Any]) -> None:
        """Append several steps, all or none."""
        for step in coerce_model_steps(steps):
            self._playback.add(step)

    def set_default_usage(self, usage: Usage | None) -> None:
        """The usage of later steps that give none."""
        self._default_usage = usage

    def assert_complete(self) -> None:
        """Raises UnconsumedModelSteps if steps are left over."""
        self._playback.assert_complete()

    def get_retry_advice(self, request: Any) -> Any:
        return next((advice for error, advice in self._advice if error is request.error), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An error of the block itself explains more than the steps that it left over.
        if error is None:
            self.assert_complete()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: Any,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: Any = None,
    ) -> ModelResponse:
        call = self._record(
            system_instructions,
            input,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id,
            conversation_id,
            prompt,
            streamed=False,
        )
        step = await self._playback.answer(call)
        if isinstance(step, ModelStep) and step.error is None:
            return self._exact_response(step, call)
        events = [event async for event in self._events(step, call)]
        last: Any = events[-1] if events else None
        kind = last.type if events else ""
        if kind == "response.completed":
            return ModelResponse.from_response(last.response)
        if kind == "response.incomplete":
            reason = last.response.incomplete_details.reason
            raise ModelStreamFailed(
                f"The model's response is incomplete ({reason}).", event_type=kind, error_code=reason
            )
        if kind in ("error", "response.failed"):
            error = last if kind == "error" else last.response.error
            raise ModelStreamFailed(error.message, event_type=kind, error_code=error.code)
        raise ModelStreamTruncated("The model's answer ended before it was complete (scripted fault).")

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: Any,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: Any = None,
    ) -> AsyncGenerator[TResponseStreamEvent, None]:
        call = self._record(
            system_instructions,
            input,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id,
            conversation_id,
            prompt,
            streamed=True,
        )
        self._open_streams += 1
        is_over = False
        try:
            step = await self._playback.answer(call)
            async with _closing(self._events(step, call)) as events:
                async for event in events:
                    # Who has the last event may well not ask for more.
                    is_over = event.type in _TERMINAL
                    yield event
            is_over = True
        except Exception:
            is_over = True
            raise
        finally:
            self._open_streams -= 1
            self._abandoned_streams += not is_over

    def _record(
        self, instructions: str | None, input: Any, settings: Any, *arguments: Any, streamed: bool
    ) -> ModelCall:
        tools, output_schema, handoffs, tracing, previous_response_id, conversation_id, prompt = arguments
        call = ModelCall(
            system_instructions=instructions,
            input=copy.deepcopy(input),
            model_settings=copy.deepcopy(settings),
            tools=list(tools),
            output_schema=output_schema,
            handoffs=list(handoffs),
            tracing=tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
            streamed=streamed,
            number=len(self._calls) + 1,
        )
        self._calls.append(call)
        return call

    async def _events(self, step: Turn | ModelStep, call: ModelCall) -> AsyncGenerator[TResponseStreamEvent, None]:
        if isinstance(step, ModelStep) and step.stream_events is not None:
            exact = step.stream_events
            if not callable(exact):
                for event in exact:
                    yield event
                return
            async with _closing(exact(call)) as stream:
                async for event in stream:
                    yield event
            return
        # Brings the openai package, which is slow to import.
        from runstream.models.decode import build_event

        turn = step if isinstance(step, Turn) else step.to_turn()
        reply = self._reply(turn, call)
        async with _closing(self._play(reply, is_stream=call.streamed)) as events:
            async for data in events:
                if data["type"] == "response.completed" and isinstance(step, ModelStep):
                    # The very items and usage of the step, not what became of them in JSON.
                    completed = self._exact_response(step, call).to_completed_event()
                    completed.sequence_number = data["sequence_number"]
                    yield completed
                else:
                    yield build_event(data)

    async def _play(self, reply: Reply, *, is_stream: bool) -> AsyncGenerator[dict[str, Any], None]:
        sequence_number = 0
        for moment in timeline(reply.turn, response_events(reply)):
            if isinstance(moment, Wait):
                await self._clock.sleep(moment.delay_s)
            elif isinstance(moment, StreamEvent):
                sequence_number += 1
                yield moment.data
            elif isinstance(moment.fault, Raise):
                self._remember_advice(moment.fault)
                raise moment.fault.error
            else:
                fault = moment.fault
                if fault.kind == "error_event":
                    yield error_event(fault, sequence_number)
                elif fault.kind == "failed":
                    yield failed_event(reply, fault, sequence_number)
                elif fault.kind in ("silence", "slow_first_byte"):
                    await self._stay_silent(fault)
                elif fault.kind != "no_end":
                    _raise_fault(fault, is_stream=is_stream and fault.place != "start")

    async def _stay_silent(self, fault: Fault) -> None:
        if fault.kind == "slow_first_byte":
            await self._clock.sleep(30.0 if fault.for_s is None else fault.for_s)
        elif fault.for_s is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self._clock.sleep(fault.for_s)

    def _reply(self, turn: Turn, call: ModelCall) -> Reply:
        if turn.usage == "auto" and self._default_usage is not None:
            default = self._default_usage
            turn = replace(
                turn,
                usage=Tokens(
                    default.input_tokens,
                    default.output_tokens,
                    default.input_tokens_details.cached_tokens,
                    default.output_tokens_details.reasoning_tokens,
                ),
            )
        asked = json.dumps([call.system_instructions, to_plain(call.input)], default=repr).encode()
        return Reply(
            turn,
            call.number,
            digest_of(asked),
            self._name,
            int(self._clock.now()),
            input_tokens=max(len(asked) // 4, 1),
        )

    def _exact_response(self, step: ModelStep, call: ModelCall) -> ModelResponse:
        usage = step.usage
        if usage == Usage():
            usage = Usage(requests=1) if self._default_usage is None else self._default_usage
        keeps_raw_usage = read_field(call.model_settings, "preserve_raw_usage") is True
        return ModelResponse(
            output=list(step.output),
            usage=copy.deepcopy(usage),
            response_id=step.response_id,
            request_id=step.request_id,
            raw_usage=copy.deepcopy(step.raw_usage) if keeps_raw_usage else None,
        )

    def _remember_advice(self, step: Raise) -> None:
        self._advice = [entry for entry in self._advice if entry[0] is not step.error]
        if step.advice is not None:
            self._advice.append((step.error, step.advice))


class _closing:
    """`contextlib.aclosing` that also takes iterators without `aclose`, which users' stream functions may return."""

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self._stream = stream

    async def __aenter__(self) -> AsyncIterator[Any]:
        return self._stream

    async def __aexit__(self, *error: object) -> None:
        aclose = getattr(self._stream, "aclose", None)
        if aclose is not None:
            await aclose()


def _raise_fault(fault: Fault, *, is_stream: bool) -> NoReturn:
    """Raise what a real model's client raises. `is_stream`: whether the answer had begun to arrive."""
    if fault.kind == "broken_frame":
        raise ModelStreamBroken("The model sent a frame that is not an event (scripted fault).")
    if fault.kind != "http_error" and is_stream:
        raise ModelStreamTruncated("The connection to the model broke before the end of its stream (scripted fault).")
    import httpx2
    import openai

    request = httpx2.Request("POST", "http://scripted.invalid/v1/responses")
    if fault.kind != "http_error":
        raise openai.APIConnectionError(request=request)
    response = httpx2.Response(fault.status, headers=error_headers(fault), text=error_text(fault), request=request)
    name = _ERRORS.get(fault.status, "InternalServerError" if fault.status >= 500 else "APIStatusError")
    body = {"message": fault.text, "code": fault.shown_code}
    raise getattr(openai, name)(f"Error code: {fault.status} - {fault.text}", response=response, body=body)
