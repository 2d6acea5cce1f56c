"""Outputs of a type: each kind, streamed and not, strict and not."""

import dataclasses
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from runstream import Agent, AgentOutputSchema, ModelBehaviorError, Runner, UserError, function_tool
from runstream.agent.output import AgentOutputSchemaBase
from runstream.testing import HandoffTo, ScriptedModel, ToolCall, Turn, say


class Point(BaseModel):
    x: int
    y: int = 0


@dataclasses.dataclass
class Pair:
    left: str
    right: list[int]


class Record(TypedDict):
    name: str


KINDS: list[tuple[Any, str, Any]] = [
    (Point, '{"x":1,"y":2}', Point(x=1, y=2)),
    (Pair, '{"response":{"left":"a","right":[1,2]}}', Pair("a", [1, 2])),
    (Record, '{"name":"n"}', {"name": "n"}),
    (list[Point], '{"response":[{"x":1,"y":0}]}', [Point(x=1)]),
    (Point | str, '{"response":{"x":1,"y":0}}', Point(x=1)),
    (int, '{"response":5}', 5),
    (Literal["a", "b"], '{"response":"b"}', "b"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("kind", "text", "expected"), KINDS, ids=[str(kind) for kind, *_ in KINDS])
async def test_each_kind_of_output_type(kind: Any, text: str, expected: Any, streamed: bool) -> None:
    """The model is sent the schema; its text becomes a value of the type."""
    model = ScriptedModel([say(text, chunks=3)])
    agent = Agent(name="Ann", model=model, output_type=kind)
    result: Any = await Runner.run_streamed(agent, "hi").wait() if streamed else await Runner.run(agent, "hi")
    assert result.final_output == expected
    assert type(result.final_output) is type(expected)
    schema = model.calls[0].output_schema
    assert schema is not None
    assert schema.is_strict_json_schema()
    assert schema.json_schema()["type"] == "object"


async def test_text_has_no_schema() -> None:
    """str, and no type at all, are plain text."""
    for kind in (None, str):
        model = ScriptedModel(['{"x": 1}'])
        result = await Runner.run(Agent(name="Ann", model=model, output_type=kind), "hi")
        assert result.final_output == '{"x": 1}'
        assert model.calls[0].output_schema is None


async def test_a_schema_that_is_not_strict() -> None:
    """AgentOutputSchema(…, strict_json_schema=False) takes free dicts, and converts values."""
    schema = AgentOutputSchema(dict[str, int], strict_json_schema=False)
    model = ScriptedModel(['{"a": "1"}'])
    result = await Runner.run(Agent(name="Ann", model=model, output_type=schema), "hi")
    assert result.final_output == {"a": 1}
    assert model.calls[0].output_schema is schema


async def test_a_type_without_a_strict_schema_is_refused_before_any_request() -> None:
    """The error names the type and the way out."""
    agent = Agent(name="Ann", model=(model := ScriptedModel()), output_type=dict[str, int])
    with pytest.raises(UserError, match="strict_json_schema=False"):
        await Runner.run(agent, "hi")
    assert not model.calls


class _Shouting(AgentOutputSchemaBase):
    def is_plain_text(self) -> bool:
        return False

    def name(self) -> str:
        return "Shouting"

    def json_schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def is_strict_json_schema(self) -> bool:
        return False

    def validate_json(self, json_str: str) -> Any:
        return json_str.upper()


async def test_a_schema_of_ones_own() -> None:
    """Subclasses of AgentOutputSchemaBase read the text as they like."""
    agent = Agent(name="Ann", model=ScriptedModel(["{}a"]), output_type=_Shouting())
    assert (await Runner.run(agent, "hi")).final_output == "{}A"


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_output_that_does_not_fit_is_the_models_error(streamed: bool) -> None:
    """The error names the type and what is wrong; the message itself is kept."""
    agent = Agent(name="Ann", model=ScriptedModel(['{"x":"one","y":0}']), output_type=Point)
    with pytest.raises(ModelBehaviorError, match=r"Point.*x") as caught:
        await (Runner.run_streamed(agent, "hi").wait() if streamed else Runner.run(agent, "hi"))
    assert caught.value.run_data is not None
    assert [item.type for item in caught.value.run_data.new_items] == ["message_output_item"]


async def test_the_type_is_that_of_the_last_agent() -> None:
    """After a handoff the other agent's type counts."""
    model = ScriptedModel([HandoffTo("Bob"), '{"x":1,"y":2}'])
    bob = Agent(name="Bob", model=model, output_type=Point)
    result = await Runner.run(Agent(name="Ann", model=model, handoffs=[bob], output_type=Pair), "hi")
    assert result.final_output == Point(x=1, y=2)


async def test_text_beside_a_tool_call_is_not_the_output() -> None:
    """A message that comes with a tool call is no final output, even if it does not fit the type."""

    @function_tool
    async def ping() -> str:
        return "pong"

    model = ScriptedModel([Turn(("Wait a moment.", ToolCall("ping"))), '{"x":1,"y":2}'])
    result = await Runner.run(Agent(name="Ann", model=model, tools=[ping], output_type=Point), "hi")
    assert result.final_output == Point(x=1, y=2)


async def test_an_empty_answer_where_a_type_is_due_asks_again() -> None:
    """No text at all is no output: the model is asked once more, within max_turns."""
    model = ScriptedModel([Turn(()), '{"x":1,"y":2}'])
    result = await Runner.run(Agent(name="Ann", model=model, output_type=Point), "hi")
    assert result.final_output == Point(x=1, y=2)
    assert len(model.calls) == 2
