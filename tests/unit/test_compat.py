"""`install_as_agents()`: the import name `agents` gives our objects."""

from __future__ import annotations

import importlib
import inspect
import logging
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runstream
from runstream.compat import install_as_agents
from runstream.compat.modules import MODULES, OURS

# What scripts for the SDK import from where, and where ours lives.
IMPORTS = [
    ("agents", "Agent", "runstream"),
    ("agents", "RunConfig", "runstream"),
    ("agents", "trace", "runstream.compat.tracing"),
    ("agents", "enable_verbose_stdout_logging", "runstream.compat.event_log"),
    ("agents.agent", "Agent", "runstream"),
    ("agents.agent", "ToolsToFinalOutputResult", "runstream"),
    ("agents.agent_output", "AgentOutputSchemaBase", "runstream"),
    ("agents.decorators", "function_tool", "runstream"),
    ("agents.exceptions", "MaxTurnsExceeded", "runstream"),
    ("agents.exceptions", "InputGuardrailTripwireTriggered", "runstream"),
    ("agents.extensions.handoff_filters", "remove_all_tools", "runstream.compat.handoff_filters"),
    ("agents.extensions.handoff_prompt", "RECOMMENDED_PROMPT_PREFIX", "runstream.compat.handoff_prompt"),
    ("agents.function_schema", "function_schema", "runstream.agent.schema"),
    ("agents.guardrail", "input_guardrail", "runstream"),
    ("agents.handoffs", "HandoffInputData", "runstream"),
    ("agents.items", "TResponseInputItem", "runstream"),
    ("agents.items", "ItemHelpers", "runstream"),
    ("agents.items", "TResponseStreamEvent", "runstream.agent.items"),
    ("agents.lifecycle", "RunHooksBase", "runstream.agent.hooks"),
    ("agents.memory", "SQLiteSession", "runstream"),
    ("agents.memory", "SessionInputCallback", "runstream.run.config"),
    ("agents.memory.session", "SessionABC", "runstream"),
    ("agents.model_settings", "ModelSettings", "runstream"),
    ("agents.models", "get_default_model", "runstream"),
    ("agents.models.chatcmpl_converter", "Converter", "runstream.compat.chat_completions"),
    ("agents.models.interface", "ModelProvider", "runstream"),
    ("agents.models.multi_provider", "MultiProviderMap", "runstream"),
    ("agents.models.openai_chatcompletions", "OpenAIChatCompletionsModel", "runstream"),
    ("agents.models.openai_provider", "OpenAIProvider", "runstream"),
    ("agents.models.openai_responses", "OpenAIResponsesModel", "runstream"),
    ("agents.models.openai_responses", "Converter", "runstream.compat.responses"),
    ("agents.result", "RunResultBase", "runstream.run.result"),
    ("agents.retry", "retry_policies", "runstream"),
    ("agents.run", "Runner", "runstream"),
    ("agents.run", "RunConfig", "runstream"),
    ("agents.run", "DEFAULT_MAX_TURNS", "runstream.run.config"),
    ("agents.run_context", "RunContextWrapper", "runstream"),
    ("agents.stream_events", "RawResponsesStreamEvent", "runstream"),
    ("agents.strict_schema", "ensure_strict_json_schema", "runstream.agent.strict_schema"),
    ("agents.testing", "ScriptedModel", "runstream.testing"),
    ("agents.tool", "FunctionTool", "runstream"),
    ("agents.tool", "ToolOutputTextDict", "runstream"),
    ("agents.tool_context", "ToolContext", "runstream"),
    ("agents.tracing", "TracingProcessor", "runstream.compat.tracing"),
    ("agents.usage", "Usage", "runstream"),
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The alias, for one test."""
    finders, parent = list(sys.meta_path), logging.getLogger("runstream").parent
    monkeypatch.setattr(sys, "meta_path", finders)
    install_as_agents()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "agents"]:
        del sys.modules[name]
    logging.getLogger("runstream").parent = parent


def run(code: str, *options: str, path: Path | None = None) -> str:
    """What a fresh interpreter prints."""
    environment = {"PYTHONPATH": str(path)} if path else None
    result = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return result.stdout


@pytest.mark.parametrize(("module", "name", "home"), IMPORTS)
def test_each_name_is_our_object(installed: None, module: str, name: str, home: str) -> None:
    """A name of the SDK, imported from where the SDK has it, is the very object of ours."""
    scope: dict[str, Any] = {}
    exec(f"from {module} import {name} as imported", scope)
    assert scope["imported"] is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_holds_what_it_lists(installed: None, module: str) -> None:
    """`__all__` and `dir` of every stand-in name what is there, and a star import takes it."""
    found = importlib.import_module(module)
    assert {*found.__all__} <= {*dir(found)}
    scope: dict[str, Any] = {}
    exec(f"from {module} import *", scope)
    assert {*found.__all__} == {*scope} - {"__builtins__"}


def test_modules_are_imported_in_every_manner(installed: None) -> None:
    """Attributes of the package, `import … as`, and importlib give the same module."""
    import agents  # type: ignore[import-not-found]
    import agents.run as run_module  # type: ignore[import-not-found]

    assert agents.run is run_module is importlib.import_module("agents.run")
    assert agents.items.ItemHelpers is runstream.ItemHelpers
    assert agents.__version__ == runstream.__version__


def test_star_import_leaves_our_own_names_out(installed: None) -> None:
    """What nobody expects to come from the SDK (`Event`, `Clock`) is there by name only."""
    import agents

    assert not {*agents.__all__} & OURS
    assert {*runstream.__all__} >= OURS
    assert agents.Event is runstream.Event


def test_modules_hand_on_what_the_sdk_imports_into_them(installed: None) -> None:
    """Names that the SDK's modules merely import themselves can be had from them, too."""
    from agents.result import RunItem  # type: ignore[import-not-found]

    assert RunItem is runstream.RunItem


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("from agents import AgentRunner", "agents.AgentRunner"),
        ("from agents.items import Nothing", "agents.items.Nothing"),
        ("from agents import Agent, mcp", "agents.mcp"),
        ("import agents.voice", "agents.voice"),
        ("import agents.realtime.agent", "agents.realtime"),
        ("from agents.mcp import MCPServerStdio", "agents.mcp"),
        ("from agents.tracing.processors import BatchTraceProcessor", "agents.tracing.processors"),
        ("from agents.extensions.memory import SQLAlchemySession", "agents.extensions.memory"),
    ],
)
def test_what_is_not_there_says_so(installed: None, statement: str, name: str) -> None:
    """A name or a module that we do not offer is an ImportError that names it and the document."""
    with pytest.raises(ImportError) as caught:
        exec(statement, {})
    assert f"{name!r} is not offered" in str(caught.value)
    assert "docs/compatibility.md" in str(caught.value)


def test_programs_can_ask_what_is_there(installed: None) -> None:
    """`hasattr` and `getattr` with a default work on the stand-ins, and dunders are not made up."""
    import agents

    assert not hasattr(agents, "AgentRunner")
    assert getattr(agents, "AgentRunner", None) is None
    assert not hasattr(agents.items, "__file__")
    with pytest.raises(AttributeError, match="is not offered"):
        _ = agents.AgentRunner


def test_pickle_and_inspect_see_the_real_modules(installed: None) -> None:
    """Objects keep the modules that they are defined in."""
    from agents import Agent, ModelSettings, function_tool  # noqa: F401
    from agents.agent import Agent as same  # type: ignore[import-not-found]

    settings = pickle.loads(pickle.dumps(ModelSettings(temperature=0.5)))
    assert settings == runstream.ModelSettings(temperature=0.5)
    assert same.__module__ == "runstream.agent.agent"
    assert inspect.getmodule(Agent) is sys.modules["runstream.agent.agent"]
    assert inspect.getmodule(inspect.currentframe()) is inspect.getmodule(test_each_name_is_our_object)


def test_installing_twice_changes_nothing(installed: None) -> None:
    """The second call leaves the first one's modules in place."""
    import agents

    before = list(sys.meta_path)
    install_as_agents()
    assert sys.meta_path == before
    assert sys.modules["agents"] is agents


def test_our_records_pass_through_the_sdks_logger(installed: None, caplog: pytest.LogCaptureFixture) -> None:
    """A program that sets the level of `openai.agents` sets ours, and sees each record once."""
    logging.getLogger("openai.agents").setLevel(logging.DEBUG)
    try:
        logging.getLogger("runstream").debug("something happened")
    finally:
        logging.getLogger("openai.agents").setLevel(logging.NOTSET)
    assert [record.message for record in caplog.records] == ["something happened"]


def write_sdk(folder: Path) -> Path:
    """Something that looks like the SDK, installed."""
    (folder / "agents").mkdir()
    (folder / "agents" / "__init__.py").write_text("Agent = 'the SDK'\n")
    (folder / "agents" / "voice.py").write_text("")
    return folder


def test_ours_win_over_an_installed_sdk(tmp_path: Path) -> None:
    """Where the SDK is installed, the alias goes before it, and nothing of it is mixed in."""
    code = (
        "import runstream; runstream.install_as_agents(); import agents; print(agents.Agent is runstream.Agent)\n"
        "try: import agents.voice\n"
        "except ImportError as error: print('not offered' in str(error))"
    )
    assert run(code, path=write_sdk(tmp_path)) == "True\nTrue\n"


def test_too_late_is_an_error(tmp_path: Path) -> None:
    """Where the SDK is imported already, the error says from where and what to do."""
    code = (
        "import agents, runstream\n"
        "try: runstream.install_as_agents()\n"
        "except runstream.UserError as error: print(error)"
    )
    printed = run(code, path=write_sdk(tmp_path))
    assert str(tmp_path) in printed
    assert "before the first `import agents`" in printed


def test_without_the_alias_nothing_is_changed() -> None:
    """Importing runstream alone claims no other name."""
    code = (
        "import sys, runstream.compat; print('agents' in sys.modules, any('_Finder' in repr(f) for f in sys.meta_path))"
    )
    assert run(code) == "False False\n"


def test_the_alias_is_light() -> None:
    """`import agents` loads no more than `import runstream` does."""
    heavy = ("openai", "pydantic", "aiohttp", "griffe", "sqlite3", "httpx2")
    code = (
        "import sys, runstream; runstream.install_as_agents(); from agents import Agent, Runner, function_tool, trace; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert run(code) == "[]\n"


DOCUMENT = Path(__file__).parents[2] / "docs/compatibility.md"
NOT_YET = DOCUMENT.read_text().partition("## What is not there yet")[2]
IMPORT_ERRORS = [
    name
    for row in NOT_YET.splitlines()
    if "`ImportError`" in row
    for name in re.findall(r"`([\w.]+)`", row.split("|")[2])
    if name != "needs_approval"
]


@pytest.mark.parametrize("name", IMPORT_ERRORS)
def test_the_document_tells_what_is_not_there(installed: None, name: str) -> None:
    """Each name that docs/compatibility.md says to be missing is an ImportError that points back to it."""
    statement = f"import {name}" if name.startswith("agents.") else f"from agents import {name}"
    with pytest.raises(ImportError, match=r"docs/compatibility\.md"):
        exec(statement, {})
