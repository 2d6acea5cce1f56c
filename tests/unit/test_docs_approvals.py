"""The code in docs/approvals.md runs as it stands there, one block after the other."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from openai.types.responses.response_output_item import McpApprovalRequest

from runstream import Runner
from runstream.testing import ScriptedModel, ToolCall

DOCUMENT = Path(__file__).parents[2] / "docs/approvals.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

REFUND = ToolCall("refund", {"order": 7, "amount": 20})
DISCOUNT = ToolCall("discount", {"order": 7, "amount": 200})
SMALL = ToolCall("discount", {"order": 7, "amount": 5})


async def run(block: str, names: dict[str, Any]) -> None:
    waiting = eval(compile(block, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(waiting):
        await waiting


async def test_the_document_runs(capsys: Any) -> None:
    """Each block does what the text around it says."""
    names: dict[str, Any] = {}
    tools, ends, kept, waits, hosted = BLOCKS
    await run(tools, names)
    agent = names["agent"]

    agent.model = ScriptedModel([[REFUND, DISCOUNT, SMALL], "Refunded."])
    await run(ends, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        'Desk wants refund({"order":7,"amount":20})',
        'Desk wants discount({"order":7,"amount":200})',
        "Refunded.",
    ]
    told = [item.output for item in names["result"].new_items if item.type == "tool_call_output_item"]
    assert sorted(told) == ["5.0 off order 7", "Ask the customer first.", "refunded 20.0 for order 7"]

    agent.model = ScriptedModel([REFUND, "Refunded."])
    await run(kept, names)
    assert (names["result"].final_output, names["result"].context_wrapper.context) == ("Refunded.", {"user": 42})

    agent.model = ScriptedModel([REFUND, "Refunded."])
    await run(waits, names)
    assert capsys.readouterr().out == "Refunded.\n"

    await run(hosted, names)
    ask = McpApprovalRequest(
        id="m1", type="mcp_approval_request", name="write_all", server_label="files", arguments="{}"
    )
    agent.tools, agent.model = [names["files"]], ScriptedModel([[ask], "As you wish."])
    await Runner.run(agent, "Tidy up.")
    assert agent.model.calls[1].input[-1]["reason"] == "Reading only."
