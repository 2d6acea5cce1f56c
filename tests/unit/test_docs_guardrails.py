"""The code in docs/guardrails.md runs as it stands there, one block after the other, and its figures are right."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from runstream import Agent, GuardrailFunctionOutput, RunConfig, Runner, StreamGuardrail, Window
from runstream.testing import FakeClock, ScriptedModel, ToolCall, say

DOCUMENT = Path(__file__).parents[2] / "docs/guardrails.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
ROW = re.compile(r"^\| `(\w+=[^`]*)` \| (at once|300 ms) \|" + r" ([^|]*) \|" * 5 + "$", re.MULTILINE)
ROWS = ROW.findall(DOCUMENT.read_text())


async def run(block: str, names: dict[str, Any]) -> None:
    waiting = eval(compile(block, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(waiting):
        await waiting


async def test_the_document_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block does what the text around it says."""
    names: dict[str, Any] = {}
    models = [ScriptedModel(["never"]), ScriptedModel(["5 $"])]
    both, tools, log, streams, figures = BLOCKS
    made = Agent.__init__

    def with_model(self: Any, *arguments: Any, **fields: Any) -> None:
        made(self, *arguments, **{"model": models[0], **fields})

    monkeypatch.setattr(Agent, "__init__", with_model)
    await run(both, names)
    assert capsys.readouterr().out == "refused: homework\n"
    models[0] = models[1]
    await run(both.replace("Do my homework.", "What is it?"), names)
    assert capsys.readouterr().out == "withheld: 5 $\n"

    await run(tools, names)
    models[0] = ScriptedModel([[ToolCall("pay", {"amount": 5}), ToolCall("pay", {"amount": 500})], "Done."])
    result = await Runner.run(Agent(name="Desk", tools=[names["pay"]]), "Pay.")
    outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert sorted(outputs) == ["At most 100 at once.", "paid 5"]

    models[0] = ScriptedModel(["It is 4111 1111 1111 1112."])
    await run(streams, names)
    with pytest.raises(names["OutputGuardrailTripwireTriggered"]):
        await run(figures, names)
    assert "4111" not in str([event.data async for event in names["result"].events()])
    names["agent"].model = ScriptedModel(["I do not know."])
    await run(figures, names)
    assert "checks, held back 0.0" in capsys.readouterr().out
    await run(log, names)
    assert capsys.readouterr().out.startswith("no_card_numbers stream passed 0.0")


@pytest.mark.parametrize("row", ROWS, ids=[" ".join(row[:2]) for row in ROWS])
async def test_the_figures_are_right(row: tuple[str, ...]) -> None:
    """The delays, the first text, the end and the number of checks, with a clock that stands still meanwhile."""
    fields, check, *said = row
    window = Window(**{name: float(size) if name == "seconds" else int(size) for name, size in _pairs(fields)})
    clock = FakeClock()

    async def slow(context: Any, agent: Any, text: Any) -> GuardrailFunctionOutput:
        await clock.sleep(0.3)
        return GuardrailFunctionOutput(None, False)

    def quick(context: Any, agent: Any, text: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, False)

    words = ["the", "of", "answer", "streaming", "hold", "back", "little", "show"]
    tokens = [" " + words[n * 7919 % 104729 % 8] + ("." if n % 14 == 13 else "") for n in range(500)]
    guardrail = StreamGuardrail(quick if check == "at once" else slow, window)
    model = ScriptedModel([say(tokens, every_s=0.02)], clock=clock)
    agent = Agent(name="Ann", model=model, stream_guardrails=[guardrail])
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    began, first = clock.now(), 0.0
    async for event in result.events():
        if not first and event.kind == "model" and event.data.type == "response.output_text.delta":
            first = event.at - began
    took, info = clock.now() - began, result.stream_guardrail_results[0].info
    found = [_time(info.delay_p50_s), _time(info.delay_max_s), f"{first:.2f} s"]
    found += [f"+ {took - 9.98:.2f} s" if took > 9.981 else "+ 0", str(info.checks)]
    assert " | ".join(found) == " | ".join(said)


def _pairs(fields: str) -> list[tuple[str, str]]:
    return [(name, size) for name, _, size in (field.partition("=") for field in fields.split(", "))]


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"
