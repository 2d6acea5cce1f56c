"""The command: `python -m benchmarks` (or `make bench`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks import claims, environments, measure, policies, report, serve, smooth, stores
from benchmarks.loads import CORE, LOADS, PEERS


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group(invoke_without_command=True)
@click.pass_context
@click.option("--quick", is_flag=True, help="Short loads, once each: one to two minutes.")
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    type=click.Choice([load.name for load in LOADS]),
    help=f"Run only the load of this name; may be repeated. Names: {', '.join(load.name for load in LOADS)}.",
)
@click.option(
    "--peers",
    type=click.Choice(["core", "all"]),
    default="core",
    show_default=True,
    help="core: openai-agents, the openai client, the aiohttp floor. all: pydantic-ai and langgraph, too.",
)
@click.option("--repetitions", type=click.IntRange(min=1), help="At most so many rounds of each load.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the raw figures.")
@click.option(
    "--from",
    "from_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: print the tables of figures that --json wrote.",
)
@click.option(
    "--write",
    "page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Put the tables into this page, between {report.BEGIN} and {report.END}.",
)
def main(
    context: click.Context,
    quick: bool,
    only: tuple[str, ...],
    peers: str,
    repetitions: int | None,
    json_file: Path | None,
    from_file: Path | None,
    page: Path | None,
) -> None:
    """Measure runstream beside its peers, in one run, and print the figures and whether the goals hold.

    Every subject runs in an environment of its own under .venvs/, made on first use. Exits with 1 if a subject failed,
    but not if a goal is missed.
    """
    if context.invoked_subcommand is not None:
        return
    if from_file is not None:
        measured = json.loads(from_file.read_text())
    else:
        measured = _measured(only, PEERS if peers == "all" else CORE, quick=quick, repetitions=repetitions)
    if json_file is not None:
        json_file.write_text(json.dumps(measured, indent=1) + "\n")
    text = report.section(measured["rows"], measured["conditions"])
    click.echo(text)
    if page is not None:
        try:
            page.write_text(report.put_section(page.read_text(), text))
        except ValueError as error:
            raise click.ClickException(f"{page}: {error}") from None
    if report.failures_of(measured["rows"]):
        raise SystemExit(1)


@main.command(name="claims")
def claims_command() -> None:
    """Try, in runstream and in openai-agents, what the README's table of struggles says, and print the table."""
    try:
        seen = {subject: claims.observed(subject, _say) for subject in claims.SUBJECTS}
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    versions = {subject: environments.versions_of(subject).get(subject, "") for subject in seen}
    click.echo(claims.table(seen, versions))


@main.command(name="stores")
@click.option("--store", "kinds", multiple=True, type=click.Choice(stores.KINDS), help="Only this one.")
@click.option("--repetitions", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--write",
    "page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Put the table into this page, between {stores.BEGIN} and {stores.END}.",
)
def stores_command(kinds: tuple[str, ...], repetitions: int, page: Path | None) -> None:
    """Measure the durable logs: what they cost, their speed, a takeover, a replay."""
    try:
        environments.ensure("runstream", _say)
        figures = stores.measured(kinds or stores.KINDS, repetitions, _say)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    versions = {"runstream": environments.versions_of("runstream")}
    line = report.conditions(versions, quick=False, repetitions=repetitions)
    text = f"{line}\n\n{stores.table(figures)}\n"
    click.echo(text)
    if page is not None:
        page.write_text(report.put_section(page.read_text(), text, stores.BEGIN, stores.END))


@main.command(name="serve")
@click.option("--deltas", type=click.IntRange(min=50), default=200, show_default=True, help="Of each stream.")
@click.option("--repetitions", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--most", type=click.IntRange(min=25), default=400, show_default=True, help="Streams at once.")
@click.option(
    "--write",
    "page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Put the tables into this page, between {serve.BEGIN} and {serve.END}.",
)
def serve_command(deltas: int, repetitions: int, most: int, page: Path | None) -> None:
    """Measure the server beside a gateway of FastAPI, sse-starlette and openai-agents, and a bare one of aiohttp."""
    try:
        for subject in serve.SUBJECTS:
            environments.ensure(subject, _say)
        figures = serve.measured(_say, deltas=deltas, repetitions=repetitions, most=most)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    versions = {subject: environments.versions_of(subject) for subject in serve.SUBJECTS}
    line = report.conditions(versions, quick=False, repetitions=repetitions)
    text = f"{line}\n\n{serve.tables(figures)}\n"
    click.echo(text)
    if page is not None:
        page.write_text(report.put_section(page.read_text(), text, serve.BEGIN, serve.END))


@main.command(name="smooth")
@click.option("--max-lag", "max_lag_s", type=float, default=1.0, show_default=True, help="The bound, in seconds.")
@click.option("--repetitions", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--write",
    "page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Put the tables into this page, between {smooth.BEGIN} and {smooth.END}.",
)
def smooth_command(max_lag_s: float, repetitions: int, page: Path | None) -> None:
    """Show how even `smooth` makes bursty text, what latency it adds, and what it costs. Runs in this environment."""
    even = [smooth.evenness(pattern, max_lag_s=max_lag_s) for pattern in smooth.PATTERNS]
    text = smooth.tables(even, smooth.costs(repetitions=repetitions)) + "\n"
    click.echo(text)
    if page is not None:
        page.write_text(report.put_section(page.read_text(), text, smooth.BEGIN, smooth.END))


@main.command(name="policies")
@click.option("--rounds", type=click.IntRange(min=1), default=25, show_default=True)
@click.option(
    "--write",
    "page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Put the table into this page, between {policies.BEGIN} and {policies.END}.",
)
def policies_command(rounds: int, page: Path | None) -> None:
    """Measure what the policies of reliability add to a delta, the default ones too. Runs in this environment."""
    text = policies.table(policies.costs(_say, rounds=rounds)) + "\n"
    click.echo(text)
    if page is not None:
        page.write_text(report.put_section(page.read_text(), text, policies.BEGIN, policies.END))


def _measured(only: tuple[str, ...], peers: tuple[str, ...], *, quick: bool, repetitions: int | None) -> dict[str, Any]:
    loads = [load for load in LOADS if not only or load.name in only]
    steps = list(measure.plan(loads, peers, quick=quick, repetitions=repetitions))
    subjects = [name for name in peers if any(name == subject for *_, subject in steps)]
    try:
        for subject in subjects:
            environments.ensure(subject, _say)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    with measure.endpoint() as port:
        rows = measure.run_plan(steps, port, _say)
    versions = {subject: environments.versions_of(subject) for subject in subjects}
    rounds = 1 + max((number for number, *_ in steps), default=0)
    return {"conditions": report.conditions(versions, quick=quick, repetitions=rounds), "rows": rows}


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
