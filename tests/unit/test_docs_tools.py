"""The code in docs/tools-and-nested-agents.md runs as it stands there, one block after the other."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from runstream import Agent, Runner
from runstream.testing import ScriptedModel, ToolCall

DOCUMENT = Path(__file__).parents[2] / "docs/tools-and-nested-agents.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


async def run(block: str, names: dict[str, Any]) -> None:
    waiting = eval(compile(block, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(waiting):
        await waiting


def with_models(block: str, **models: str) -> str:
    """The block, with the models that the document leaves to the reader."""
    for name, model in models.items():
        block = block.replace(f'Agent(name="{name}"', f'Agent(name="{name}", model={model}')
        block = block.replace(f'Agent(\n    name="{name}"', f'Agent(\n    model={model}, name="{name}"')
    return block


async def test_the_document_runs(capsys: Any) -> None:
    """Each block does what the text around it says."""
    names: dict[str, Any] = {}
    tools, reports, nested, structured, approvals, output, arguments = BLOCKS
    await run(tools, names)

    calls = [ToolCall("search", {"question": "letters"}), ToolCall("download", {"url": "a"})]
    names["agent"] = Agent(
        name="Clerk", model=ScriptedModel([[calls[0]], [calls[1]], "done"]), tools=[names["search"], names["download"]]
    )
    await run(reports, names)
    assert capsys.readouterr().out.splitlines() == [
        "search looking at 1998",
        "search three letters found",
        "download {'percent': 25}",
        "download {'percent': 50}",
        "download {'percent': 100}",
    ]

    names["writers"] = ScriptedModel([ToolCall("research", {"input": "1998"}), "Dear reader"])
    names["researchers"] = ScriptedModel([ToolCall("search", {"question": "1998"}), "Three letters."])
    await run(with_models(nested, Writer="writers", Researcher="researchers"), names)
    assert capsys.readouterr().out.splitlines() == [
        "Writer: tool_called",
        "  Researcher: tool_called",
        "  Researcher: tool_output",
        "  Researcher: message_output_created",
        "Writer: tool_output",
        "Writer: message_output_created",
    ]

    await run(structured, names)
    assert names["tool"].params_json_schema["required"] == ["subject", "year"]

    names["chiefs"] = ScriptedModel([ToolCall("edit", {"input": "letters"}), "It is done."])
    names["editors"] = ScriptedModel([ToolCall("publish", {"title": "Letters"}), "Published."])
    await run(with_models(approvals, Chief="chiefs", Editor="editors"), names)
    assert names["result"].final_output == "It is done."

    names["clerks"] = ScriptedModel(['{"to":"the mayor","lines":["Dear"]}'])
    await run(with_models(output, Clerk="clerks"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == ["{'to': 'the mayor', 'lines': ['Dear']}", "to='the mayor' lines=['Dear']"]

    agent = Agent(name="Clerk", model=ScriptedModel([[calls[1]], "done"]), tools=[names["download"]])
    names["result"] = Runner.run_streamed(agent, "hi")
    await run(arguments, names)
    assert capsys.readouterr().out.splitlines()[-1] == "{'url': 'a'}"
