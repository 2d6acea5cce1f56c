"""For the tests of others: a scripted model, replayed runs, a local endpoint, a fake clock, the laws that stores keep.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.testing.clock import FakeClock as FakeClock
    from runstream.testing.endpoint import Endpoint as Endpoint
    from runstream.testing.endpoint_request import EndpointRequest as EndpointRequest
    from runstream.testing.faults import Fault as Fault
    from runstream.testing.faults import Raise as Raise
    from runstream.testing.model import ScriptedModel as ScriptedModel
    from runstream.testing.model_step import ModelCall as ModelCall
    from runstream.testing.model_step import ModelStep as ModelStep
    from runstream.testing.model_step import ModelStepSpec as ModelStepSpec
    from runstream.testing.model_step import assistant_message as assistant_message
    from runstream.testing.model_step import function_call as function_call
    from runstream.testing.recording import RecordedCall as RecordedCall
    from runstream.testing.recording import ReplayMismatch as ReplayMismatch
    from runstream.testing.replay import ReplayModel as ReplayModel
    from runstream.testing.request import ScriptRequest as ScriptRequest
    from runstream.testing.request import ToolResult as ToolResult
    from runstream.testing.request import When as When
    from runstream.testing.script import Script as Script
    from runstream.testing.script_errors import InvalidModelStep as InvalidModelStep
    from runstream.testing.script_errors import ModelScriptError as ModelScriptError
    from runstream.testing.script_errors import UnconsumedModelSteps as UnconsumedModelSteps
    from runstream.testing.script_errors import UnexpectedModelCall as UnexpectedModelCall
    from runstream.testing.steps import HandoffTo as HandoffTo
    from runstream.testing.steps import Item as Item
    from runstream.testing.steps import Message as Message
    from runstream.testing.steps import Reasoning as Reasoning
    from runstream.testing.steps import Refusal as Refusal
    from runstream.testing.steps import Tokens as Tokens
    from runstream.testing.steps import ToolCall as ToolCall
    from runstream.testing.steps import Turn as Turn
    from runstream.testing.steps import say as say
    from runstream.testing.store_conformance import StoreConformance as StoreConformance
    from runstream.testing.store_trial import StoreTrial as StoreTrial
    from runstream.testing.store_trial import UnfencedStore as UnfencedStore

_MODULES = {
    "clock": ("FakeClock",),
    "endpoint": ("Endpoint",),
    "endpoint_request": ("EndpointRequest",),
    "faults": ("Fault", "Raise"),
    "model": ("ScriptedModel",),
    "model_step": ("ModelCall", "ModelStep", "ModelStepSpec", "assistant_message", "function_call"),
    "recording": ("RecordedCall", "ReplayMismatch"),
    "replay": ("ReplayModel",),
    "request": ("ScriptRequest", "ToolResult", "When"),
    "script": ("Script",),
    "script_errors": ("InvalidModelStep", "ModelScriptError", "UnconsumedModelSteps", "UnexpectedModelCall"),
    "steps": (
        "HandoffTo",
        "Item",
        "Message",
        "Reasoning",
        "Refusal",
        "Tokens",
        "ToolCall",
        "Turn",
        "say",
    ),
    "store_conformance": ("StoreConformance",),
    "store_trial": ("StoreTrial", "UnfencedStore"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
