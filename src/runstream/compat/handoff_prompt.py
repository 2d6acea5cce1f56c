"""A prompt that tells a model what handoffs are."""

from __future__ import annotations

__all__ = ["RECOMMENDED_PROMPT_PREFIX", "prompt_with_handoff_instructions"]

RECOMMENDED_PROMPT_PREFIX = (
    "# How you work\n"
    "You are one of several agents that together serve one user. Each has instructions and tools of its own. Where "
    "another agent suits the request better, hand the conversation over by calling that agent's function, which is "
    "usually named `transfer_to_<agent_name>`. The user does not see handovers: make them without announcing or "
    "mentioning them.\n"
)


def prompt_with_handoff_instructions(prompt: str) -> str:
    """The prompt, with what handoffs are told before it."""
    return f"{RECOMMENDED_PROMPT_PREFIX}\n{prompt}"
