"""`create_app`: agents behind HTTP, as an ASGI application of its own or to mount in another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runstream.agent.agent import Agent
from runstream.errors import MissingExtra
from runstream.log.base import Store
from runstream.run.claimed import SessionFactory
from runstream.run.config import DEFAULT_MAX_TURNS, RunConfig
from runstream.server.access import AllowList, Authenticate, Authorize, Gate
from runstream.server.service import Limits, Service
from runstream.sessions.base import Session

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["create_app", "service_of"]


def create_app(
    agents: Agent[Any] | Iterable[Agent[Any]],
    *,
    store: str | Store | None = None,
    tokens: Mapping[str, str | None] | Iterable[str] | None = None,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    metrics_token: str | None = None,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
    session: Session | SessionFactory | None = None,
    context: Callable[[str | None], Any | Awaitable[Any]] | None = None,
    run_config: RunConfig | dict[str, Any] | None = None,
    max_turns: int | None = DEFAULT_MAX_TURNS,
    limits: Limits | None = None,
    trusts_input: bool = False,
    heartbeat_s: float = 15.0,
    drain_s: float = 30.0,
    page: bool = True,
) -> Starlette:
    """An ASGI application (Starlette) that runs these agents, and lets any number of clients follow each run.

    `store`: a URL or a store; RUNSTREAM_STORE, or a file in the user's data folder, if not given. `tokens`: bearer
    tokens (or `sha256:…` of them, see `hash_token`), or a dict from them to the owner of their runs (None: whoever runs
    the server, who may do everything). `authenticate` stands in for them: it gets the connection and returns the
    user's name, or None to refuse. Without either, only clients on this machine are answered. `authorize` gets an
    `Access` and decides; by default people may do everything with their own runs, and nothing with others'.
    `metrics_token`: opens `/metrics` and nothing else; besides it, whoever runs the server may read that.
    `allowed_hosts`: names besides localhost that the server goes by ("*": any). `allowed_origins`: origins whose pages
    may use it; its own always may. `session` keeps conversations: a session, or a function from a name to one.
    `context` makes, from the user's name, the JSON data that tools and hooks of a run get as their context.
    `trusts_input` takes input items of every kind from clients, not just messages of the user. `page=False` leaves the
    page at `/` out.

    Runs wait for approvals in place unless `run_config` says otherwise. When the app stops, runs have `drain_s`
    seconds to end, and then to end their turn; those that have not are handed to the next server of the same store.
    Raises UserError for misuse, MissingExtra without `runstream[server]`.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
    except ImportError as error:
        raise MissingExtra("the server", "server") from error
    from runstream.server.ag_ui_routes import ag_ui_routes
    from runstream.server.ai_sdk_routes import ai_sdk_routes
    from runstream.server.guard import Guard, not_served
    from runstream.server.openai_routes import openai_routes
    from runstream.server.page import page_routes
    from runstream.server.routes import routes_of

    config = RunConfig(on_approval="wait") if run_config is None else RunConfig.of(run_config)
    service = Service(
        [agents] if isinstance(agents, Agent) else agents,
        store=store if store is not None else config.store,
        config=replace(config, on_abandon="detach"),
        session=session,
        context=context,
        gate=Gate(tokens, authenticate, authorize, metrics_token),
        allow=AllowList(allowed_hosts, allowed_origins),
        limits=limits or Limits(),
        heartbeat_s=heartbeat_s,
        drain_s=drain_s,
        max_turns=max_turns,
        trusts_input=trusts_input,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = Starlette(
        routes=[
            *routes_of(service),
            *ag_ui_routes(service),
            *ai_sdk_routes(service),
            *openai_routes(service),
            *(page_routes(service) if page else ()),
        ],
        middleware=[Middleware(Guard, service=service)],
        exception_handlers={HTTPException: not_served},
        lifespan=lifespan,
    )
    app.state.runstream = service
    return app


def service_of(app: Starlette) -> Service:
    """What stands behind an app of `create_app`."""
    return app.state.runstream
