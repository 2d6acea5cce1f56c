"""The structured outputs of tools as pydantic models."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from runstream.agent.tool_content import ToolOutputFileContent, ToolOutputImage, ToolOutputText


def test_text_needs_text() -> None:
    """The type is given, the text is not."""
    assert ToolOutputText(text="a").type == "text"
    with pytest.raises(ValidationError):
        ToolOutputText.model_validate({})


def test_an_image_needs_a_source() -> None:
    """A URL or a file id; details are of three kinds."""
    assert ToolOutputImage(image_url="u").file_id is None
    assert ToolOutputImage(file_id="f", detail="low").detail == "low"
    with pytest.raises(ValidationError, match="At least one of image_url or file_id"):
        ToolOutputImage(detail="low")


def test_a_file_needs_a_source() -> None:
    """Data, a URL or a file id; a name alone is no file."""
    assert ToolOutputFileContent(file_data="ZA==").file_url is None
    with pytest.raises(ValidationError, match="At least one of file_data, file_url, or file_id"):
        ToolOutputFileContent(filename="a.txt")
