"""runstream: a streaming-first runtime for LLM agents. Every run is an ordered log that any number of readers follow.

The names are imported when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from runstream.agent.agent import Agent as Agent
    from runstream.agent.agent import AgentBase as AgentBase
    from runstream.agent.agent import StopAtTools as StopAtTools
    from runstream.agent.agent import ToolsToFinalOutputFunction as ToolsToFinalOutputFunction
    from runstream.agent.agent import ToolsToFinalOutputResult as ToolsToFinalOutputResult
    from runstream.agent.agent_tool import AgentToolInvocation as AgentToolInvocation
    from runstream.agent.agent_tool import AgentToolStreamEvent as AgentToolStreamEvent
    from runstream.agent.context import AgentHookContext as AgentHookContext
    from runstream.agent.context import RunContextWrapper as RunContextWrapper
    from runstream.agent.context import TContext as TContext
    from runstream.agent.guardrail import GuardrailFunctionOutput as GuardrailFunctionOutput
    from runstream.agent.guardrail import InputGuardrail as InputGuardrail
    from runstream.agent.guardrail import InputGuardrailResult as InputGuardrailResult
    from runstream.agent.guardrail import InputGuardrailTripwireTriggered as InputGuardrailTripwireTriggered
    from runstream.agent.guardrail import OutputGuardrail as OutputGuardrail
    from runstream.agent.guardrail import OutputGuardrailResult as OutputGuardrailResult
    from runstream.agent.guardrail import OutputGuardrailTripwireTriggered as OutputGuardrailTripwireTriggered
    from runstream.agent.guardrail import ToolGuardrailFunctionOutput as ToolGuardrailFunctionOutput
    from runstream.agent.guardrail import ToolInputGuardrail as ToolInputGuardrail
    from runstream.agent.guardrail import ToolInputGuardrailData as ToolInputGuardrailData
    from runstream.agent.guardrail import ToolInputGuardrailResult as ToolInputGuardrailResult
    from runstream.agent.guardrail import ToolInputGuardrailTripwireTriggered as ToolInputGuardrailTripwireTriggered
    from runstream.agent.guardrail import ToolOutputGuardrail as ToolOutputGuardrail
    from runstream.agent.guardrail import ToolOutputGuardrailData as ToolOutputGuardrailData
    from runstream.agent.guardrail import ToolOutputGuardrailResult as ToolOutputGuardrailResult
    from runstream.agent.guardrail import ToolOutputGuardrailTripwireTriggered as ToolOutputGuardrailTripwireTriggered
    from runstream.agent.guardrail import input_guardrail as input_guardrail
    from runstream.agent.guardrail import output_guardrail as output_guardrail
    from runstream.agent.guardrail import tool_input_guardrail as tool_input_guardrail
    from runstream.agent.guardrail import tool_output_guardrail as tool_output_guardrail
    from runstream.agent.handoff import Handoff as Handoff
    from runstream.agent.handoff import HandoffInputData as HandoffInputData
    from runstream.agent.handoff import HandoffInputFilter as HandoffInputFilter
    from runstream.agent.handoff import handoff as handoff
    from runstream.agent.hooks import AgentHooks as AgentHooks
    from runstream.agent.hooks import RunHooks as RunHooks
    from runstream.agent.hosted_tools import CodeInterpreterTool as CodeInterpreterTool
    from runstream.agent.hosted_tools import FileSearchTool as FileSearchTool
    from runstream.agent.hosted_tools import HostedMCPTool as HostedMCPTool
    from runstream.agent.hosted_tools import ImageGenerationTool as ImageGenerationTool
    from runstream.agent.hosted_tools import MCPToolApprovalFunction as MCPToolApprovalFunction
    from runstream.agent.hosted_tools import MCPToolApprovalFunctionResult as MCPToolApprovalFunctionResult
    from runstream.agent.hosted_tools import MCPToolApprovalRequest as MCPToolApprovalRequest
    from runstream.agent.hosted_tools import WebSearchTool as WebSearchTool
    from runstream.agent.items import CompactionItem as CompactionItem
    from runstream.agent.items import HandoffCallItem as HandoffCallItem
    from runstream.agent.items import HandoffOutputItem as HandoffOutputItem
    from runstream.agent.items import InputItem as InputItem
    from runstream.agent.items import ItemHelpers as ItemHelpers
    from runstream.agent.items import MCPApprovalRequestItem as MCPApprovalRequestItem
    from runstream.agent.items import MCPApprovalResponseItem as MCPApprovalResponseItem
    from runstream.agent.items import MCPListToolsItem as MCPListToolsItem
    from runstream.agent.items import MessageOutputItem as MessageOutputItem
    from runstream.agent.items import ModelResponse as ModelResponse
    from runstream.agent.items import ReasoningItem as ReasoningItem
    from runstream.agent.items import RunItem as RunItem
    from runstream.agent.items import ToolApprovalItem as ToolApprovalItem
    from runstream.agent.items import ToolCallItem as ToolCallItem
    from runstream.agent.items import ToolCallOutputItem as ToolCallOutputItem
    from runstream.agent.items import ToolSearchCallItem as ToolSearchCallItem
    from runstream.agent.items import ToolSearchOutputItem as ToolSearchOutputItem
    from runstream.agent.items import TResponseInputItem as TResponseInputItem
    from runstream.agent.model import Model as Model
    from runstream.agent.model import ModelBatch as ModelBatch
    from runstream.agent.model import ModelProvider as ModelProvider
    from runstream.agent.model import ModelRequest as ModelRequest
    from runstream.agent.model import ModelTracing as ModelTracing
    from runstream.agent.output import AgentOutputSchema as AgentOutputSchema
    from runstream.agent.output import AgentOutputSchemaBase as AgentOutputSchemaBase
    from runstream.agent.prompt import DynamicPromptFunction as DynamicPromptFunction
    from runstream.agent.prompt import GenerateDynamicPromptData as GenerateDynamicPromptData
    from runstream.agent.prompt import Prompt as Prompt
    from runstream.agent.retry import ModelRetryAdvice as ModelRetryAdvice
    from runstream.agent.retry import ModelRetryAdviceRequest as ModelRetryAdviceRequest
    from runstream.agent.retry import ModelRetryBackoffSettings as ModelRetryBackoffSettings
    from runstream.agent.retry import ModelRetryNormalizedError as ModelRetryNormalizedError
    from runstream.agent.retry import ModelRetrySettings as ModelRetrySettings
    from runstream.agent.retry import RetryDecision as RetryDecision
    from runstream.agent.retry import RetryPolicy as RetryPolicy
    from runstream.agent.retry import RetryPolicyContext as RetryPolicyContext
    from runstream.agent.retry import retry_policies as retry_policies
    from runstream.agent.settings import ModelSettings as ModelSettings
    from runstream.agent.settings import get_default_model as get_default_model
    from runstream.agent.stream_guardrail import HoldBackInfo as HoldBackInfo
    from runstream.agent.stream_guardrail import StreamedText as StreamedText
    from runstream.agent.stream_guardrail import StreamGuardrail as StreamGuardrail
    from runstream.agent.stream_guardrail import StreamGuardrailResult as StreamGuardrailResult
    from runstream.agent.stream_guardrail import Window as Window
    from runstream.agent.stream_guardrail import stream_guardrail as stream_guardrail
    from runstream.agent.tool import FunctionTool as FunctionTool
    from runstream.agent.tool import FunctionToolCustomDataContext as FunctionToolCustomDataContext
    from runstream.agent.tool import FunctionToolCustomDataExtractor as FunctionToolCustomDataExtractor
    from runstream.agent.tool import FunctionToolResult as FunctionToolResult
    from runstream.agent.tool import Tool as Tool
    from runstream.agent.tool import ToolCaller as ToolCaller
    from runstream.agent.tool import ToolOrigin as ToolOrigin
    from runstream.agent.tool import ToolOriginType as ToolOriginType
    from runstream.agent.tool import default_tool_error_function as default_tool_error_function
    from runstream.agent.tool import function_tool as function_tool
    from runstream.agent.tool_context import ToolContext as ToolContext
    from runstream.agent.tool_output import ToolOutputFileContent as ToolOutputFileContent
    from runstream.agent.tool_output import ToolOutputFileContentDict as ToolOutputFileContentDict
    from runstream.agent.tool_output import ToolOutputImage as ToolOutputImage
    from runstream.agent.tool_output import ToolOutputImageDict as ToolOutputImageDict
    from runstream.agent.tool_output import ToolOutputText as ToolOutputText
    from runstream.agent.tool_output import ToolOutputTextDict as ToolOutputTextDict
    from runstream.agent.usage import RequestUsage as RequestUsage
    from runstream.agent.usage import Usage as Usage
    from runstream.clock import Clock as Clock
    from runstream.compat import install_as_agents as install_as_agents
    from runstream.errors import AgentsException as AgentsException
    from runstream.errors import CircuitOpen as CircuitOpen
    from runstream.errors import CursorExpired as CursorExpired
    from runstream.errors import CursorInvalid as CursorInvalid
    from runstream.errors import LeaseHeld as LeaseHeld
    from runstream.errors import LeaseLost as LeaseLost
    from runstream.errors import LoadRefused as LoadRefused
    from runstream.errors import MaxTurnsExceeded as MaxTurnsExceeded
    from runstream.errors import MissingExtra as MissingExtra
    from runstream.errors import ModelBehaviorError as ModelBehaviorError
    from runstream.errors import ModelRefusalError as ModelRefusalError
    from runstream.errors import ModelStreamBroken as ModelStreamBroken
    from runstream.errors import ModelStreamFailed as ModelStreamFailed
    from runstream.errors import ModelStreamTruncated as ModelStreamTruncated
    from runstream.errors import ModelTimeoutError as ModelTimeoutError
    from runstream.errors import RunErrorDetails as RunErrorDetails
    from runstream.errors import RunExists as RunExists
    from runstream.errors import RunFailed as RunFailed
    from runstream.errors import RunNotFound as RunNotFound
    from runstream.errors import RunSealed as RunSealed
    from runstream.errors import RunTimeoutError as RunTimeoutError
    from runstream.errors import StoreError as StoreError
    from runstream.errors import StoreUnavailable as StoreUnavailable
    from runstream.errors import ToolTimeoutError as ToolTimeoutError
    from runstream.errors import UserError as UserError
    from runstream.events.event import AgentStart as AgentStart
    from runstream.events.event import ApprovalResolved as ApprovalResolved
    from runstream.events.event import AttemptDiscarded as AttemptDiscarded
    from runstream.events.event import ErrorInfo as ErrorInfo
    from runstream.events.event import Event as Event
    from runstream.events.event import InputAdded as InputAdded
    from runstream.events.event import ItemAdded as ItemAdded
    from runstream.events.event import RunEnd as RunEnd
    from runstream.events.event import RunQueued as RunQueued
    from runstream.events.event import RunStart as RunStart
    from runstream.events.event import ToolProgress as ToolProgress
    from runstream.flow.breaker import CircuitBreaker as CircuitBreaker
    from runstream.flow.breaker import CircuitBreakers as CircuitBreakers
    from runstream.flow.fallback import Fallback as Fallback
    from runstream.flow.fallback import PlainCall as PlainCall
    from runstream.flow.gather import gather as gather
    from runstream.flow.load import LoadLimits as LoadLimits
    from runstream.flow.merge import Tagged as Tagged
    from runstream.flow.merge import merge as merge
    from runstream.flow.outcome import Outcome as Outcome
    from runstream.flow.pipe import Operator as Operator
    from runstream.flow.pipe import pipe as pipe
    from runstream.flow.race import NoGoodAnswer as NoGoodAnswer
    from runstream.flow.race import race as race
    from runstream.flow.retry import RetryBudget as RetryBudget
    from runstream.flow.smooth import smooth as smooth
    from runstream.flow.timeouts import TimeLimits as TimeLimits
    from runstream.log.base import Retention as Retention
    from runstream.log.base import RunRecord as RunRecord
    from runstream.log.base import Store as Store
    from runstream.log.cursor import Cursor as Cursor
    from runstream.log.open_store import open_store as open_store
    from runstream.log.payload import PayloadCodec as PayloadCodec
    from runstream.log.payload import ZlibPayloads as ZlibPayloads
    from runstream.models.chat_completions import OpenAIChatCompletionsModel as OpenAIChatCompletionsModel
    from runstream.models.defaults import set_default_openai_api as set_default_openai_api
    from runstream.models.defaults import set_default_openai_client as set_default_openai_client
    from runstream.models.defaults import set_default_openai_key as set_default_openai_key
    from runstream.models.provider import MultiProvider as MultiProvider
    from runstream.models.provider import MultiProviderMap as MultiProviderMap
    from runstream.models.provider import OpenAIProvider as OpenAIProvider
    from runstream.models.responses import OpenAIResponsesModel as OpenAIResponsesModel
    from runstream.run.config import CallModelData as CallModelData
    from runstream.run.config import ModelInputData as ModelInputData
    from runstream.run.config import ReasoningItemIdPolicy as ReasoningItemIdPolicy
    from runstream.run.config import RunConfig as RunConfig
    from runstream.run.config import ToolErrorFormatter as ToolErrorFormatter
    from runstream.run.config import ToolErrorFormatterArgs as ToolErrorFormatterArgs
    from runstream.run.config import ToolExecutionConfig as ToolExecutionConfig
    from runstream.run.config import ToolNameCollisionPolicy as ToolNameCollisionPolicy
    from runstream.run.config import ToolNotFoundBehavior as ToolNotFoundBehavior
    from runstream.run.error_handlers import RunErrorData as RunErrorData
    from runstream.run.error_handlers import RunErrorHandler as RunErrorHandler
    from runstream.run.error_handlers import RunErrorHandlerInput as RunErrorHandlerInput
    from runstream.run.error_handlers import RunErrorHandlerResult as RunErrorHandlerResult
    from runstream.run.error_handlers import RunErrorHandlers as RunErrorHandlers
    from runstream.run.result import RunResult as RunResult
    from runstream.run.result import RunResultStreaming as RunResultStreaming
    from runstream.run.runner import Runner as Runner
    from runstream.run.state import RunState as RunState
    from runstream.run.stream_events import AgentUpdatedStreamEvent as AgentUpdatedStreamEvent
    from runstream.run.stream_events import RawResponsesStreamEvent as RawResponsesStreamEvent
    from runstream.run.stream_events import RunItemStreamEvent as RunItemStreamEvent
    from runstream.run.stream_events import StreamEvent as StreamEvent
    from runstream.run.stream_events import ToolProgressStreamEvent as ToolProgressStreamEvent
    from runstream.run.worker import Worker as Worker
    from runstream.sessions.base import Session as Session
    from runstream.sessions.base import SessionABC as SessionABC
    from runstream.sessions.base import SessionSettings as SessionSettings
    from runstream.sessions.memory import InMemorySession as InMemorySession
    from runstream.sessions.sqlite import SQLiteSession as SQLiteSession
    from runstream.view.run_view import RunView as RunView
    from runstream.view.run_view import view_of as view_of

# Where each public name lives. A test holds this table and the imports above together.
_EXPORTS: dict[str, str] = {
    name: module
    for module, names in {
        "runstream.agent.agent": "Agent AgentBase StopAtTools ToolsToFinalOutputFunction ToolsToFinalOutputResult",
        "runstream.agent.agent_tool": "AgentToolInvocation AgentToolStreamEvent",
        "runstream.agent.context": "AgentHookContext RunContextWrapper TContext",
        "runstream.agent.guardrail": (
            "GuardrailFunctionOutput InputGuardrail InputGuardrailResult InputGuardrailTripwireTriggered "
            "OutputGuardrail OutputGuardrailResult OutputGuardrailTripwireTriggered ToolGuardrailFunctionOutput "
            "ToolInputGuardrail ToolInputGuardrailData ToolInputGuardrailResult "
            "ToolInputGuardrailTripwireTriggered ToolOutputGuardrail ToolOutputGuardrailData "
            "ToolOutputGuardrailResult ToolOutputGuardrailTripwireTriggered input_guardrail output_guardrail "
            "tool_input_guardrail tool_output_guardrail"
        ),
        "runstream.agent.stream_guardrail": (
            "HoldBackInfo StreamGuardrail StreamGuardrailResult StreamedText Window stream_guardrail"
        ),
        "runstream.agent.handoff": "Handoff HandoffInputData HandoffInputFilter handoff",
        "runstream.agent.hooks": "AgentHooks RunHooks",
        "runstream.agent.hosted_tools": (
            "CodeInterpreterTool FileSearchTool HostedMCPTool ImageGenerationTool MCPToolApprovalFunction "
            "MCPToolApprovalFunctionResult MCPToolApprovalRequest WebSearchTool"
        ),
        "runstream.agent.items": (
            "CompactionItem HandoffCallItem HandoffOutputItem InputItem ItemHelpers MCPApprovalRequestItem "
            "MCPApprovalResponseItem MCPListToolsItem MessageOutputItem ModelResponse ReasoningItem RunItem "
            "TResponseInputItem ToolApprovalItem ToolCallItem ToolCallOutputItem ToolSearchCallItem "
            "ToolSearchOutputItem"
        ),
        "runstream.agent.model": "Model ModelBatch ModelProvider ModelRequest ModelTracing",
        "runstream.agent.output": "AgentOutputSchema AgentOutputSchemaBase",
        "runstream.agent.prompt": "DynamicPromptFunction GenerateDynamicPromptData Prompt",
        "runstream.agent.retry": (
            "ModelRetryAdvice ModelRetryAdviceRequest ModelRetryBackoffSettings ModelRetryNormalizedError "
            "ModelRetrySettings RetryDecision RetryPolicy RetryPolicyContext retry_policies"
        ),
        "runstream.agent.settings": "ModelSettings get_default_model",
        "runstream.agent.tool": (
            "FunctionTool FunctionToolCustomDataContext FunctionToolCustomDataExtractor FunctionToolResult Tool "
            "ToolCaller ToolOrigin ToolOriginType default_tool_error_function function_tool"
        ),
        "runstream.agent.tool_context": "ToolContext",
        "runstream.agent.tool_output": (
            "ToolOutputFileContent ToolOutputFileContentDict ToolOutputImage ToolOutputImageDict ToolOutputText "
            "ToolOutputTextDict"
        ),
        "runstream.agent.usage": "RequestUsage Usage",
        "runstream.clock": "Clock",
        "runstream.compat": "install_as_agents",
        "runstream.errors": (
            "AgentsException CircuitOpen CursorExpired CursorInvalid LeaseHeld LeaseLost LoadRefused MaxTurnsExceeded "
            "MissingExtra ModelBehaviorError ModelRefusalError ModelStreamBroken ModelStreamFailed "
            "ModelStreamTruncated ModelTimeoutError RunErrorDetails RunExists RunFailed RunNotFound RunSealed "
            "RunTimeoutError StoreError StoreUnavailable ToolTimeoutError UserError"
        ),
        "runstream.events.event": (
            "AgentStart ApprovalResolved AttemptDiscarded ErrorInfo Event InputAdded ItemAdded RunEnd RunQueued "
            "RunStart ToolProgress"
        ),
        "runstream.flow.gather": "gather",
        "runstream.flow.merge": "Tagged merge",
        "runstream.flow.outcome": "Outcome",
        "runstream.flow.pipe": "Operator pipe",
        "runstream.flow.race": "NoGoodAnswer race",
        "runstream.flow.smooth": "smooth",
        "runstream.flow.breaker": "CircuitBreaker CircuitBreakers",
        "runstream.flow.fallback": "Fallback PlainCall",
        "runstream.flow.load": "LoadLimits",
        "runstream.flow.retry": "RetryBudget",
        "runstream.flow.timeouts": "TimeLimits",
        "runstream.log.base": "Retention RunRecord Store",
        "runstream.log.cursor": "Cursor",
        "runstream.log.open_store": "open_store",
        "runstream.log.payload": "PayloadCodec ZlibPayloads",
        "runstream.models.chat_completions": "OpenAIChatCompletionsModel",
        "runstream.models.defaults": "set_default_openai_api set_default_openai_client set_default_openai_key",
        "runstream.models.provider": "MultiProvider MultiProviderMap OpenAIProvider",
        "runstream.models.responses": "OpenAIResponsesModel",
        "runstream.run.config": (
            "CallModelData ModelInputData ReasoningItemIdPolicy RunConfig ToolErrorFormatter "
            "ToolErrorFormatterArgs ToolExecutionConfig ToolNameCollisionPolicy ToolNotFoundBehavior"
        ),
        "runstream.run.error_handlers": (
            "RunErrorData RunErrorHandler RunErrorHandlerInput RunErrorHandlerResult RunErrorHandlers"
        ),
        "runstream.run.result": "RunResult RunResultStreaming",
        "runstream.run.runner": "Runner",
        "runstream.run.state": "RunState",
        "runstream.run.stream_events": (
            "AgentUpdatedStreamEvent RawResponsesStreamEvent RunItemStreamEvent StreamEvent ToolProgressStreamEvent"
        ),
        "runstream.run.worker": "Worker",
        "runstream.sessions.base": "Session SessionABC SessionSettings",
        "runstream.sessions.memory": "InMemorySession",
        "runstream.sessions.sqlite": "SQLiteSession",
        "runstream.view.run_view": "RunView view_of",
    }.items()
    for name in names.split()
}

__all__ = [*sorted(_EXPORTS), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'runstream' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
