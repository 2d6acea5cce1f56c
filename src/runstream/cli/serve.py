"""`runstream serve MODULE:AGENT…`: agents behind HTTP, for browsers, terminals and other programs."""

from __future__ import annotations

import errno
import gc
import importlib.util
import ipaddress
import os
import signal
from typing import TYPE_CHECKING, Any

import click

from runstream.cli.loading import load_agents
from runstream.cli.storage import DurationType

if TYPE_CHECKING:
    from types import FrameType

    from runstream.server.service import Service

__all__ = ["command"]

_FEW_TASKS_S = 5
# Clients say nothing over WebSockets that is looked at.
_MESSAGE_BYTES = 65_536
# So many new objects start a collection. With Python's own number, which is made for small programs, the bursts of
# some hundred streams start one every few milliseconds: a sixth of all CPU time, for objects that are freed anyway.
_YOUNG_OBJECTS = 20_000


@click.command("serve")
@click.argument("references", metavar="[MODULE:AGENT]...", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0 picks a free one.")
@click.option(
    "--store",
    "url",
    envvar="RUNSTREAM_STORE",
    metavar="URL",
    help="sqlite:///runs.db, redis://host, …  [default: RUNSTREAM_STORE, or a file in your data folder]",
)
@click.option(
    "--token",
    "tokens",
    envvar="RUNSTREAM_TOKENS",
    metavar="[OWNER=]TOKEN",
    multiple=True,
    help="Bearer token, or its sha256:…; with an owner, for their runs alone. Better in RUNSTREAM_TOKENS, as a list "
    "with spaces. Needed unless the server is on this machine alone.",
)
@click.option(
    "--metrics-token",
    envvar="RUNSTREAM_METRICS_TOKEN",
    metavar="TOKEN",
    help="Opens /metrics and nothing else, or its sha256:…. Better in RUNSTREAM_METRICS_TOKEN.",
)
@click.option("--allow-host", "hosts", metavar="NAME", multiple=True, help="A name that the server goes by.")
@click.option("--allow-origin", "origins", metavar="ORIGIN", multiple=True, help="Its pages may use the server.")
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="Where a proxy has put the server, as /agents, if it takes that off the path.",
)
@click.option("--sessions", metavar="FILE", help="SQLite file with conversations.  [default: in your data folder]")
@click.option(
    "--trust-input",
    "trusts_input",
    is_flag=True,
    help="Take instructions, and calls of tools with their outputs, from clients, too: not just messages.",
)
@click.option("--max-runs", type=click.IntRange(1), default=1000, show_default=True, help="Runs at once.")
@click.option(
    "--drain",
    "drain_s",
    type=DurationType(),
    default="30s",
    show_default=True,
    help="After Ctrl-C or SIGTERM: how long runs may take to end, and then again to end their turn.",
)
def command(
    references: tuple[str, ...],
    host: str,
    port: int,
    url: str | None,
    tokens: tuple[str, ...],
    metrics_token: str | None,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    root_path: str,
    sessions: str | None,
    trusts_input: bool,
    max_runs: int,
    drain_s: float,
) -> None:
    """Serve agents over HTTP, and a page to use them. Runs go on whether anybody reads or not, and when the server is
    started again.

    Without MODULE:AGENT a support desk is served to try the page with: by a scripted model, unless there is an
    OPENAI_API_KEY.

    The first Ctrl-C or SIGTERM takes no more runs and lets those that go on end, or hands them on when the time of
    --drain is up; the second one hands them on at once.
    """
    if not tokens and not _is_loopback(host):
        raise click.UsageError(
            f"{host} can be reached from other machines: give --token (or RUNSTREAM_TOKENS), or stay on 127.0.0.1"
        )
    if root_path and not root_path.startswith("/"):
        raise click.UsageError(f"--root-path is a path as /agents, not {root_path!r}")
    _check_free(host, port)
    agents = load_agents(references) if references else [_desk()]
    from runstream.errors import AgentsException, MissingExtra
    from runstream.server import Limits, create_app
    from runstream.server.app import service_of

    try:
        if importlib.util.find_spec("uvicorn") is None:
            raise MissingExtra("the server", "server")
        app = create_app(
            agents,
            store=url,
            tokens=_owners(tokens) if tokens else None,
            metrics_token=metrics_token,
            allowed_hosts=(*hosts, *(() if host in ("0.0.0.0", "::") else (_in_url(host),))),
            allowed_origins=origins,
            session=_sessions(sessions),
            limits=Limits(runs=max_runs),
            drain_s=drain_s,
            trusts_input=trusts_input,
        )
    except AgentsException as error:
        raise click.ClickException(str(error)) from error
    _serve(app, service_of(app), host, port, root_path.rstrip("/"))


def _desk() -> Any:
    from runstream.cli.served_desk import served_desk

    scripted = not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))
    click.echo("no MODULE:AGENT was given: serving a support desk to try the page with", err=True)
    if scripted:
        click.echo("its model is scripted, no LLM; set OPENAI_API_KEY for a real one", err=True)
    return served_desk(scripted=scripted)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int) -> None:
    """Whether the server can listen there, before anything is opened: what is wrong is told in a line."""
    import socket

    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # elsewhere it would take the port from who has it
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except socket.gaierror as error:
        raise click.ClickException(f"--host {host!r} is no address of this machine: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            taken = f"port {port} of {host} is taken: choose another --port, or 0 for a free one"
            raise click.ClickException(taken) from error
        if error.errno in (errno.EACCES, errno.EADDRNOTAVAIL) and host != "localhost":
            raise click.ClickException(f"{host}:{port} cannot be listened on: {error.strerror}") from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _owners(tokens: tuple[str, ...]) -> dict[str, str | None]:
    """From each token to its owner."""
    found: dict[str, str | None] = {}
    for text in tokens:
        owner, separator, token = text.partition("=")
        found[token if separator else text] = owner if separator else None
    return found


def _sessions(file: str | None) -> Any:
    from runstream.server.service import data_folder
    from runstream.sessions.sqlite import SQLiteSession

    path = os.path.expanduser(file) if file is not None else data_folder() / "sessions.db"
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise click.UsageError(f"there is no directory {folder} for --sessions: create it first")

    def session_of(session_id: str) -> Any:
        return SQLiteSession(session_id, path)

    return session_of


def _serve(app: Any, service: Service, host: str, port: int, root_path: str) -> None:
    import uvicorn

    from runstream.errors import AgentsException
    from runstream.server.connections import bounded_connections

    class Server(uvicorn.Server):
        """Lets the runs end before it closes its connections, so that their readers see how."""

        async def startup(self, sockets: Any = None) -> None:
            try:
                await service.start()  # the app's lifespan would do so, and tell a wrong store as a traceback
            except AgentsException as error:
                raise click.ClickException(str(error)) from error
            await super().startup(sockets)
            # What is loaded stays: to go through it in each full collection would hold all streams up for 0.1 s.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
            for server in self.servers:
                for socket in server.sockets:
                    address, actual_port = socket.getsockname()[:2]
                    click.echo(f"http://{_in_url(address)}:{actual_port}")

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:
                service.hurry()
            self.should_exit = True

        async def shutdown(self, sockets: Any = None) -> None:
            await service.stop()
            await super().shutdown(sockets)

    # What is left then are clients that take nothing.
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        root_path=root_path,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_FEW_TASKS_S,
        http=bounded_connections(),
        ws_max_size=_MESSAGE_BYTES,
        server_header=False,
        date_header=False,
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Server(config).run()
