"""What runs amount to, told to whoever looks after them: metrics, traces, alerts, log lines. Off by default.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.observe.hub import Metrics as Metrics
    from runstream.observe.hub import Snapshot as Snapshot
    from runstream.observe.metrics import MetricsFold as MetricsFold
    from runstream.observe.metrics import RunMetrics as RunMetrics
    from runstream.observe.observers import ObservedRun as ObservedRun
    from runstream.observe.observers import Observer as Observer
    from runstream.observe.observers import observe as observe
    from runstream.observe.observers import replay as replay
    from runstream.observe.observers import set_observers as set_observers
    from runstream.observe.otel import OpenTelemetry as OpenTelemetry

_MODULES = {
    "hub": ("Metrics", "Snapshot"),
    "metrics": ("MetricsFold", "RunMetrics"),
    "observers": ("ObservedRun", "Observer", "observe", "replay", "set_observers"),
    "otel": ("OpenTelemetry",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
