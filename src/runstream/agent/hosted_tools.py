"""Tools that the provider runs itself: declarations that are sent along with a request, and nothing to call.

Owns their settings. Must not know requests: `runstream.models` turns each into its form of the Responses API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypeAlias, cast

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from openai.types.responses.file_search_tool_param import Filters, RankingOptions
    from openai.types.responses.response_output_item import McpApprovalRequest
    from openai.types.responses.tool_param import CodeInterpreter, ImageGeneration, Mcp
    from openai.types.responses.web_search_tool import Filters as WebSearchToolFilters
    from openai.types.responses.web_search_tool_param import UserLocation

    from runstream.agent.context import RunContextWrapper

__all__ = [
    "CodeInterpreterTool",
    "FileSearchTool",
    "HostedMCPTool",
    "ImageGenerationTool",
    "MCPToolApprovalFunction",
    "MCPToolApprovalFunctionResult",
    "MCPToolApprovalRequest",
    "WebSearchTool",
]


@dataclass
class FileSearchTool:
    """Lets the model search vector stores."""

    vector_store_ids: list[str]
    max_num_results: int | None = None
    """From 1 to 50; None or 0 leaves it to the provider."""
    include_search_results: bool = False
    """Whether the response also holds what was found."""
    ranking_options: RankingOptions | None = None
    filters: Filters | None = None
    """A condition on the files' attributes."""

    @property
    def name(self) -> str:
        return "file_search"


@dataclass
class WebSearchTool:
    """Lets the model search the web."""

    user_location: UserLocation | None = None
    """Where the user is, to prefer results from there."""
    filters: WebSearchToolFilters | None = None
    """Which domains to search; may be given as a dict."""
    search_context_size: Literal["low", "medium", "high"] = "medium"
    external_web_access: bool | None = None
    """False searches only what the provider has stored; None leaves it to the provider."""
    search_content_types: list[Literal["text", "image"]] | None = None
    """What to look for; by default text."""
    image_settings: dict[str, Any] | None = None
    """How to look for images (`max_results`, ...)."""

    def __post_init__(self) -> None:
        if isinstance(self.filters, dict):
            from openai.types.responses.web_search_tool import Filters

            self.filters = Filters.model_validate(self.filters)

    @property
    def name(self) -> str:
        return "web_search"


@dataclass
class CodeInterpreterTool:
    """Lets the model run Python in a container of the provider."""

    tool_config: CodeInterpreter

    def __post_init__(self) -> None:
        self.tool_config = cast("CodeInterpreter", dict(self.tool_config))

    @property
    def name(self) -> str:
        return "code_interpreter"


@dataclass
class ImageGenerationTool:
    """Lets the model make images."""

    tool_config: ImageGeneration

    @property
    def name(self) -> str:
        return "image_generation"


@dataclass
class MCPToolApprovalRequest:
    """The model wants to call a tool of a hosted MCP server that needs approval."""

    ctx_wrapper: RunContextWrapper[Any]
    data: McpApprovalRequest


class MCPToolApprovalFunctionResult(TypedDict):
    """The answer to a `MCPToolApprovalRequest`."""

    approve: bool
    reason: NotRequired[str]
    """Why not; the model gets to know it."""


MCPToolApprovalFunction: TypeAlias = Callable[
    [MCPToolApprovalRequest], MCPToolApprovalFunctionResult | Awaitable[MCPToolApprovalFunctionResult]
]
"""Approves or rejects a call of a hosted MCP tool; plain or async."""


@dataclass
class HostedMCPTool:
    """Lets the model call the tools of a remote MCP server, from the provider's side."""

    tool_config: Mcp
    """The server's URL or connector, its label, and which of its tools need approval."""
    on_approval_request: MCPToolApprovalFunction | None = None

    def __post_init__(self) -> None:
        self.tool_config = cast("Mcp", dict(self.tool_config))

    @property
    def name(self) -> str:
        return "hosted_mcp"
