"""What is measured and what is aimed at, as data: loads, the figures taken from them, and the goals.

Knows nothing of processes and environments. A figure is looked up as `(measure, subject)` in a `Figures` table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "CORE",
    "GOALS",
    "LOADS",
    "MEASURES",
    "PEERS",
    "TITLES",
    "Command",
    "Figures",
    "Goal",
    "Load",
    "Measure",
    "Stream",
    "figure_of",
    "goals_of",
]

Figures: TypeAlias = Mapping[str, Mapping[str, float]]

OURS = "runstream"
AGENTS = "openai-agents"
FLOOR = "aiohttp"
CORE = (OURS, AGENTS, "openai", FLOOR)
PEERS = (*CORE, "pydantic-ai", "langgraph")
TITLES = {"openai": "openai client", FLOOR: "aiohttp floor"}
SDKS = (OURS, AGENTS)


@dataclass(frozen=True, slots=True)
class Stream:
    """A load of streamed answers: `runs` of them, at most `concurrency` at a time, all from one process."""

    model: str
    runs: int = 1
    concurrency: int = 1
    api: Literal["responses", "chat"] = "responses"
    read: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """A load that is the start of a process: an import, a whole script up to its first delta, or `--help`."""

    kind: Literal["import", "script", "help"]


@dataclass(frozen=True, slots=True)
class Load:
    """One load, in full and in short, the subjects that can do it, and how often it is worth repeating."""

    name: str
    full: Stream | Command
    quick: Stream | Command
    subjects: tuple[str, ...] = PEERS
    quick_subjects: tuple[str, ...] = PEERS
    repetitions: int = 5


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table: a figure of a load's row (`key`), with its title and unit."""

    name: str
    load: str
    key: str
    title: str
    unit: str


@dataclass(frozen=True, slots=True)
class Goal:
    """runstream's figure is at most `factor` times that of `measure` of `against`, plus `plus` (same unit)."""

    of: str
    text: str
    against: str | None = None
    measure: str | None = None
    factor: float = 1.0
    plus: float = 0.0


LOADS = (
    Load("fast", Stream("text-2000", runs=20), Stream("text-2000", runs=8)),
    Load(
        "paced",
        Stream("text-100-every-50", runs=100, concurrency=100),
        Stream("text-40-every-50", runs=100, concurrency=100),
        quick_subjects=(*SDKS, FLOOR),
        repetitions=3,
    ),
    Load(
        "memory",
        Stream("text-200-every-50", runs=500, concurrency=500),
        Stream("text-60-every-50", runs=500, concurrency=500),
        quick_subjects=SDKS,
        repetitions=3,
    ),
    Load(
        "memory-calm",
        Stream("text-20-every-500", runs=500, concurrency=500),
        Stream("text-20-every-500", runs=500, concurrency=500),
        quick_subjects=(),
        repetitions=2,
    ),
    Load("growth-read", Stream("text-200000"), Stream("text-200000"), SDKS, (OURS,), 2),
    Load("growth-unread", Stream("text-200000", read=False), Stream("text-200000", read=False), SDKS, (OURS,), 2),
    Load("first-delta", Stream("text-20", runs=300), Stream("text-20", runs=100)),
    Load(
        "chat",
        Stream("text-2000", runs=20, api="chat"),
        Stream("text-2000", runs=8, api="chat"),
        tuple(name for name in PEERS if name != FLOOR),
    ),
    Load("import", Command("import"), Command("import"), SDKS, SDKS),
    Load("script", Command("script"), Command("script"), SDKS, SDKS),
    Load("help", Command("help"), Command("help"), (OURS,), (OURS,)),
)

MEASURES = (
    Measure("fast", "fast", "cpu_us_per_delta", "CPU per text delta, 2,000 deltas as fast as possible", "µs"),
    Measure("paced", "paced", "cpu_us_per_delta", "CPU per text delta, 100 streams, one delta every 50 ms", "µs"),
    Measure("memory", "memory", "kb_per_stream", "memory per stream, 500 streams, one delta every 50 ms", "kB"),
    Measure("memory-calm", "memory-calm", "kb_per_stream", "memory per stream, 500 streams, one every 500 ms", "kB"),
    Measure("growth-read", "growth-read", "growth_mb", "growth of the process, 200,000 deltas, read", "MB"),
    Measure("growth-unread", "growth-unread", "growth_mb", "growth of the process, 200,000 deltas, unread", "MB"),
    Measure("first-p50", "first-delta", "first_ms_p50", "time to first delta, median", "ms"),
    Measure("first-p99", "first-delta", "first_ms_p99", "time to first delta, 99th percentile", "ms"),
    Measure("chat", "chat", "cpu_us_per_delta", "CPU per text delta, Chat Completions, as fast as possible", "µs"),
    Measure("import-cpu", "import", "cpu_s", "import of Agent, Runner, function_tool, CPU", "s"),
    Measure("import", "import", "wall_s", "import of Agent, Runner, function_tool, wall", "s"),
    Measure("script", "script", "first_delta_s", "process start to first delta of a script", "s"),
    Measure("help-cpu", "help", "cpu_s", "`runstream --help`, CPU", "s"),
    Measure("help", "help", "wall_s", "`runstream --help`, wall", "s"),
)

GOALS = (
    Goal("fast", "at most 1/15 of openai-agents", AGENTS, factor=1 / 15),
    Goal("fast", "at most 3 times the floor", FLOOR, factor=3),
    Goal("paced", "at most 1/5 of openai-agents", AGENTS, factor=1 / 5),
    Goal("paced", "at most 1.5 times the floor", FLOOR, factor=1.5),
    Goal("memory", "at most 1/4 of openai-agents", AGENTS, factor=1 / 4),
    Goal("growth-read", "at most 40 MB", plus=40),
    Goal("growth-unread", "at most 40 MB", plus=40),
    Goal("first-p50", "at most 1.5 ms over the floor", FLOOR, plus=1.5),
    Goal("first-p99", "at most 1.5 ms over the floor", FLOOR, plus=1.5),
    Goal("chat", "at most 1.5 times the Responses path", OURS, measure="fast", factor=1.5),
    Goal("import", "at most 0.4 s", plus=0.4),
    Goal("import", "at most 1/3 of openai-agents", AGENTS, factor=1 / 3),
    Goal("script", "at most 2/3 of openai-agents", AGENTS, factor=2 / 3),
    Goal("help", "at most 0.4 s", plus=0.4),
)


def figure_of(figures: Figures, measure: str, subject: str) -> float | None:
    """The figure, or None where it was not measured."""
    return figures.get(measure, {}).get(subject)


def goals_of(figures: Figures) -> list[tuple[Goal, float, float, bool]]:
    """Each goal whose figures were measured: the goal, the limit, runstream's figure, and whether it holds."""
    judged: list[tuple[Goal, float, float, bool]] = []
    for goal in GOALS:
        figure = figure_of(figures, goal.of, OURS)
        base = 0.0 if goal.against is None else figure_of(figures, goal.measure or goal.of, goal.against)
        if figure is None or base is None:
            continue
        limit = base * goal.factor + goal.plus
        judged.append((goal, limit, figure, figure <= limit))
    return judged
