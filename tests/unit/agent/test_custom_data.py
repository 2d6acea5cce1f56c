"""What a program attaches to a tool's output for itself: `custom_data_extractor`."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import FunctionToolCustomDataContext, UserError, function_tool
from runstream.agent.tool_call import custom_data_of
from runstream.agent.tool_context import ToolContext

RAW = {"type": "function_call_output", "call_id": "1", "output": "x"}


async def extracted(extractor: Any) -> Any:
    tool = function_tool(lambda: "x", name_override="f", custom_data_extractor=extractor)
    context: ToolContext[Any] = ToolContext(None, tool_name="f", tool_call_id="1", tool_arguments="{}")
    return await custom_data_of(function_tool=tool, context=context, output="x", raw_item=RAW)


async def test_without_an_extractor_there_is_none() -> None:
    """Nothing is attached, and an extractor may say so itself."""
    assert await extracted(None) is None
    assert await extracted(lambda data: None) is None


async def test_plain_and_async_extractors() -> None:
    """The extractor sees the call and its output; what it returns is kept as plain JSON values."""

    async def later(data: FunctionToolCustomDataContext) -> Any:
        return {"tool": data.tool.name, "call": data.tool_context.tool_call_id}

    assert await extracted(lambda data: {"output": data.output, "pair": (1, 2)}) == {"output": "x", "pair": [1, 2]}
    assert await extracted(later) == {"tool": "f", "call": "1"}


async def test_the_output_itself_cannot_be_changed() -> None:
    """The extractor gets a copy of the item that the model will see."""

    def spoil(data: Any) -> dict[str, Any]:
        data.raw_item["output"] = "y"
        return {}

    assert await extracted(spoil) == {}
    assert RAW["output"] == "x"


@pytest.mark.parametrize("data", [{"bad": object()}, {"bad": float("nan")}, [1], 5])
async def test_data_must_have_a_json_form(data: Any) -> None:
    """Anything else could not be stored with the run."""
    with pytest.raises(UserError, match="custom_data_extractor must return JSON-compatible data"):
        await extracted(lambda _: data)
