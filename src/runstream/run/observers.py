"""Who is told of the runs of this process: two lists of callables, empty unless somebody observes.

Owns the lists. Knows nothing of what is done with them (`runstream.observe` fills them). What is called here runs in
the event loop of the run, must not raise, and must not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["run_observers", "tool_observers"]

run_observers: list[Callable[[Any], None]] = []
"""Called with each `ActiveRun` just before its task begins, in the context that the task will have: context variables
that are set there hold for everything that the run does, and for nothing else."""

tool_observers: list[Callable[[Any, str], None]] = []
"""Called with the `ActiveRun` and the id of a call in the task that runs the tool, before anything of the tool."""
