"""Rows in, Markdown out: the conditions, the table of figures, the goals, and the page that holds them. No I/O but for
what the conditions name: the machine and the date."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.loads import AGENTS, MEASURES, OURS, PEERS, TITLES, Figures, figure_of, goals_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["conditions", "failures_of", "figures_of", "put_section", "section"]

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def figures_of(rows: Iterable[Mapping[str, Any]]) -> Figures:
    """The median of each measure for each subject, over the repetitions that have it."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float):
                values.setdefault((row["load"], row["subject"], key), []).append(value)
    figures: dict[str, dict[str, float]] = {}
    for measure in MEASURES:
        for subject in PEERS:
            found = values.get((measure.load, subject, measure.key))
            if found:
                figures.setdefault(measure.name, {})[subject] = statistics.median(found)
    return figures


def conditions(versions: Mapping[str, Mapping[str, str]], *, quick: bool, repetitions: int) -> str:
    """One paragraph: where, when and with which versions the figures were measured."""
    packages: dict[str, set[str]] = {}
    for found in versions.values():
        for name, version in found.items():
            packages.setdefault(name, set()).add(version)
    listed = ", ".join(f"{name} {' / '.join(sorted(found))}" for name, found in packages.items())
    size = "short loads" if quick else "full loads"
    times = "once" if repetitions == 1 else f"up to {repetitions} times, interleaved; medians"
    return (
        f"{_cpu()}, {os.cpu_count()} cores, {platform.system()}, {platform.python_implementation()} "
        f"{platform.python_version()}, {datetime.date.today().isoformat()}; {size}, {times}. Packages: {listed}."
    )


def section(rows: Sequence[Mapping[str, Any]], conditions_line: str) -> str:
    """The conditions, the table of figures and the table of goals, as Markdown, and what failed or was left out."""
    figures = figures_of(rows)
    parts = [conditions_line, _figures_table(figures), _goals_table(figures)]
    if any(row.get("growth_mb", 0.0) is None for row in rows):
        parts.append("Memory was not measured: this system has no /proc to read it from.")
    parts += [f"Failed: {failure}" for failure in failures_of(rows)]
    return "\n\n".join(parts) + "\n"


def failures_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each subject that failed at a load: the last of what it said."""
    failed = {(row["load"], row["subject"]): row["failed"] for row in rows if "failed" in row}
    return [f"{load} of {subject}: {why.splitlines()[-1]}" for (load, subject), why in failed.items()]


def put_section(page: str, text: str, first: str = BEGIN, last: str = END) -> str:
    """The page with what stands between the two markers replaced. Raises ValueError where a marker is missing."""
    head, begin, rest = page.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page needs a line {first} and, below it, a line {last}")
    return f"{head}{first}\n{text}{last}{tail}"


def _figures_table(figures: Figures) -> str:
    subjects = [name for name in PEERS if any(name in row for row in figures.values())]
    ours = OURS in subjects
    lines = [
        _row(
            ["measured", *(TITLES.get(name, name) for name in subjects), *(["against openai-agents"] if ours else [])]
        ),
        _row(["---", *("---:" for _ in subjects), *(["---:"] if ours else [])]),
    ]
    for measure in MEASURES:
        if measure.name not in figures:
            continue
        cells = [_shown(figure_of(figures, measure.name, name)) for name in subjects]
        mine, theirs = (figure_of(figures, measure.name, name) for name in (OURS, AGENTS))
        if ours:
            cells.append(f"{theirs / mine:.1f} times less" if mine and theirs and theirs > mine else "")
        lines.append(_row([f"{measure.title} ({measure.unit})", *cells]))
    return "\n".join(lines)


def _goals_table(figures: Figures) -> str:
    units = {measure.name: measure for measure in MEASURES}
    lines = [_row(["goal", "limit", "measured", "holds"]), _row(["---", "---:", "---:", "---"])]
    for goal, limit, figure, holds in goals_of(figures):
        measure = units[goal.of]
        values = [f"{_shown(value)} {measure.unit}" for value in (limit, figure)]
        lines.append(_row([f"{measure.title}: {goal.text}", *values, "yes" if holds else "**no**"]))
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
