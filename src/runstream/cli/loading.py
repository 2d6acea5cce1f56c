"""Agents by what is written on a command line: `MODULE:AGENT`, found from the current folder on."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from runstream.agent.agent import Agent

__all__ = ["is_reference", "load_agents"]

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_reference(text: str) -> bool:
    """Whether this has the form `package.module:attribute`."""
    return _REFERENCE.fullmatch(text) is not None


def load_agents(references: Iterable[str]) -> list[Agent[Any]]:
    """The agents, or lists of agents, that these name; each once.

    Raises click.UsageError for what names none. What a module itself raises while it is imported goes up as it is.
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    agents: list[Agent[Any]] = []
    for reference in references:
        agents += [agent for agent in _load(reference) if agent not in agents]
    return agents


def _load(reference: str) -> list[Agent[Any]]:
    from runstream.agent.agent import Agent

    name, _, attribute = reference.partition(":")
    if not is_reference(reference) or name.endswith(".py"):
        hint = ""
        if name.endswith(".py"):
            module = name.removesuffix(".py").replace(os.sep, ".").strip(".")
            hint = f"; say {module}:{attribute or 'AGENT'}"
        raise click.UsageError(f"{reference!r} does not have the form MODULE:AGENT, as in support:desk{hint}")
    module = _import(name, reference)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            there = [key for key, value in vars(module).items() if isinstance(value, Agent)]
            has = f"it has {', '.join(there)}" if there else "no agent is there"
            raise click.UsageError(f"the module {name!r} has no {attribute!r}: {has}")
        found = getattr(found, part)
    several = cast("list[object]", found if isinstance(found, list | tuple) else [found])
    for each in several:
        if not isinstance(each, Agent):
            kind = type(each)
            raise click.UsageError(
                f"{reference} is no runstream Agent, nor a list of them, but of {kind.__module__}.{kind.__qualname__}"
            )
    return cast("list[Agent[Any]]", several)


def _import(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise  # something that the module itself imports
        raise click.UsageError(
            f"there is no module {missing!r} for {reference}: modules are looked for in {os.getcwd()} and where Python "
            "finds installed ones"
        ) from error
