"""The SDK's way to write the steps of a scripted model, and the record of a call.

Owns `ModelStep` (a step given as finished output items or as exact events), `ModelCall`, and the two functions that
make output items. Must not know the script's state.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast, get_args

from runstream.agent.raw_item import read_field
from runstream.agent.response import ModelResponse
from runstream.agent.usage import Usage
from runstream.testing.faults import Raise
from runstream.testing.request import ScriptRequest
from runstream.testing.script import Chooser, coerce_step
from runstream.testing.script_errors import InvalidModelStep, located
from runstream.testing.steps import Item, Part, Turn

if TYPE_CHECKING:
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage
    from openai.types.responses.response_prompt_param import ResponsePromptParam

    from runstream.agent.handoff import Handoff
    from runstream.agent.model import ModelTracing
    from runstream.agent.output import AgentOutputSchemaBase
    from runstream.agent.response import TResponseOutputItem, TResponseStreamEvent
    from runstream.agent.settings import ModelSettings
    from runstream.agent.tool import Tool

__all__ = [
    "ModelCall",
    "ModelStep",
    "ModelStepSpec",
    "assistant_message",
    "coerce_model_step",
    "coerce_model_steps",
    "function_call",
]


@dataclass(frozen=True)
class ModelCall(ScriptRequest):
    """One call of a scripted model, as it was made. The input and the settings are copies."""

    system_instructions: str | None
    input: Any
    model_settings: ModelSettings
    tools: list[Tool]
    output_schema: AgentOutputSchemaBase | None
    handoffs: list[Handoff[Any, Any]]
    tracing: ModelTracing
    previous_response_id: str | None
    conversation_id: str | None
    prompt: ResponsePromptParam | None
    streamed: bool
    number: int = 1
    """Counts the calls from 1."""

    @property
    def conversation(self) -> str | Sequence[Any]:
        return self.input

    @property
    def model_name(self) -> str | None:
        return None

    @property
    def instructions(self) -> str | None:
        return self.system_instructions

    @property
    def tool_names(self) -> tuple[str, ...]:
        names = [read_field(tool, "name") for tool in self.tools]
        names += [read_field(handoff, "tool_name") for handoff in self.handoffs]
        return tuple(name for name in names if isinstance(name, str))


ModelResponder: TypeAlias = Callable[[ModelCall], Any]
ModelStreamFactory: TypeAlias = "Callable[[ModelCall], AsyncIterator[TResponseStreamEvent]]"


@dataclass
class ModelStep:
    """One result of a model call, as finished output items.

    `error` is raised instead; `responder` is given the call and returns the step (or a coroutine of it);
    `stream_events` are the exact events of a streamed call, or a function of the call that yields them.
    """

    output: Sequence[TResponseOutputItem] = ()
    usage: Usage = field(default_factory=Usage)
    response_id: str | None = "resp-789"
    request_id: str | None = None
    raw_usage: dict[str, Any] | None = None
    error: Exception | None = None
    responder: ModelResponder | None = None
    stream_events: Sequence[TResponseStreamEvent] | ModelStreamFactory | None = None
    retry_advice: Any = None

    @classmethod
    def raise_error(cls, error: Exception, *, retry_advice: Any = None) -> ModelStep:
        """A step that raises `error`, with the advice that the model gives about it."""
        return cls(error=error, retry_advice=retry_advice)

    @classmethod
    def respond(cls, responder: ModelResponder) -> ModelStep:
        """A step that a function of the call chooses."""
        return cls(responder=responder)

    @classmethod
    def stream(
        cls,
        events: Sequence[TResponseStreamEvent] | ModelStreamFactory,
        *,
        output: Sequence[TResponseOutputItem] = (),
        usage: Usage | None = None,
        response_id: str | None = "resp-789",
    ) -> ModelStep:
        """A step with exactly these events; `output` is what an unstreamed call gets."""
        exact = events if callable(events) else tuple(events)
        return cls(output=output, usage=usage or Usage(), response_id=response_id, stream_events=exact)

    def check(self) -> None:
        """Raises InvalidModelStep for fields that do not fit, or do not fit together."""
        outcomes = [self.error, self.responder, self.stream_events]
        _check(_is_list(self.output), "output", "a list of output items", self.output)
        _check(isinstance(self.usage, Usage), "usage", "a Usage", self.usage)
        for name in ("response_id", "request_id"):
            value = getattr(self, name)
            _check(value is None or isinstance(value, str), name, "a string or None", value)
        _check(
            self.raw_usage is None or isinstance(self.raw_usage, dict), "raw_usage", "a dict or None", self.raw_usage
        )
        is_error = self.error is None or isinstance(self.error, Exception)
        _check(is_error, "error", "an exception", self.error, "invalid_error")
        is_responder = self.responder is None or callable(self.responder)
        _check(is_responder, "responder", "a function of the call", self.responder, "invalid_responder")
        is_stream = self.stream_events is None or callable(self.stream_events) or _is_list(self.stream_events)
        _check(is_stream, "stream_events", "a list or a function", self.stream_events, "invalid_stream_events")
        if sum(outcome is not None for outcome in outcomes) > 1:
            raise InvalidModelStep(
                "ModelStep: only one of error, responder and stream_events", reason="conflicting_outcomes"
            )
        if self.retry_advice is not None and self.error is None:
            raise InvalidModelStep("ModelStep.retry_advice: goes with an error only", reason="invalid_retry_advice")

    def to_turn(self) -> Turn:
        """The output as a turn, each text in one delta."""
        if self.error is not None:
            return Turn(fault=Raise(self.error, advice=self.retry_advice))
        return Turn([Item(item) for item in self.output], chunks="whole")


_FIELDS = frozenset(ModelStep.__dataclass_fields__)
# A mapping with one of these is a ModelStep; the others a turn may have too.
_OWN_FIELDS = _FIELDS - {"usage", "response_id"}


class ModelStepSpec(TypedDict, total=False):
    """`ModelStep` as a dict."""

    output: Sequence[TResponseOutputItem]
    usage: Usage
    response_id: str | None
    request_id: str | None
    raw_usage: dict[str, Any] | None
    error: Exception | None
    responder: ModelResponder | None
    stream_events: Sequence[TResponseStreamEvent] | ModelStreamFactory | None
    retry_advice: Any


def coerce_model_step(step: object) -> Turn | ModelStep | Chooser:
    """The step of whatever may stand in a scripted model's script. Raises InvalidModelStep for what may not."""
    if isinstance(step, ModelResponse):
        step = ModelStep(step.output, step.usage, step.response_id, step.request_id, step.raw_usage)
    elif isinstance(step, Exception):
        return Turn(fault=Raise(step))
    elif isinstance(step, Mapping) and _OWN_FIELDS & set(cast("Mapping[str, Any]", step)):
        fields = dict(cast("Mapping[str, Any]", step))
        unknown = sorted(set(fields) - _FIELDS)
        if unknown:
            raise InvalidModelStep(f"ModelStep has no field {unknown[0]!r}", reason="unsupported_field")
        step = ModelStep(**fields)
    elif isinstance(step, list | tuple):
        parts = cast("Sequence[Any]", step)
        if not any(isinstance(part, get_args(Part)) for part in parts):
            step = ModelStep(parts)
        else:
            return Turn([part if isinstance(part, get_args(Part)) else Item(part) for part in parts])
    if isinstance(step, ModelStep):
        step.check()
        return step.responder or replace(step)
    return coerce_step(cast("object", step))


def coerce_model_steps(steps: Iterable[object]) -> list[Turn | ModelStep | Chooser]:
    """The same for several; the error tells which one is wrong."""
    coerced: list[Turn | ModelStep | Chooser] = []
    for index, step in enumerate(steps):
        try:
            coerced.append(coerce_model_step(step))
        except InvalidModelStep as error:
            raise located(f"step {index + 1}", error, index) from error
    return coerced


def assistant_message(text: str, *, item_id: str = "scripted-message") -> ResponseOutputMessage:
    """One message of the model, complete."""
    from openai.types.responses import ResponseOutputMessage, ResponseOutputText

    content = ResponseOutputText(text=text, type="output_text", annotations=[], logprobs=[])
    return ResponseOutputMessage(id=item_id, type="message", role="assistant", status="completed", content=[content])


def function_call(
    name: str,
    arguments: str | Mapping[str, Any],
    *,
    call_id: str,
    item_id: str | None = None,
    namespace: str | None = None,
) -> ResponseFunctionToolCall:
    """One call of a function tool, complete. A string of arguments is taken as it is."""
    from openai.types.responses import ResponseFunctionToolCall

    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    optional: dict[str, Any] = {} if namespace is None else {"namespace": namespace}
    return ResponseFunctionToolCall(
        id=item_id or call_id, call_id=call_id, type="function_call", name=name, arguments=arguments, **optional
    )


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _check(is_valid: bool, name: str, expected: str, value: object, reason: str = "invalid_input") -> None:
    if not is_valid:
        raise InvalidModelStep(f"ModelStep.{name}: must be {expected}, not {value!r}", reason=reason)
