"""`runstream chat`: talk to agents in this terminal, be they here or behind a server."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import click

from runstream.cli.storage import finish, refuse_store_beside_url

if TYPE_CHECKING:
    from runstream.agent.agent import Agent
    from runstream.cli.conversation import Conversation
    from runstream.models.provider import OpenAIProvider
    from runstream.sessions.sqlite import SQLiteSession
    from runstream.testing.steps import Turn

__all__ = ["command"]

_STOPPED = 130
_SHORT_S = 0.2
_SCRIPTED = "a scripted support desk: no LLM speaks, it says the same whatever you ask"
_PATIENCE_S = 60.0
"""How long a server may be gone where nobody is there to press Ctrl-C."""


@click.command("chat")
@click.argument("references", metavar="[MODULE:AGENT]...", nargs=-1)
@click.option("--url", metavar="URL", help="Talk to the agents of this server, as http://127.0.0.1:8000.")
@click.option("--agent", "agent_name", metavar="NAME", help="Who answers first, where there are several.")
@click.option("--token", envvar="RUNSTREAM_TOKEN", metavar="TOKEN", help="For --url; better in RUNSTREAM_TOKEN.")
@click.option("--store", envvar="RUNSTREAM_STORE", metavar="URL", help="Keeps the runs: sqlite:///runs.db, redis://…")
@click.option("--session", metavar="NAME", help="The conversation to go on with, or to begin.")
@click.option("--sessions", metavar="FILE", help="SQLite file with conversations.  [default: in your data folder]")
@click.option("--model", help="A model's name, for all agents.")
@click.option("--base-url", metavar="URL", help="A compatible server of models, such as http://localhost:11434/v1.")
@click.option("--reasoning", is_flag=True, help="Show what models tell of their reasoning, not only how much it is.")
def command(
    references: tuple[str, ...],
    url: str | None,
    agent_name: str | None,
    token: str | None,
    store: str | None,
    session: str | None,
    sessions: str | None,
    model: str | None,
    base_url: str | None,
    reasoning: bool,
) -> None:
    """Talk to agents. Without any named, to the demo's support desk: with a key a real model plays it, else a script.

    Ctrl-C stops an answer, Ctrl-D quits, /help tells the commands. Where input or output is no terminal, each line is a
    question and standard output holds the answers alone; the exit status is 0 if all were answered.
    """
    if url is not None and (references or sessions or model or base_url):
        raise click.UsageError(
            "--url talks to a server's agents: MODULE:AGENT, --sessions, --model and --base-url do not go with it"
        )
    if url is not None:
        refuse_store_beside_url(click.get_current_context(), "store")
    agents: list[Agent[Any]] = []
    if references:
        from runstream.cli.loading import load_agents

        agents = load_agents(references)
    is_plain = not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb"
    if not is_plain:
        _check_extra()

    async def chat() -> int:
        async with AsyncExitStack() as stack:
            if url is not None:
                talk = await _served(stack, url, token, agent_name, session, _PATIENCE_S if is_plain else None)
            else:
                talk = await _local(stack, agents, agent_name, store, session, sessions, model, base_url)
            if is_plain:
                from runstream.cli.plain_chat import PlainChat

                return await PlainChat(talk).run()
            return await _converse(talk, reasoning=reasoning)

    try:
        finish(chat())
    finally:
        _wait_for_threads()


def _wait_for_threads() -> None:
    """Tools that block a thread cannot be stopped: the program ends after them, or at Ctrl-C."""
    from runstream.agent.threads import tool_threads

    blocked = tool_threads()
    if not blocked or threading.current_thread() is not threading.main_thread():
        return
    try:
        for thread in blocked:
            thread.join(_SHORT_S)
        if any(thread.is_alive() for thread in blocked):
            click.echo("a tool that cannot be stopped is still at work: waiting for it; Ctrl-C quits at once", err=True)
        for thread in blocked:
            thread.join()
    except KeyboardInterrupt:
        os._exit(_STOPPED)


def _check_extra() -> None:
    from runstream.errors import MissingExtra

    try:
        import prompt_toolkit as _prompt_toolkit
        import rich as _rich
    except ImportError as error:
        missing = MissingExtra("runstream chat in a terminal (with input from a pipe it does without)", "chat")
        raise click.ClickException(str(missing)) from error
    del _prompt_toolkit, _rich


async def _converse(talk: Conversation, *, reasoning: bool) -> int:
    from runstream.cli.dialogue import Dialogue, HardQuit
    from runstream.server.service import data_folder

    dialogue = Dialogue(
        talk,
        color=not os.environ.get("NO_COLOR"),
        reasoning=reasoning,
        history_file=str(data_folder() / "chat-history"),
    )
    try:
        return await dialogue.run()
    except HardQuit:
        # Whatever does not want to stop is not waited for.
        sys.stdout.flush()
        os._exit(_STOPPED)


async def _served(
    stack: AsyncExitStack, url: str, token: str | None, agent: str | None, session: str | None, patience_s: float | None
) -> Conversation:
    from runstream.cli.conversation import ServerConversation, new_name
    from runstream.server.client import ServerClient

    client = await stack.enter_async_context(ServerClient(url, token=token))
    return ServerConversation(
        client, await client.agents(), agent=agent, session=session or new_name("chat"), patience_s=patience_s
    )


async def _local(
    stack: AsyncExitStack,
    agents: list[Agent[Any]],
    agent_name: str | None,
    store: str | None,
    session: str | None,
    sessions: str | None,
    model: str | None,
    base_url: str | None,
) -> Conversation:
    from runstream.cli.conversation import LocalConversation, new_name
    from runstream.log.open_store import open_store
    from runstream.run.config import RunConfig

    title, stays = "", True
    provider = _provider(base_url)
    if not agents:
        from runstream.cli.demo import support_desk

        agents = [support_desk(model, pause_s=0.25)]
        title = "the demo's support desk"
        if provider is None and model is None and not os.environ.get("OPENAI_API_KEY"):
            provider, model, title, stays = await _scripted(stack), "scripted", _SCRIPTED, False
    kept = open_store(store) if store else None
    if kept is not None:
        stack.push_async_callback(kept.aclose)
    config = RunConfig(on_approval="wait", store=kept)
    if model is not None:
        config.model = model
    if provider is not None:
        config.model_provider = provider
    if store and session is None:
        session = new_name("chat")

    talk = LocalConversation(
        agents,
        config,
        title=title,
        session=session,
        session_of=lambda name: _session(name, sessions),
        where=f"--store {store}" if store else "",
        stays=stays,
    )
    stack.push_async_callback(talk.aclose)
    if agent_name is not None:
        if agent_name not in talk.agents:
            raise click.UsageError(f"there is no agent {agent_name!r}: there are {', '.join(talk.agents)}")
        talk.choose(agent_name)
    return talk


def _session(name: str, file: str | None) -> SQLiteSession:
    """The conversation of that name: the same as on a server of this person."""
    import sqlite3

    from runstream.server.answers import Refused
    from runstream.server.requests import session_key
    from runstream.server.service import data_folder
    from runstream.sessions.sqlite import SQLiteSession

    path = os.path.expanduser(file) if file else str(data_folder() / "sessions.db")
    try:
        return SQLiteSession(session_key(name, None) or name, path)
    except Refused as error:
        raise click.UsageError(f"--session {name!r}: {error.message}") from error
    except sqlite3.Error as error:
        raise click.ClickException(f"conversations cannot be kept in {path}: {error}") from error


def _provider(base_url: str | None) -> OpenAIProvider | None:
    """Who has the models, where that is said; else what the agents and the environment say."""
    if base_url is None:
        return None
    from runstream.models.provider import OpenAIProvider

    # Servers on one's own machine need no key, but the client wants one.
    return OpenAIProvider(base_url=base_url, api_key=None if os.environ.get("OPENAI_API_KEY") else "none")


async def _scripted(stack: AsyncExitStack) -> OpenAIProvider:
    """The model of `runstream demo`, which plays its script for each question, from wherever it was stopped."""
    from dataclasses import replace

    from runstream.cli.demo import demo_script
    from runstream.models.provider import OpenAIProvider
    from runstream.testing.endpoint import Endpoint
    from runstream.testing.request import When

    turns = cast("tuple[Turn, ...]", demo_script().steps)
    look_up, hand_over, refund, answer = (replace(turn, times=None) for turn in turns)
    script = [
        replace(answer, when=When(after_tool="refund_order")),
        replace(refund, when=When(offers_tool="refund_order")),
        replace(hand_over, when=When(after_tool=True)),
        look_up,
    ]
    endpoint = await stack.enter_async_context(Endpoint(script))
    return OpenAIProvider(base_url=endpoint.url, api_key="scripted")
