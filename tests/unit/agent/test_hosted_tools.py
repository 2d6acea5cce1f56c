"""Declarations of the provider's own tools."""

from __future__ import annotations

from typing import Any

from openai.types.responses.web_search_tool import Filters

from runstream.agent.hosted_tools import (
    CodeInterpreterTool,
    FileSearchTool,
    HostedMCPTool,
    ImageGenerationTool,
    WebSearchTool,
)


def test_each_has_the_sdks_name() -> None:
    """The names are those that traces and tool choices use."""
    config: Any = {"type": "x"}
    tools = [
        WebSearchTool(),
        FileSearchTool(["vs_1"]),
        CodeInterpreterTool(config),
        ImageGenerationTool(config),
        HostedMCPTool(config),
    ]
    names = ["web_search", "file_search", "code_interpreter", "image_generation", "hosted_mcp"]
    assert [tool.name for tool in tools] == names


def test_defaults_leave_things_to_the_provider() -> None:
    """Only the size of a search's context has a default of its own."""
    search = WebSearchTool()
    assert (search.search_context_size, search.user_location, search.external_web_access) == ("medium", None, None)
    files = FileSearchTool(["vs_1"])
    assert (files.max_num_results, files.include_search_results, files.filters) == (None, False, None)


def test_filters_of_a_search_may_be_a_dict() -> None:
    """A dict becomes the official object."""
    filters: Any = {"allowed_domains": ["example.com"]}
    assert WebSearchTool(filters=filters).filters == Filters(allowed_domains=["example.com"])


def test_configurations_are_copied() -> None:
    """Changing the given dict later does not change the tool."""
    config: Any = {"type": "mcp", "server_label": "a"}
    for tool in (HostedMCPTool(config), CodeInterpreterTool(config)):
        config["server_label"] = "b"
        assert tool.tool_config["server_label"] == "a"
        config["server_label"] = "a"
