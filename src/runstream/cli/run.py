"""`runstream run SCRIPT.py [ARGS]`: a script written for the OpenAI Agents SDK, unmodified, on runstream."""

from __future__ import annotations

import io
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from types import TracebackType

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
    path = os.path.abspath(script)
    sys.argv = [script, *args]
    sys.path.insert(0, os.path.dirname(path))
    main = ModuleType("__main__")
    main.__file__ = path
    # For good, unlike runpy: what runs at the interpreter's exit is the script's too.
    sys.modules["__main__"] = main
    try:
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)
    except (Exception, KeyboardInterrupt) as error:
        # Told here, as the interpreter would: click has its own ideas of EOFError, OSError and its own exceptions.
        error.__traceback__ = _inside(error.__traceback__, path)
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _inside(traceback: TracebackType | None, path: str) -> TracebackType | None:
    """The traceback from the script's own first frame on; None for a script that does not compile."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename != path:
        traceback = traceback.tb_next
    return traceback
