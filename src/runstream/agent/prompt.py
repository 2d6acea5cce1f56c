"""Stored prompts of the OpenAI API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NotRequired, Required, TypeAlias

from typing_extensions import TypedDict

__all__ = ["DynamicPromptFunction", "GenerateDynamicPromptData", "Prompt"]


class Prompt(TypedDict):
    """Which stored prompt to use, and the values of its variables."""

    id: Required[str]
    version: NotRequired[str]
    variables: NotRequired[dict[str, Any]]


@dataclass
class GenerateDynamicPromptData:
    """What a function that chooses a prompt gets."""

    context: Any
    """The `RunContextWrapper` of the run."""
    agent: Any
    """The `Agent` that the prompt is for."""


DynamicPromptFunction: TypeAlias = Callable[[GenerateDynamicPromptData], Prompt | Awaitable[Prompt]]
