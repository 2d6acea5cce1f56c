"""What the commands about stored runs share: which store is meant, opening it, and errors in a line.

Imports click alone: the library is loaded when a command works.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from runstream.log.base import RunRecord, Store

__all__ = ["STOPPED", "DurationType", "age_text", "finish", "refuse_store_beside_url", "store_option", "stored"]

STOPPED = 130
"""What shells report for a program that Ctrl-C has ended."""

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def store_option(command: _Command) -> _Command:
    """The option --store, which the environment variable RUNSTREAM_STORE stands in for."""
    return click.option(
        "--store",
        "url",
        envvar="RUNSTREAM_STORE",
        metavar="URL",
        callback=_checked,
        help="sqlite:///runs.db, redis://host, …  [default: the environment variable RUNSTREAM_STORE]",
    )(command)


def _checked(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    if context.resilient_parsing:
        return url
    if context.params.get("server_url"):  # the run is a server's: no store is needed
        refuse_store_beside_url(context, parameter.name)
        return url
    if not url:
        server = ", or --url of a server" if "server_url" in context.params else ""
        raise click.UsageError(
            f"no store is named: give --store (sqlite:///runs.db, redis://…){server}, or set RUNSTREAM_STORE"
        )
    if url.startswith("memory:"):
        raise click.UsageError(f"{url} is within one process: name a store that several can use, as sqlite:///runs.db")
    return url


def refuse_store_beside_url(context: click.Context, parameter: str | None) -> None:
    """A server has its own store; that of the environment is for commands that need one."""
    if context.get_parameter_source(parameter or "") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--url names a server, which has a store of its own: --store does not go with it")


@asynccontextmanager
async def stored(url: str, *, creates: bool = False) -> AsyncGenerator[Store]:
    """The store, open. A file that is not there is made only by commands that write new runs."""
    from runstream.log.open_store import open_store

    store = open_store(url)
    logger = logging.getLogger("runstream")
    level = logger.level
    if not creates:
        _check_file(store.url)
        # How a server is set up matters to those who enter runs and carry them out: they are told.
        logger.setLevel(logging.ERROR)
    try:
        await store.open()
    finally:
        logger.setLevel(level)
    try:
        yield store
    finally:
        await store.aclose()


def _check_file(url: str) -> None:
    path = url.removeprefix("sqlite:///")
    if path != url and not os.path.exists(path):
        raise click.ClickException(f"there is no file {path}: no run was ever kept there")


def finish(work: Coroutine[Any, Any, int]) -> None:
    """Do the work and end the program with the status that it gives. Errors of the library are told in a line."""
    from runstream.errors import AgentsException

    # A terminal or a file that cannot show a character gets a substitute, not an error.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        status = asyncio.run(work)
    except KeyboardInterrupt:
        status = STOPPED
    except AgentsException as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


class DurationType(click.ParamType[float]):
    """`90s`, `30m`, `12h`, `7d`, or a plain number of seconds."""

    name = "duration"
    _UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip().lower()
        unit_s = self._UNITS_S.get(text[-1:])
        try:
            duration_s = float(text) if unit_s is None else float(text[:-1]) * unit_s
        except ValueError:
            self.fail(f"{value!r} is no duration: write 90s, 30m, 12h or 7d", param, ctx)
        if not 0 <= duration_s < float("inf"):
            self.fail(f"{value!r} is no duration that time can have", param, ctx)
        return duration_s


def age_text(record: RunRecord, now: float) -> str:
    """How long ago the run was entered."""
    age_s = max(now - record.created_at, 0.0)
    for unit_s, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if age_s >= unit_s:
            return f"{int(age_s / unit_s)} {unit}"
    return f"{int(age_s)} s"
