"""The pydantic classes of structured tool outputs, in a module of their own so that only who uses them loads pydantic.

`runstream.agent.tool_output` offers them by name and converts them.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, model_validator

__all__ = ["ToolOutputFileContent", "ToolOutputImage", "ToolOutputText"]


class ToolOutputText(BaseModel):
    """Text for the model."""

    type: Literal["text"] = "text"
    text: str


class ToolOutputImage(BaseModel):
    """An image for the model: its URL (or data URL), or the id of an uploaded file."""

    type: Literal["image"] = "image"
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["low", "high", "auto"] | None = None

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.image_url is None and self.file_id is None:
            raise ValueError("At least one of image_url or file_id must be provided")
        return self


class ToolOutputFileContent(BaseModel):
    """A file for the model: its data (base64, with a `filename` as a hint), its URL, or the id of an uploaded file."""

    type: Literal["file"] = "file"
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.file_data is None and self.file_url is None and self.file_id is None:
            raise ValueError("At least one of file_data, file_url, or file_id must be provided")
        return self
