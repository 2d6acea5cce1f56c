"""What the spans of a run are recorded with: the measurements of the conventions, and what was chosen for all runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runstream.observe.otel_names import (
    AGENT_DURATION,
    DURATION_BOUNDS_S,
    FIRST_CHUNK,
    INFERENCE_DURATION,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    TOOL_DURATION,
    WORKFLOW_DURATION,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["Instruments", "Recording"]


class Instruments:
    """The measurements of the conventions."""

    def __init__(self, meter: Any) -> None:
        def durations(name: str, description: str) -> Any:
            return meter.create_histogram(
                name,
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=list(DURATION_BOUNDS_S),
            )

        self.inference = durations(INFERENCE_DURATION, "GenAI client inference operation duration.")
        self.first_chunk = durations(FIRST_CHUNK, "Time to receive the first chunk.")
        self.tool = durations(TOOL_DURATION, "GenAI tool execution duration.")
        self.agent = durations(AGENT_DURATION, "GenAI agent invocation duration.")
        self.workflow = durations(WORKFLOW_DURATION, "Records duration of GenAI workflow.")
        self.input_tokens = meter.create_counter(INPUT_TOKENS, unit="{token}", description="Input tokens used.")
        self.output_tokens = meter.create_counter(OUTPUT_TOKENS, unit="{token}", description="Output tokens used.")


@dataclass(frozen=True, slots=True)
class Recording:
    """As `OpenTelemetry` was told."""

    tracer: Tracer
    instruments: Instruments
    record_content: bool
    provider_name: str
