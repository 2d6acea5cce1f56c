"""What runs amount to, told to whoever looks after them: metrics, traces, alerts, log lines. Off by default.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.observe.alerts import Alert as Alert
    from runstream.observe.alerts import AlertRule as AlertRule
    from runstream.observe.alerts import Alerts as Alerts
    from runstream.observe.alerts import breaker_open as breaker_open
    from runstream.observe.alerts import error_rate as error_rate
    from runstream.observe.alerts import first_text_p95 as first_text_p95
    from runstream.observe.alerts import stall_rate as stall_rate
    from runstream.observe.hub import Metrics as Metrics
    from runstream.observe.hub import Snapshot as Snapshot
    from runstream.observe.logging import JsonFormatter as JsonFormatter
    from runstream.observe.logging import RunLogger as RunLogger
    from runstream.observe.metrics import MetricsFold as MetricsFold
    from runstream.observe.metrics import RunMetrics as RunMetrics
    from runstream.observe.observers import ObservedRun as ObservedRun
    from runstream.observe.observers import Observer as Observer
    from runstream.observe.observers import observe as observe
    from runstream.observe.observers import replay as replay
    from runstream.observe.observers import set_observers as set_observers
    from runstream.observe.otel import OpenTelemetry as OpenTelemetry
    from runstream.observe.prometheus import PrometheusCollector as PrometheusCollector
    from runstream.observe.prometheus import start_prometheus as start_prometheus
    from runstream.observe.webhook import Webhook as Webhook

_MODULES = {
    "alerts": ("Alert", "AlertRule", "Alerts", "breaker_open", "error_rate", "first_text_p95", "stall_rate"),
    "hub": ("Metrics", "Snapshot"),
    "logging": ("JsonFormatter", "RunLogger"),
    "metrics": ("MetricsFold", "RunMetrics"),
    "observers": ("ObservedRun", "Observer", "observe", "replay", "set_observers"),
    "otel": ("OpenTelemetry",),
    "prometheus": ("PrometheusCollector", "start_prometheus"),
    "webhook": ("Webhook",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
