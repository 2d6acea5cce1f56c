"""The public names of runstream.testing."""

import subprocess
import sys

import pytest

import runstream.testing

NAMES = [
    "Endpoint",
    "EndpointRequest",
    "FakeClock",
    "Fault",
    "HandoffTo",
    "InvalidModelStep",
    "Item",
    "Message",
    "ModelCall",
    "ModelScriptError",
    "ModelStep",
    "ModelStepSpec",
    "Raise",
    "Reasoning",
    "RecordedCall",
    "Refusal",
    "ReplayMismatch",
    "ReplayModel",
    "Script",
    "ScriptRequest",
    "ScriptedModel",
    "StoreConformance",
    "StoreTrial",
    "Tokens",
    "ToolCall",
    "ToolResult",
    "Turn",
    "UnconsumedModelSteps",
    "UnexpectedModelCall",
    "UnfencedStore",
    "When",
    "assistant_message",
    "function_call",
    "say",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there(name: str) -> None:
    """Every public name resolves, and is listed."""
    assert getattr(runstream.testing, name).__name__ == name
    assert name in dir(runstream.testing)


def test_there_are_no_others() -> None:
    """The list above is complete, and a name that is not on it is an AttributeError."""
    assert sorted(runstream.testing._HOME) == sorted(NAMES)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = runstream.testing.Nothing  # type: ignore[attr-defined]


def test_importing_is_light() -> None:
    """The doubles bring neither the openai package nor an HTTP library until they are used."""
    code = (
        "import sys; from runstream.testing import Endpoint, FakeClock, ScriptedModel, say; "
        "print([name for name in ('openai', 'aiohttp', 'httpx2', 'pydantic') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
