"""Going on with what a stream had shown when it broke: the partial text becomes the answer, marked incomplete.

Kept are complete messages, and the text of the one that was under way; the last of them is marked incomplete. Not kept
is a response that had begun to call a tool: half of its intention is worse than an error. Nor one that must have a
structure: half a JSON has none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

from runstream.agent.model import ModelBatch, ModelBatches, ModelRequest, open_batches
from runstream.agent.raw_item import read_field
from runstream.agent.response import ModelResponse
from runstream.errors import ModelStreamTruncated
from runstream.flow.failures import FAILURE_EVENTS, FAULTS, failure_kind, failure_of
from runstream.flow.wrapped import WrappedModel, ask

__all__ = ["PartialModel", "keep_partial"]

_TEXT_DELTAS = frozenset(("response.output_text.delta", "response.refusal.delta"))


def keep_partial(batches: ModelBatches) -> ModelBatches:
    """The batches; where they break off with a fault after some text, a `response.completed` event with what had come
    (its response's status and its open message's are `incomplete`) is the last one."""
    return _KeptBatches(batches)


class _KeptBatches:
    __slots__ = ("_batches", "_has_calls", "_ids", "_is_over", "_messages", "_model", "_texts")

    def __init__(self, batches: ModelBatches) -> None:
        self._batches = batches
        self._messages: dict[int, Any] = {}
        self._texts: dict[int, dict[tuple[int, str], list[str]]] = {}
        self._ids: dict[int, str] = {}
        self._has_calls = False
        self._is_over = False
        self._model = ""

    def __aiter__(self) -> _KeptBatches:
        return self

    async def __anext__(self) -> ModelBatch:
        if self._is_over:
            # After its end a stream is only drained.
            return await self._batches.__anext__()
        failure: Exception | None
        batch: ModelBatch | None = None
        try:
            batch = await self._batches.__anext__()
        except StopAsyncIteration:
            failure = ModelStreamTruncated("The model's stream ended without the end of its response.")
        except Exception as error:
            failure = error
        else:
            failure = self._read(batch)
            if failure is None:
                return batch
        end = self._end() if failure_kind(failure) in FAULTS else None
        if end is not None:
            self._is_over = True
            await self._batches.aclose()
            self._batches = _nothing()
            return _ended(batch, end)
        if batch is None:
            raise failure
        return batch

    async def aclose(self) -> None:
        await self._batches.aclose()

    def _read(self, batch: ModelBatch) -> Exception | None:
        for event in cast("list[Any]", batch.events):
            kind = event.type
            if kind in _TEXT_DELTAS:
                index = event.output_index or 0  # some servers leave out what is 0
                part = (event.content_index or 0, kind)
                self._texts.setdefault(index, {}).setdefault(part, []).append(event.delta or "")
                self._ids[index] = event.item_id or f"msg_{index}"
            elif kind == "response.output_item.added" or kind == "response.output_item.done":
                item_type = str(read_field(event.item, "type"))
                self._has_calls |= item_type.endswith(("_call", "_request"))
                if item_type == "message" and kind == "response.output_item.done":
                    self._messages[event.output_index or 0] = event.item
            elif kind == "response.created":
                self._model = read_field(event.response, "model") or ""
            elif kind == "response.completed" or kind == "response.incomplete":
                self._is_over = True
            elif kind in FAILURE_EVENTS:
                try:
                    return failure_of(event)
                except (AttributeError, TypeError, ValueError):
                    return None  # whoever writes it down will say so
        return None

    def _end(self) -> Any | None:
        """The event that ends the response as it stands; None where there is nothing to keep."""
        from openai.types.responses import Response, ResponseCompletedEvent, ResponseOutputMessage

        messages = dict(self._messages)
        for index, parts in self._texts.items():
            content = [_part_of(kind, "".join(pieces)) for (_, kind), pieces in sorted(parts.items())]
            if index not in messages and any(part.get("text") or part.get("refusal") for part in content):
                messages[index] = ResponseOutputMessage.model_validate(
                    {
                        "id": self._ids[index],
                        "type": "message",
                        "role": "assistant",
                        "status": "incomplete",
                        "content": content,
                    }
                )
        if self._has_calls or not messages:
            return None
        response = Response.model_construct(
            id="",  # nobody may refer to it: the provider has no such whole response
            created_at=0.0,
            model=self._model,
            object="response",
            output=[],
            parallel_tool_calls=False,
            status="incomplete",
            tool_choice="auto",
            tools=[],
            usage=None,
        )
        *kept, last = [messages[index] for index in sorted(messages)]
        # Complete or not, it is not all that was to come.
        response.output = [*kept, _incomplete(last)]
        return ResponseCompletedEvent.model_construct(response=response, sequence_number=0, type="response.completed")


def _incomplete(message: Any) -> Any:
    if isinstance(message, dict):
        return {**cast("dict[str, Any]", message), "status": "incomplete"}
    return message.model_copy(update={"status": "incomplete"})


def _ended(batch: ModelBatch | None, end: Any) -> ModelBatch:
    """What the batch had before its failure, and the end."""
    events: list[Any] = [] if batch is None else list(batch.events)
    count = next((index for index, event in enumerate(events) if event.type in FAILURE_EVENTS), len(events))
    frames: list[bytes | None] = [] if batch is None else batch.frames[:count]
    return ModelBatch([*events[:count], end], [*frames, None])


def _part_of(kind: str, text: str) -> dict[str, Any]:
    if kind == "response.refusal.delta":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": []}


async def _nothing() -> AsyncGenerator[ModelBatch, None]:
    return
    yield


class PartialModel(WrappedModel):
    """A model whose streams end with what they had shown, where they break off; unstreamed calls are as they were."""

    async def respond(self, request: ModelRequest) -> ModelResponse:
        return await ask(self.inner, request)

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        batches = open_batches(self.inner, request)
        schema = request.output_schema
        return batches if schema is not None and not schema.is_plain_text() else keep_partial(batches)
