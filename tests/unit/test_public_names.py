"""The public names of the package."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import runstream

PINNED = """
Agent AgentBase AgentHookContext AgentHooks AgentOutputSchema AgentOutputSchemaBase AgentStart AgentToolInvocation
AgentToolStreamEvent AgentUpdatedStreamEvent AgentsException ApprovalResolved AttemptDiscarded CallModelData
CircuitBreaker CircuitBreakers CircuitOpen Clock CodeInterpreterTool CompactionItem Cursor CursorExpired CursorInvalid
DynamicPromptFunction ErrorInfo Event Fallback FileSearchTool FunctionTool FunctionToolCustomDataContext
FunctionToolCustomDataExtractor FunctionToolResult GenerateDynamicPromptData GuardrailFunctionOutput Handoff
HandoffCallItem HandoffInputData HandoffInputFilter HandoffOutputItem HoldBackInfo HostedMCPTool ImageGenerationTool
InMemorySession InputAdded InputGuardrail InputGuardrailResult InputGuardrailTripwireTriggered InputItem ItemAdded
ItemHelpers LeaseHeld LeaseLost LoadLimits LoadRefused MCPApprovalRequestItem MCPApprovalResponseItem MCPListToolsItem
MCPToolApprovalFunction MCPToolApprovalFunctionResult MCPToolApprovalRequest MaxTurnsExceeded MessageOutputItem
MissingExtra Model ModelBatch ModelBehaviorError ModelInputData ModelProvider ModelRefusalError ModelRequest
ModelResponse ModelRetryAdvice ModelRetryAdviceRequest ModelRetryBackoffSettings ModelRetryNormalizedError
ModelRetrySettings ModelSettings ModelStreamBroken ModelStreamFailed ModelStreamTruncated ModelTimeoutError ModelTracing
MultiProvider MultiProviderMap NoGoodAnswer OpenAIChatCompletionsModel OpenAIProvider OpenAIResponsesModel Operator
Outcome OutputGuardrail OutputGuardrailResult OutputGuardrailTripwireTriggered PayloadCodec PlainCall Prompt
RawResponsesStreamEvent ReasoningItem ReasoningItemIdPolicy RequestUsage Retention RetryBudget RetryDecision RetryPolicy
RetryPolicyContext RunConfig RunContextWrapper RunEnd RunErrorData RunErrorDetails RunErrorHandler RunErrorHandlerInput
RunErrorHandlerResult RunErrorHandlers RunExists RunFailed RunHooks RunItem RunItemStreamEvent RunNotFound RunQueued
RunRecord RunResult RunResultStreaming RunSealed RunStart RunState RunTimeoutError RunView Runner SQLiteSession Session
SessionABC SessionSettings StopAtTools Store StoreError StoreUnavailable StreamEvent StreamGuardrail
StreamGuardrailResult StreamedText TContext TResponseInputItem Tagged TimeLimits Tool ToolApprovalItem ToolCallItem
ToolCallOutputItem ToolCaller ToolContext ToolErrorFormatter ToolErrorFormatterArgs ToolExecutionConfig
ToolGuardrailFunctionOutput ToolInputGuardrail ToolInputGuardrailData ToolInputGuardrailResult
ToolInputGuardrailTripwireTriggered ToolNameCollisionPolicy ToolNotFoundBehavior ToolOrigin ToolOriginType
ToolOutputFileContent ToolOutputFileContentDict ToolOutputGuardrail ToolOutputGuardrailData ToolOutputGuardrailResult
ToolOutputGuardrailTripwireTriggered ToolOutputImage ToolOutputImageDict ToolOutputText ToolOutputTextDict ToolProgress
ToolProgressStreamEvent ToolSearchCallItem ToolSearchOutputItem ToolTimeoutError ToolsToFinalOutputFunction
ToolsToFinalOutputResult Usage UserError WebSearchTool Window Worker ZlibPayloads __version__
default_tool_error_function function_tool gather get_default_model handoff input_guardrail install_as_agents merge
open_store output_guardrail pipe race retry_policies set_default_openai_api set_default_openai_client
set_default_openai_key smooth stream_guardrail tool_input_guardrail tool_output_guardrail view_of
"""
NAMES = PINNED.split()


def test_there_are_these_names_and_no_others() -> None:
    """A name that comes or goes is a decision, to be made here, too."""
    assert sorted(runstream.__all__) == sorted(NAMES)
    assert len({*runstream.__all__}) == len(runstream.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves(name: str) -> None:
    """Every name is there, is listed, and is the one of the module that the table names."""
    value = getattr(runstream, name)
    assert name in dir(runstream)
    if name in runstream._EXPORTS:
        home = importlib.import_module(runstream._EXPORTS[name])
        assert value is getattr(home, name)
        assert name in home.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = runstream.Nothing  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_table() -> None:
    """The imports under TYPE_CHECKING and the table of exports name the same objects in the same modules."""
    tree = ast.parse(Path(runstream.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imports: dict[str, str] = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.name == alias.asname, "only `import X as X` re-exports for type checkers"
            imports[alias.name] = str(node.module)
    assert imports == runstream._EXPORTS


def test_importing_is_light() -> None:
    """The names that every program needs bring none of the heavy packages."""
    heavy = ("openai", "pydantic", "aiohttp", "griffe", "sqlite3", "httpx2")
    code = (
        "import sys; from runstream import Agent, Runner, function_tool; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
