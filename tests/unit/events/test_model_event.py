"""events/model_event: decoded frames become the official typed events, quickly, and nothing is lost or invented."""

from __future__ import annotations

import copy
import json
import pickle
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
import pytest
from openai import BaseModel
from openai.types.responses import (
    ResponseErrorEvent,
    ResponseShellCallOutputContentDeltaEvent,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
)

from runstream.events.model_event import DELTA_CLASSES, UnknownModelEvent, build_event


def event_classes() -> list[type[BaseModel]]:
    return list(get_args(get_args(ResponseStreamEvent)[0]))


def example_of(annotation: Any, depth: int = 0) -> Any:
    """A value of the type, as it stands in JSON: everything that may be there is there, down to some depth."""
    while get_origin(annotation) is Annotated or hasattr(annotation, "__value__"):
        annotation = annotation.__value__ if hasattr(annotation, "__value__") else get_args(annotation)[0]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        if type(None) in arguments and depth > 6:
            return None
        return example_of(arguments[0], depth)
    if origin is list:
        return [example_of(arguments[0], depth + 1)]
    if origin is dict:
        return {"key": example_of(arguments[1], depth + 1)}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            field.alias or name: example_of(field.annotation, depth + 1)
            for name, field in annotation.model_fields.items()
        }
    examples: dict[Any, Any] = {str: "Grüße 🙂", int: 3, float: 0.5, bool: True, object: "any", Any: "any"}
    return examples[annotation]


def text_delta(**more: Any) -> dict[str, Any]:
    return {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hi",
        "logprobs": [],
        **more,
    }


LOGPROB = {"token": "Hi", "logprob": -0.1, "top_logprobs": [{"token": "Ho", "logprob": -2.5}]}


def same(built: Any, official: Any) -> None:
    """Nobody can tell the two apart."""
    assert type(built) is type(official)
    assert built == official
    assert built.model_fields_set == official.model_fields_set
    assert built.model_extra == official.model_extra
    assert built.to_dict() == official.to_dict()
    assert json.loads(built.to_json()) == json.loads(official.to_json())


@pytest.mark.parametrize("event_class", event_classes(), ids=lambda event_class: event_class.__name__)
def test_every_event_of_the_official_union_is_built(event_class: type[BaseModel]) -> None:
    """The fields of an event, as they stand in JSON, give the validated official object, nested objects typed."""
    fields = example_of(event_class)
    official = event_class.model_validate(copy.deepcopy(fields))
    fields = json.loads(official.model_dump_json(by_alias=True))
    fields.pop("obfuscation", None)
    official = event_class.model_validate(copy.deepcopy(fields))
    built: Any = build_event(copy.deepcopy(fields))
    same(built, official)
    assert build_event(built.to_dict()) == built


def test_all_types_of_the_union_are_known() -> None:
    """The table of types is the union's: none is missing, and the deltas of text are among the frequent ones."""
    names = [name for each in event_classes() for name in get_args(each.model_fields["type"].annotation)]
    assert len(names) > 50
    assert not any(isinstance(build_event({"type": name, "response": {}}), UnknownModelEvent) for name in names)
    assert ResponseTextDeltaEvent in DELTA_CLASSES


@pytest.mark.parametrize("event_class", sorted(DELTA_CLASSES, key=lambda each: each.__name__))
def test_deltas_are_what_the_client_would_construct(event_class: type[BaseModel]) -> None:
    """Each delta, with any one field left out or one more, equals what the official constructor makes."""
    whole = example_of(event_class)
    whole.pop("obfuscation", None)
    if "logprobs" in whole:
        whole["logprobs"] = []
    variants = [whole, {**whole, "later": {"x": 1}}]
    variants += [{key: value for key, value in whole.items() if key != name} for name in whole if name != "type"]
    for fields in variants:
        expected = dict(fields)
        if "logprobs" in event_class.model_fields:
            expected.setdefault("logprobs", [])
        same(build_event(copy.deepcopy(fields)), event_class.construct(**copy.deepcopy(expected)))


def test_obfuscation_is_dropped() -> None:
    """Padding is no part of the event: with it or without, the event is the same."""
    same(build_event(text_delta(obfuscation="xQ9f")), build_event(text_delta()))


def test_logprobs_are_kept_and_typed() -> None:
    """Probabilities of tokens are official objects."""
    event: Any = build_event(text_delta(logprobs=[LOGPROB], obfuscation="x"))
    same(event, ResponseTextDeltaEvent.model_validate(text_delta(logprobs=[LOGPROB])))
    assert event.logprobs[0].top_logprobs[0].token == "Ho"


@pytest.mark.parametrize(
    "fields", [text_delta(logprobs=None), {k: v for k, v in text_delta().items() if k != "logprobs"}]
)
def test_logprobs_that_are_missing_are_an_empty_list(fields: dict[str, Any]) -> None:
    """The official type promises a list; servers that send none, or null, still give one, each event its own."""
    first: Any = build_event(dict(fields))
    second: Any = build_event(dict(fields))
    same(first, ResponseTextDeltaEvent.model_validate(text_delta()))
    assert first.logprobs is not second.logprobs


def test_fields_that_are_missing_are_none() -> None:
    """A field that a server leaves out is None, as the official client has it, and is not written out."""
    event: Any = build_event({"type": "response.output_text.delta", "delta": "Hi"})
    assert (event.delta, event.item_id, event.sequence_number) == ("Hi", None, None)
    assert event.to_dict() == {"type": "response.output_text.delta", "delta": "Hi", "logprobs": []}


def test_a_delta_that_is_an_object_is_typed() -> None:
    """Not every delta is text: the shell's output keeps its own type."""
    fields = {
        "type": "response.shell_call_output_content.delta",
        "delta": {"stdout": "x"},
        "item_id": "i",
        "output_index": 0,
        "command_index": 0,
        "sequence_number": 1,
    }
    event: Any = build_event(fields)
    assert isinstance(event, ResponseShellCallOutputContentDeltaEvent)
    assert event.delta.stdout == "x"


def test_unknown_types_keep_their_fields() -> None:
    """An event of a type that nobody knows has its fields as attributes and is written out as it came."""
    fields = {"type": "server.progress", "percent": 50, "detail": {"steps": [1, None]}}
    event: Any = build_event(copy.deepcopy(fields))
    assert isinstance(event, UnknownModelEvent)
    assert (event.type, event.percent, event.detail) == ("server.progress", 50, {"steps": [1, None]})
    assert event.to_dict() == fields


def test_unknown_items_in_known_events_keep_their_fields() -> None:
    """An output item of a type that the client does not know passes through with all that it has."""
    item = {"type": "hologram", "id": "h_1", "beams": [{"angle": 1}]}
    fields = {"type": "response.output_item.done", "item": item, "output_index": 0, "sequence_number": 1}
    event: Any = build_event(copy.deepcopy(fields))
    assert event.item.type == "hologram"
    assert event.to_dict(warnings=False) == fields


@pytest.mark.parametrize("fields", [{}, {"delta": "x"}, {"type": None}, {"type": 3}, {"type": ["x"]}], ids=str)
def test_an_event_without_a_type_is_no_event(fields: dict[str, Any]) -> None:
    """Without a type there is nothing to build."""
    with pytest.raises((KeyError, TypeError)):
        build_event(fields)


@pytest.mark.parametrize("response", [{}, {"output": None}, {"output": []}])
@pytest.mark.parametrize("name", ["created", "in_progress", "completed", "incomplete", "failed"])
def test_an_output_that_is_missing_is_an_empty_list(name: str, response: dict[str, Any]) -> None:
    """The official type promises a list of items; a server that sends none, or null, still gives one."""
    event: Any = build_event({"type": f"response.{name}", "response": dict(response)})
    assert event.response.output == []


@pytest.mark.parametrize("fields", [{}, {"response": None}, {"response": "x"}])
@pytest.mark.parametrize("name", ["completed", "incomplete", "failed"])
def test_the_end_of_a_response_has_the_response(name: str, fields: dict[str, Any]) -> None:
    """A terminal event without its response is none: a stream must not end well with nothing."""
    with pytest.raises((KeyError, TypeError), match="response"):
        build_event({"type": f"response.{name}", **fields})


def test_errors_say_the_same_nested_or_not() -> None:
    """The API nests what its `error` event says; the message and the code are where the official type has them."""
    said = {"code": "rate_limit_exceeded", "message": "Slow down.", "param": None}
    flat: Any = build_event({"type": "error", "sequence_number": 2, **said})
    nested: Any = build_event({"type": "error", "sequence_number": 2, "error": {"type": "tokens", **said}})
    for event in (flat, nested):
        assert isinstance(event, ResponseErrorEvent)
        assert (event.code, event.message, event.param) == ("rate_limit_exceeded", "Slow down.", None)
    same(flat, ResponseErrorEvent.model_validate({"type": "error", "sequence_number": 2, **said}))
    assert nested.error["type"] == "tokens"


@pytest.mark.parametrize("error", ["text", None, [], {}])
def test_errors_of_odd_forms_are_events(error: Any) -> None:
    """An `error` event of another form is still one, with the fields that came."""
    event: Any = build_event({"type": "error", "error": error})
    assert (event.message, event.error) == (None, error)


def test_events_behave_like_any_official_object() -> None:
    """A built delta can be changed, copied, pickled and dumped, and no other event notices."""
    event: Any = build_event(text_delta())
    other: Any = build_event(text_delta())
    event.delta = "changed"
    event.note = "mine"
    assert (event.delta, event.note, other.delta) == ("changed", "mine", "Hi")
    assert not hasattr(other, "note")
    assert event.model_copy(update={"delta": "copy"}).delta == "copy"
    assert copy.deepcopy(event) == event
    assert pickle.loads(pickle.dumps(event)) == event
    assert event.model_dump() == {**text_delta(delta="changed"), "note": "mine"}
    assert other.model_fields_set == set(text_delta())
    assert isinstance(other, pydantic.BaseModel)
