"""The benchmarks: their endpoint, probe, tables and command, with tiny sizes and no process started."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

# Not part of the package, so not installed: found beside src/.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import claims, claims_probe, endpoint, loads, measure, probe, report
from benchmarks.__main__ import main


def _rows(ours: float, agents: float, floor: float) -> list[measure.Row]:
    figures = {"runstream": ours, "openai-agents": agents, "aiohttp": floor}
    return [
        {"load": "fast", "subject": subject, "repetition": number, "cpu_us_per_delta": figure + noise}
        for subject, figure in figures.items()
        for number, noise in enumerate((-1.0, 0.0, 7.0))
    ]


def test_figure_is_the_median_of_the_rounds() -> None:
    """One noisy round does not move a figure."""
    figures = report.figures_of(_rows(5.0, 100.0, 2.0))
    assert figures == {"fast": {"runstream": 5.0, "openai-agents": 100.0, "aiohttp": 2.0}}


def test_goal_holds_up_to_its_limit_and_not_above() -> None:
    """A goal compares runstream with a share of the peer's figure; goals without figures are left out."""
    judged = loads.goals_of({"fast": {"runstream": 6.0, "openai-agents": 90.0, "aiohttp": 1.9}})
    assert [(goal.against, round(limit, 3), holds) for goal, limit, _, holds in judged] == [
        ("openai-agents", 6.0, True),
        ("aiohttp", 5.7, False),
    ]


def test_every_figure_and_goal_names_something_that_is_measured() -> None:
    """The tables of loads, measures and goals refer to one another without a gap."""
    names = {measure.name for measure in loads.MEASURES}
    assert {measure.load for measure in loads.MEASURES} == {load.name for load in loads.LOADS}
    assert {goal.of for goal in loads.GOALS} | {goal.measure or goal.of for goal in loads.GOALS} <= names


def test_plan_interleaves_subjects_in_rounds() -> None:
    """Every subject runs once before any runs again, and only those that were asked for."""
    fast = [load for load in loads.LOADS if load.name == "fast"]
    steps = [(number, subject) for number, _, _, subject in measure.plan(fast, loads.SDKS, quick=False, repetitions=2)]
    assert steps == [(0, "runstream"), (0, "openai-agents"), (1, "runstream"), (1, "openai-agents")]


def test_page_keeps_what_stands_outside_of_the_markers() -> None:
    """Writing the figures twice gives the page of writing them once; a page without markers is refused."""
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.put_section(page, "new\n")
    assert once == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    assert report.put_section(once, "new\n") == once
    with pytest.raises(ValueError, match="figures"):
        report.put_section("no markers", "new\n")


def test_command_prints_and_writes_stored_figures(tmp_path: Path) -> None:
    """`--from` renders what `--json` wrote, `--write` puts it into the page; a failure shows and sets the status."""
    stored, page = tmp_path / "figures.json", tmp_path / "page.md"
    failed = {"load": "chat", "subject": "openai", "repetition": 0, "failed": "exit status 1\nImportError: openai"}
    stored.write_text(json.dumps({"conditions": "one machine", "rows": [*_rows(5.0, 100.0, 2.0), failed]}))
    page.write_text(f"{report.BEGIN}\n{report.END}\n")
    result = CliRunner().invoke(main, ["--from", str(stored), "--write", str(page)])
    assert result.exit_code == 1
    assert "| 5 | 100 | 2 | 20.0 times less |" in result.output
    assert "Failed: chat of openai: ImportError: openai" in result.output
    assert page.read_text() == f"{report.BEGIN}\n{result.output.rstrip()}\n{report.END}\n"


def test_unknown_load_is_refused_with_the_known_names() -> None:
    """`--only` names what can be asked for."""
    result = CliRunner().invoke(main, ["--only", "nothing"])
    assert result.exit_code == 2
    assert "growth-unread" in result.output


def test_no_proc_is_said() -> None:
    """Where memory cannot be read, the section says so in place of figures."""
    row = {"load": "memory", "subject": "runstream", "repetition": 0, "kb_per_stream": None, "growth_mb": None}
    assert "Memory was not measured" in report.section([row], "one machine")


@pytest.mark.parametrize(
    ("subject", "load"),
    [
        ("runstream", loads.Stream("text-30", runs=2)),
        ("runstream", loads.Stream("text-30", runs=2, api="chat")),
        ("runstream", loads.Stream("text-30", read=False)),
        ("openai", loads.Stream("text-30", runs=2, concurrency=2)),
        ("openai", loads.Stream("text-30", api="chat")),
        ("aiohttp", loads.Stream("text-5-every-1", runs=2, concurrency=2)),
    ],
)
async def test_probe_counts_every_delta(subject: str, load: loads.Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject delivers every delta that the endpoint sends, or the probe raises."""
    server = await endpoint.serve()
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    async with server:
        row = await probe.measure(subject, port, asdict(load))
    assert row["cpu_us_per_delta"] is not None
    assert row["cpu_us_per_delta"] > 0
    assert ("first_ms_p99" in row) is load.read


def test_every_row_of_the_readme_can_be_tried() -> None:
    """The README's table of struggles has the rows that `benchmarks claims` prints, in its order."""
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    section = page.split("## What users of the peers struggle with")[1].split("##")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")]
    assert rows[2:] == list(claims_probe.CLAIMS)


def test_the_table_of_claims() -> None:
    """One row a claim, one column a subject, with its version."""
    seen = {subject: dict.fromkeys(claims_probe.CLAIMS, f"{subject} does") for subject in claims.SUBJECTS}
    lines = claims.table(seen, {"runstream": "0.1"}).splitlines()
    assert lines[0] == "| | runstream 0.1 | openai-agents |"
    assert lines[2] == "| `break` out of the loop | runstream does | openai-agents does |"
    assert len(lines) == 2 + len(claims_probe.CLAIMS)
