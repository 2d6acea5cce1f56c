"""Tools' outputs as the model gets them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from runstream.agent import tool_output
from runstream.agent.tool_output import (
    ToolOutputFileContent,
    ToolOutputImage,
    ToolOutputText,
    tool_output_to_input,
)


class Named:
    def __str__(self) -> str:
        return "named"


class FalsyText(ToolOutputText):
    note: str = "kept here"

    def __bool__(self) -> bool:
        return False


TEXT_PART = {"type": "input_text", "text": "a"}


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("text", "text"),
        ("", ""),
        (None, "None"),
        (5, "5"),
        (True, "True"),
        (1.5, "1.5"),
        ([], "[]"),
        ((), "()"),
        ({}, "{}"),
        ([1, "a"], "[1, 'a']"),
        ({"a": 1}, "{'a': 1}"),
        (Named(), "named"),
        (b"x", "b'x'"),
    ],
)
def test_other_values_become_text(output: Any, text: str) -> None:
    """Whatever is no structured output is `str(output)`."""
    assert tool_output_to_input(output) == text


@pytest.mark.parametrize(
    ("output", "part"),
    [
        (ToolOutputText(text="a"), TEXT_PART),
        (FalsyText(text="a"), TEXT_PART),
        ({"type": "text", "text": "a"}, TEXT_PART),
        (
            ToolOutputImage(image_url="u", detail="high"),
            {"type": "input_image", "image_url": "u", "detail": "high"},
        ),
        ({"type": "image", "file_id": "f"}, {"type": "input_image", "file_id": "f"}),
        (
            ToolOutputFileContent(file_data="ZA==", filename="d.txt"),
            {"type": "input_file", "file_data": "ZA==", "filename": "d.txt"},
        ),
        ({"type": "file", "file_url": "u", "other": 1}, {"type": "input_file", "file_url": "u"}),
    ],
)
def test_structured_outputs_become_parts(output: Any, part: dict[str, Any]) -> None:
    """Objects and dicts become content parts with the fields that are set; alone, or in a list or tuple."""
    assert tool_output_to_input(output) == [part]
    assert tool_output_to_input([output, {"type": "text", "text": "a"}]) == [part, TEXT_PART]
    assert tool_output_to_input((output,)) == [part]


@pytest.mark.parametrize(
    "output",
    [
        {"text": "a"},
        {"type": "text"},
        {"type": "text", "text": 5},
        {"type": "image"},
        {"type": "image", "location": "x"},
        {"type": "image", "image_url": "u", "detail": "extreme"},
        {"type": "file", "path": "x"},
        {"type": "video", "url": "x"},
        {"type": ["text"], "text": "a"},
    ],
)
def test_dicts_that_only_look_structured_are_text(output: Any) -> None:
    """A dict needs its type and what that type requires; one such element makes a whole list text."""
    assert tool_output_to_input(output) == str(output)
    mixed = [{"type": "text", "text": "a"}, output]
    assert tool_output_to_input(mixed) == str(mixed)


def test_the_models_are_loaded_when_first_used() -> None:
    """Importing the module loads no pydantic; the names are there all the same."""
    script = (
        "import sys\n"
        "from runstream.agent.tool_output import tool_output_to_input\n"
        "assert tool_output_to_input(5) == '5' and 'pydantic' not in sys.modules\n"
        "from runstream.agent.tool_output import ToolOutputText\n"
        "assert ToolOutputText(text='a').model_dump() == {'type': 'text', 'text': 'a'}\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    """The lazy names do not hide misspelt ones."""
    with pytest.raises(AttributeError, match="ToolOutputVideo"):
        _ = tool_output.ToolOutputVideo
