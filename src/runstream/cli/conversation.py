"""Who `runstream chat` talks to: agents of this process, or those of a server. Both are a `Conversation`.

Owns what is asked, and what is remembered between questions. Must not know terminals.

Invariant: after an answer, however it ended, the next question can be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from runstream.agent.raw_item import read_field
from runstream.errors import RunSealed, UserError

if TYPE_CHECKING:
    from runstream.agent.agent import Agent
    from runstream.events.event import Event
    from runstream.run.config import RunConfig
    from runstream.run.result import RunResultStreaming
    from runstream.server.client import Followed, Follower, ServerClient
    from runstream.sessions.base import Session

__all__ = ["Answer", "Conversation", "LocalConversation", "Said", "ServerConversation", "texts_of"]


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the conversation."""

    role: str
    """"user" or "assistant"."""
    text: str


class Answer(Protocol):
    """A run that answers a question. Iterate over it to its end, then `aclose` it."""

    run_id: str

    def __aiter__(self) -> AsyncIterator[Followed]: ...

    async def cancel(self) -> None:
        """Stop it; its end still comes."""
        ...

    async def send(self, text: str) -> None:
        """Say something more meanwhile. Raises RunSealed where that comes too late."""
        ...

    async def decide(self, call_id: str, *, approve: bool, always: bool, message: str | None) -> None:
        """Say whether a call that waits may be made."""
        ...

    async def aclose(self) -> None: ...


class Conversation(Protocol):
    """Questions and answers, one after the other."""

    title: str
    """Who answers, in a line."""
    session: str | None
    """The name that it can be gone on with; None where it is not kept."""
    where: str
    """How the runs are to be seen elsewhere, as options of `runstream watch`; empty where they are not kept."""

    @property
    def agent(self) -> str:
        """Name of the agent that the next question goes to."""
        ...

    @property
    def agents(self) -> list[str]:
        """Names of those that can be chosen."""
        ...

    def choose(self, name: str) -> None:
        """Let another agent answer from now on."""
        ...

    async def ask(self, text: str) -> Answer:
        """Begin a run."""
        ...

    def take_notice(self) -> str | None:
        """What the person should know of the question that was just asked; only once."""
        ...

    async def begin_anew(self) -> None:
        """Forget what was said."""
        ...

    async def earlier(self) -> list[Said]:
        """What was said before this program began, as far as that can be known."""
        ...


class LocalConversation:
    """With agents of this process. `session_of` makes the memory of a name; without one it is this object's own.

    With `stays` the agent that was active last answers the next question, as in the SDK; else the chosen one always.
    """

    def __init__(
        self,
        agents: Sequence[Agent[Any]],
        config: RunConfig,
        *,
        title: str = "",
        session: str | None = None,
        session_of: Callable[[str], Any] | None = None,
        where: str = "",
        stays: bool = True,
    ) -> None:
        self._agents = {agent.name: agent for agent in agents}
        self._config = config
        self._active = agents[0]
        self._history: list[Any] = []
        self._session_of = session_of
        self._session: Session | None = None if session is None or session_of is None else session_of(session)
        self._stays = stays
        self.session = session
        self.title = title or f"agent{'s' if len(agents) > 1 else ''} {', '.join(self._agents)}"
        self.where = where

    @property
    def agent(self) -> str:
        return self._active.name

    @property
    def agents(self) -> list[str]:
        return list(self._agents)

    def choose(self, name: str) -> None:
        self._active = self._agents[name]

    async def ask(self, text: str) -> Answer:
        from runstream.run.runner import Runner

        given: Any = text if self._session is not None else [*self._history, {"role": "user", "content": text}]
        result = Runner.run_streamed(self._active, given, session=self._session, run_config=self._config)
        return _LocalAnswer(self, result, self._active)

    def take_notice(self) -> str | None:
        return None

    async def begin_anew(self) -> None:
        self._history = []
        if self.session is not None and self._session_of is not None:
            self.session = new_name(self.session)
            await _close(self._session)
            self._session = self._session_of(self.session)

    async def earlier(self) -> list[Said]:
        return [] if self._session is None else texts_of(await self._session.get_items())

    async def aclose(self) -> None:
        await _close(self._session)

    def take_over(self, result: RunResultStreaming, asked: Agent[Any]) -> None:
        """Remember what came of a question to that agent."""
        self._history = result.to_input_list()
        if self._stays and self._active is asked:  # else another one was chosen meanwhile
            self._active = result.last_agent


class _LocalAnswer:
    def __init__(self, conversation: LocalConversation, result: RunResultStreaming, asked: Agent[Any]) -> None:
        self._conversation = conversation
        self._asked = asked
        self._result = result
        self._stack = AsyncExitStack()
        self.run_id = result.run_id

    async def __aiter__(self) -> AsyncIterator[Event]:
        await self._stack.enter_async_context(self._result)
        async for event in self._result.events():
            yield event

    async def cancel(self) -> None:
        self._result.cancel()

    async def send(self, text: str) -> None:
        await self._result.send(text)

    async def decide(self, call_id: str, *, approve: bool, always: bool, message: str | None) -> None:
        if approve:
            await self._result.approve(call_id, always=always)
        else:
            await self._result.reject(call_id, message=message, always=always)

    async def aclose(self) -> None:
        await self._stack.aclose()
        if self._result.status != "running":
            self._conversation.take_over(self._result, self._asked)
            _ = self._result.run_loop_exception  # told by the run's last event


class ServerConversation:
    """With the agents of a server, which remembers what was said by the name of the session."""

    def __init__(
        self, client: ServerClient, agents: list[str], *, agent: str | None, session: str, patience_s: float | None
    ) -> None:
        self._client = client
        self._patience_s = patience_s
        self.agents = agents
        self.agent = agent or agents[0]
        self.session: str | None = session
        self.title = f"server {client.url}: {', '.join(agents)}"
        self.where = f"--url {client.url}"
        self._notice: str | None = None
        if self.agent not in agents:
            raise UserError(f"the server has no agent {self.agent!r}: it has {', '.join(agents)}")

    def choose(self, name: str) -> None:
        self.agent = name

    async def ask(self, text: str) -> Answer:
        from runstream.server.client import RequestRefused

        try:
            run_id = await self._client.begin(text, agent=self.agent, session=self.session)
        except RequestRefused as error:
            if error.reason != "no_sessions":
                raise
            self.session = None
            self._notice = "this server keeps no conversations: each question stands alone"
            run_id = await self._client.begin(text, agent=self.agent)
        return _ServerAnswer(self._client, run_id, self._client.follow(run_id, patience_s=self._patience_s))

    def take_notice(self) -> str | None:
        notice, self._notice = self._notice, None
        return notice

    async def begin_anew(self) -> None:
        if self.session is not None:
            self.session = new_name(self.session)

    async def earlier(self) -> list[Said]:
        return []


class _ServerAnswer:
    def __init__(self, client: ServerClient, run_id: str, follower: Follower) -> None:
        self._client = client
        self._follower = follower
        self.run_id = run_id

    def __aiter__(self) -> AsyncIterator[Followed]:
        return self._follower

    async def cancel(self) -> None:
        await self._client.cancel(self.run_id)

    async def send(self, text: str) -> None:
        from runstream.server.client import RequestRefused

        try:
            await self._client.send(self.run_id, text)
        except RequestRefused as error:
            raise (RunSealed(self.run_id) if error.status == 409 else error) from error

    async def decide(self, call_id: str, *, approve: bool, always: bool, message: str | None) -> None:
        await self._client.answer(self.run_id, call_id, approve=approve, always=always, message=message)

    async def aclose(self) -> None:
        self._follower.close()


def new_name(name: str) -> str:
    """A name for a new conversation that tells it from the one of that name: by the time, and by chance."""
    import time
    import uuid

    stem = name.split("-20")[0]
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def texts_of(items: Sequence[Any]) -> list[Said]:
    """The messages among input items."""
    found: list[Said] = []
    for item in items:
        fields = cast("dict[str, Any]", item)
        role, content = fields.get("role"), fields.get("content")
        if role not in ("user", "assistant"):
            continue
        parts = cast("list[Any]", content) if isinstance(content, list) else [{"text": content}]
        text = "".join(str(read_field(part, "text") or read_field(part, "refusal") or "") for part in parts)
        if text:
            found.append(Said(str(role), text))
    return found


async def _close(session: Any) -> None:
    close = getattr(session, "close", None)
    if close is None:
        return
    closed = close()
    if asyncio.iscoroutine(closed):
        await closed
