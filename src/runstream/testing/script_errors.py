"""What can be wrong with a script, and the checks that find it.

Owns the errors of scripts and the wording of their messages: the field, what it must be, and what it is.
"""

from __future__ import annotations

import math
from typing import Any, cast

from runstream.errors import UserError

__all__ = [
    "InvalidModelStep",
    "ModelScriptError",
    "UnconsumedModelSteps",
    "UnexpectedModelCall",
    "is_count",
    "is_duration",
    "located",
    "require",
    "require_optional_string",
    "shown",
]


class ModelScriptError(UserError):
    """A script is wrong, or the program under test did not follow it."""

    code = "model_script"


class InvalidModelStep(ModelScriptError):
    """A step cannot be played. `input_index` is its place in the list that it came in, from 0."""

    code = "invalid_model_step"

    def __init__(self, message: str, *, reason: str = "invalid_input", input_index: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.input_index = input_index


class UnexpectedModelCall(ModelScriptError):
    """The model was called more often than the script has turns. `call_index` counts the calls from 0."""

    code = "unexpected_model_call"

    def __init__(self, message: str, *, call: Any, call_index: int) -> None:
        super().__init__(message)
        self.call = call
        self.call_index = call_index


class UnconsumedModelSteps(ModelScriptError):
    """The test is over, and the model was called less often than the script has turns."""

    code = "unconsumed_model_steps"

    def __init__(self, message: str, *, remaining_steps: int) -> None:
        super().__init__(message)
        self.remaining_steps = remaining_steps


def located(place: str, error: InvalidModelStep, index: int = 0) -> InvalidModelStep:
    """The same error, with the place where it is said first."""
    return InvalidModelStep(f"{place}: {error.message}", reason=error.reason, input_index=index)


def require(name: str, value: object, is_valid: bool, expected: str, *, reason: str = "invalid_input") -> None:
    if not is_valid:
        raise InvalidModelStep(f"{name}: must be {expected}, not {shown(value)}", reason=reason)


def require_optional_string(name: str, value: object) -> None:
    require(name, value, value is None or isinstance(value, str), "a string")


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_duration(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= cast("float", value) < math.inf


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
