"""The command `runstream`: one file a command, loaded when it is called, so that `--help` is quick."""

from __future__ import annotations

import importlib
from typing import cast

import click

__all__ = ["main"]

# The commands and what `--help` says of them; each file has its click command as `command`.
_COMMANDS = {
    "demo": "Stream a support desk with tools and a handoff; needs no key.",
    "chat": "Talk to agents in this terminal, here or behind a server.",
    "endpoint": "A local model server with scripted answers and faults.",
    "run": "Run a script written for the OpenAI Agents SDK with runstream.",
    "serve": "Put agents behind HTTP, for browsers, terminals and programs.",
    "worker": "Carry out the runs of a store, beside other workers.",
    "submit": "Leave a run to the workers of a store.",
    "runs": "List the runs of a store.",
    "watch": "Follow a run in the terminal, from any point.",
    "top": "Watch the runs of a store and their figures, live.",
    "replay": "Show a stored run again, in its own time, faster or step by step.",
    "approve": "Approve a tool call that waits, or list what waits.",
    "reject": "Reject a tool call that waits, or list what waits.",
    "cancel": "Stop a run, wherever it is carried out.",
    "delete": "Delete runs, or all runs of a person.",
    "sweep": "Remove runs that ended long ago.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return cast("click.Command", importlib.import_module(f"runstream.cli.{cmd_name}").command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}: the commands are {', '.join(_COMMANDS)}")
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from runstream import __version__

        click.echo(f"runstream {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def _cli() -> None:
    """runstream: a streaming-first runtime for LLM agents."""


def main() -> None:
    """The console script."""
    _cli(prog_name="runstream")
