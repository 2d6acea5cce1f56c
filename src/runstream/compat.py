"""`install_as_agents()`: the import name `agents` gives our objects, in the manner of `pymysql.install_as_MySQLdb`.

One table says which of our modules stand behind which public module of the OpenAI Agents SDK. A name that we do not
offer raises an ImportError that says so, instead of a puzzling one.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

from runstream.errors import UserError

__all__ = ["install_as_agents"]

_ROOT = "agents"

# The SDK's module -> ours, whose public names it gives. The root gives the names of `runstream` itself.
_MODULES: dict[str, tuple[str, ...]] = {
    "agents": ("runstream",),
    "agents.agent": ("runstream.agent.agent", "runstream.agent.tool"),
    "agents.agent_output": ("runstream.agent.output",),
    "agents.exceptions": ("runstream.errors", "runstream.agent.guardrail"),
    "agents.function_schema": ("runstream.agent.schema", "runstream.agent.docstring"),
    "agents.guardrail": ("runstream.agent.guardrail",),
    "agents.handoffs": ("runstream.agent.handoff",),
    "agents.items": ("runstream.agent.items",),
    "agents.lifecycle": ("runstream.agent.hooks",),
    "agents.memory": ("runstream.sessions.base", "runstream.sessions.sqlite"),
    "agents.memory.session": ("runstream.sessions.base",),
    "agents.memory.session_settings": ("runstream.sessions.base",),
    "agents.memory.sqlite_session": ("runstream.sessions.sqlite",),
    "agents.model_settings": ("runstream.agent.settings",),
    "agents.models": ("runstream.agent.settings",),
    "agents.models.chatcmpl_converter": (),
    "agents.models.default_models": ("runstream.agent.settings",),
    "agents.models.interface": ("runstream.agent.model",),
    "agents.models.multi_provider": ("runstream.models.provider",),
    "agents.models.openai_chatcompletions": ("runstream.models.chat_completions",),
    "agents.models.openai_provider": ("runstream.models.provider",),
    "agents.models.openai_responses": ("runstream.models.responses",),
    "agents.prompts": ("runstream.agent.prompt",),
    "agents.result": ("runstream.run.result",),
    "agents.retry": ("runstream.agent.retry",),
    "agents.run": ("runstream.run.runner", "runstream.run.config", "runstream.agent.context"),
    "agents.run_config": ("runstream.run.config",),
    "agents.run_context": ("runstream.agent.context",),
    "agents.run_error_handlers": ("runstream.run.error_handlers",),
    "agents.stream_events": ("runstream.run.stream_events",),
    "agents.strict_schema": ("runstream.agent.strict_schema",),
    "agents.testing": ("runstream.testing",),
    "agents.testing.model": ("runstream.testing",),
    "agents.tool": ("runstream.agent.tool", "runstream.agent.hosted_tools", "runstream.agent.tool_output"),
    "agents.tool_context": ("runstream.agent.tool_context",),
    "agents.tool_guardrails": ("runstream.agent.guardrail",),
    "agents.usage": ("runstream.agent.usage",),
    "agents.version": ("runstream",),
}
_PACKAGES = ("agents", "agents.memory", "agents.models", "agents.testing")


def install_as_agents() -> None:
    """Make `import agents`, `from agents.items import …` and the like give this package's objects.

    Call it before anything imports `agents`: raises UserError where the OpenAI Agents SDK itself is imported already.
    Calling it again does nothing.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if _ROOT in sys.modules:
        raise UserError(
            "'agents' is imported already, from "
            f"{getattr(sys.modules[_ROOT], '__file__', None)}: call install_as_agents() before the first import of it"
        )
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in _MODULES:
            return importlib.machinery.ModuleSpec(
                fullname, self, origin="runstream.compat", is_package=fullname in _PACKAGES
            )
        if fullname.startswith(f"{_ROOT}."):
            raise ModuleNotFoundError(
                f"runstream stands in for 'agents' here, and does not offer {fullname!r}", name=fullname
            )
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__

        def find(attribute: str) -> Any:
            if not attribute.startswith("__"):
                for source in _MODULES[name]:
                    try:
                        return getattr(importlib.import_module(source), attribute)
                    except AttributeError:
                        continue
                if name == _ROOT and attribute in _TRACING:
                    return _TRACING[attribute]
                if f"{name}.{attribute}" in _MODULES:
                    return importlib.import_module(f"{name}.{attribute}")
            raise AttributeError(f"runstream stands in for {name!r} here, and does not offer {attribute!r}")

        module.__getattr__ = find  # type: ignore[method-assign]
        names = [entry for source in _MODULES[name] for entry in importlib.import_module(source).__all__]
        module.__all__ = [entry for entry in dict.fromkeys(names) if not entry.startswith("__")]  # type: ignore[attr-defined]
        if name in (_ROOT, "agents.version"):
            module.__version__ = importlib.import_module("runstream").__version__  # type: ignore[attr-defined]


def _set_tracing_disabled(disabled: bool) -> None:
    """Nothing to switch: this package sends no traces to anybody."""


def _set_tracing_export_api_key(api_key: str) -> None:
    """Nothing to authorise: this package sends no traces to anybody."""


# Scripts written for the SDK call these to keep it from tracing to OpenAI; here that holds from the start.
_TRACING: dict[str, Any] = {
    "set_tracing_disabled": _set_tracing_disabled,
    "set_tracing_export_api_key": _set_tracing_export_api_key,
}
