"""`runstream run SCRIPT.py [ARGS]`: a script written for the OpenAI Agents SDK, unmodified, on runstream."""

from __future__ import annotations

import os
import runpy
import sys

import click

__all__ = ["command"]


@click.command(
    "run",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help="Run SCRIPT with ARGS; its `import agents` gives runstream's objects.",
)
@click.argument("script", type=click.Path(exists=True, dir_okay=False))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(script: str, args: tuple[str, ...]) -> None:
    from runstream.compat import install_as_agents

    install_as_agents()
    # As `python SCRIPT ARGS` has it.
    sys.argv = [script, *args]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")
