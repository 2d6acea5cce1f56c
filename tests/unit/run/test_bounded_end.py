"""A run ends within its limit whatever the caller's code in it does, and what comes afterwards changes nothing."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from runstream import (
    Agent,
    AgentHooks,
    ModelSettings,
    RunConfig,
    RunHooks,
    Runner,
    function_tool,
    handoff,
)
from runstream.agent.model import Model
from runstream.run.config import ToolErrorFormatterArgs
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, ScriptedModel, ToolCall, say

LIMIT_S = 5.0


class _Deaf:
    """Code that ignores every cancellation for 1000 seconds."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, *arguments: Any, **fields: Any) -> None:
        self.begun.set()
        until = self._clock.now() + 1000.0
        while (left_s := until - self._clock.now()) > 0:
            try:
                await self._clock.sleep(left_s)
            except asyncio.CancelledError:
                continue
        self.ended.set()


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


class _DeafModel(Model):
    """A model that ignores its cancellation, at the beginning or after so many events."""

    def __init__(self, deaf: _Deaf, after: int | None) -> None:
        self._deaf = deaf
        self._after = after

    async def get_response(self, *arguments: Any, **options: Any) -> Any:
        await self._deaf()
        return await ScriptedModel(["late"]).get_response(*arguments, **options)

    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        count = 0
        async for event in ScriptedModel([say("one two")]).stream_response(*arguments, **options):
            if count == self._after:
                await self._deaf()
            count += 1
            yield event
        if self._after is None:
            await self._deaf()


def _with_hook(name: str, *, both: bool = False) -> Callable[[_Deaf], dict[str, Any]]:
    def options(deaf: _Deaf) -> dict[str, Any]:
        hooks = RunHooks[Any]()
        setattr(hooks, name, deaf)
        return {"hooks": hooks, "agent_hooks": AgentHooks[Any]() if both else None}

    return options


def _with_agent(**fields: Callable[[_Deaf], Any]) -> Callable[[_Deaf], dict[str, Any]]:
    return lambda deaf: {"agent": {name: make(deaf) for name, make in fields.items()}}


def _returning(deaf: _Deaf, value: Any) -> Callable[..., Any]:
    async def call(*arguments: Any, **fields: Any) -> Any:
        await deaf()
        return value(*arguments) if callable(value) else value

    return call


class _DeafSession(InMemorySession):
    """A session whose reading ignores cancellation."""

    def __init__(self, deaf: _Deaf) -> None:
        super().__init__("deaf")
        self._deaf = deaf

    async def get_items(self, limit: int | None = None) -> list[Any]:
        if not self._deaf.begun.is_set():
            await self._deaf()
        return await super().get_items(limit)


def _formatter(deaf: _Deaf) -> dict[str, Any]:
    async def tell(arguments: ToolErrorFormatterArgs[Any]) -> str:
        await deaf()
        return "no such tool"

    config = {"tool_not_found_behavior": "return_error_to_model", "tool_error_formatter": tell}
    return {"config": config, "steps": [ToolCall("unknown", call_id="c1"), "done"]}


def _deaf_handoff(deaf: _Deaf) -> dict[str, Any]:
    bob = Agent[Any](name="Bob", model=ScriptedModel(["late"]))
    return {
        "agent": {"handoffs": [handoff(bob, on_handoff=_returning(deaf, None))]},
        "steps": [ToolCall("transfer_to_bob", call_id="c1")],
    }


DEAF: dict[str, Callable[[_Deaf], dict[str, Any]]] = {
    "on_agent_start": _with_hook("on_agent_start"),
    "on_llm_start": _with_hook("on_llm_start"),
    "on_llm_end": _with_hook("on_llm_end"),
    "on_llm_end, side by side": _with_hook("on_llm_end", both=True),
    "on_tool_start": _with_hook("on_tool_start"),
    "on_tool_end": _with_hook("on_tool_end"),
    "on_tool_end, side by side": _with_hook("on_tool_end", both=True),
    "on_agent_end": _with_hook("on_agent_end"),
    "on_handoff": _deaf_handoff,
    "instructions": _with_agent(instructions=lambda deaf: _two(_returning(deaf, "Be kind."))),
    "is_enabled": _with_agent(tools=lambda deaf: [_enabled_by(deaf)]),
    "tool_use_behavior": _with_agent(
        tool_use_behavior=lambda deaf: _two(_returning(deaf, None)), tools=lambda _: [ping]
    ),
    "input filter": lambda deaf: {
        "config": {"call_model_input_filter": _returning(deaf, lambda data: data.model_data)}
    },
    "session input callback": lambda deaf: {"config": {"session_input_callback": _returning(deaf, lambda a, b: a + b)}},
    "tool error formatter": _formatter,
    "error handler": lambda deaf: {"error_handlers": {"max_turns": _returning(deaf, "late")}, "max_turns": 1},
    "reading the session": lambda deaf: {"session": _DeafSession(deaf)},
    "model, at its beginning": lambda deaf: {"agent": {"model": _DeafModel(deaf, 0)}},
    "model, with a time limit": lambda deaf: {
        "agent": {"model": _DeafModel(deaf, 4), "model_settings": ModelSettings(timeout=5000.0)}
    },
    "model, in the middle": lambda deaf: {"agent": {"model": _DeafModel(deaf, 6)}},
}


def _two(call: Callable[..., Any]) -> Callable[..., Any]:
    """With two parameters, as some callbacks must have."""

    async def two(first: Any, second: Any) -> Any:
        return await call(first, second)

    return two


def _enabled_by(deaf: _Deaf) -> Any:
    @function_tool(is_enabled=_two(_returning(deaf, True)))
    async def enabled() -> str:
        return "x"

    return enabled


class _Scene:
    def __init__(self, name: str) -> None:
        self.clock = FakeClock()
        self.deaf = _Deaf(self.clock)
        made = DEAF[name](self.deaf)
        self.model = ScriptedModel(made.pop("steps", [ToolCall("ping", call_id="c1"), "done"]), clock=self.clock)
        fields = {"model": self.model, "tools": [ping], "hooks": made.pop("agent_hooks", None)}
        self.agent = Agent[Any](name="Ann", **(fields | made.pop("agent", {})))
        self.session = made.pop("session", None) or InMemorySession("s")
        config = RunConfig(clock=self.clock, **made.pop("config", {}))
        self.options = {"session": self.session, "run_config": config, **made}

    async def assert_ended(self, result: Any, begun_at: float) -> None:
        """Within the limit, once, saved; and what the deaf code still brings changes nothing."""
        assert self.clock.now() - begun_at <= LIMIT_S
        await self.assert_saved()
        events = [event async for event in result.events()]
        assert [event.kind for event in events].count("run.end") == 1
        assert events[-1].data.status == "cancelled"
        assert result.run_loop_exception is None
        before = self._state(result)
        await self.deaf.ended.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert [(event.seq, event.kind) async for event in result.events()] == [(e.seq, e.kind) for e in events]
        assert self._state(result) == before
        await self.assert_saved()

    def _state(self, result: Any) -> Any:
        return result.context_wrapper.usage.requests, len(self.model.calls), result.final_output, result.last_agent

    async def assert_saved(self) -> None:
        items: list[Any] = await self.session.get_items()
        calls = [item["call_id"] for item in items if item.get("type") == "function_call"]
        assert calls == [item["call_id"] for item in items if item.get("type") == "function_call_output"]


@pytest.mark.parametrize("name", DEAF)
async def test_a_cancelled_run_ends_although_the_callers_code_is_deaf(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """cancel() ends a streamed run within the limit, wherever it was."""
    scene = _Scene(name)
    result = Runner.run_streamed(scene.agent, "hi", **scene.options)
    await scene.deaf.begun.wait()
    begun_at = scene.clock.now()
    result.cancel()
    with caplog.at_level(logging.WARNING, "runstream"):
        await result.wait()
    assert "left behind" in caplog.text
    await scene.assert_ended(result, begun_at)


@pytest.mark.parametrize("name", DEAF)
async def test_a_cancelled_caller_gets_on_although_its_code_is_deaf(name: str) -> None:
    """`asyncio.timeout` around Runner.run takes its effect within the limit."""
    scene = _Scene(name)
    running = asyncio.create_task(Runner.run(scene.agent, "hi", **scene.options))
    await scene.deaf.begun.wait()
    begun_at = scene.clock.now()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert scene.clock.now() - begun_at <= LIMIT_S
    await scene.assert_saved()
    items, calls = await scene.session.get_items(), len(scene.model.calls)
    await scene.deaf.ended.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (await scene.session.get_items(), len(scene.model.calls)) == (items, calls)


async def test_a_failing_hook_does_not_wait_for_a_deaf_one() -> None:
    """Of two hooks side by side one fails: the other is left behind after the limit, and the error is raised."""
    clock = FakeClock()
    deaf = _Deaf(clock)

    class Fails(AgentHooks[Any]):
        async def on_llm_start(self, *arguments: Any) -> None:
            await deaf.begun.wait()
            raise ZeroDivisionError

    hooks = RunHooks[Any]()
    hooks.on_llm_start = deaf  # type: ignore[method-assign]
    agent = Agent(name="Ann", model=ScriptedModel(["x"]), hooks=Fails())
    begun_at = clock.now()
    with pytest.raises(ZeroDivisionError):
        await Runner.run(agent, "hi", hooks=hooks, run_config=RunConfig(clock=clock))
    assert clock.now() - begun_at == LIMIT_S
    await deaf.ended.wait()


async def test_what_was_shown_before_a_deaf_model_was_left_is_saved() -> None:
    """The text of a message that was under way, and a response that was complete, are kept and counted."""
    for after, text, requests in ((5, "one", 0), (None, "one two", 1)):
        clock = FakeClock()
        deaf, session = _Deaf(clock), InMemorySession("s")
        agent = Agent(name="Ann", model=_DeafModel(deaf, after))
        result = Runner.run_streamed(agent, "hi", session=session, run_config=RunConfig(clock=clock))
        await deaf.begun.wait()
        result.cancel()
        await result.wait()
        saved: list[Any] = await session.get_items()
        assert saved[-1]["content"][0]["text"].strip() == text
        assert result.context_wrapper.usage.requests == requests
        await deaf.ended.wait()


async def test_a_hook_that_fails_while_it_is_cancelled_is_told() -> None:
    """What code of the caller's raises on its cancellation is the run's error."""

    class Fails(RunHooks[Any]):
        async def on_llm_start(self, *arguments: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    begun = asyncio.Event()
    result = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel([])), "hi", hooks=Fails())
    await begun.wait()
    result.cancel()
    assert result.run_loop_task is not None
    await asyncio.wait([result.run_loop_task])
    assert isinstance(result.run_loop_exception, ZeroDivisionError)


async def test_a_hook_that_cancels_its_own_task_cancels_the_run() -> None:
    """`current_task().cancel()` inside a run is a cancellation like any other, and reaches who awaits the run."""

    class Cancels(RunHooks[Any]):
        async def on_llm_end(self, *arguments: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await Runner.run(Agent(name="Ann", model=ScriptedModel(["x"])), "hi", hooks=Cancels())


async def test_a_swallowed_cancellation_of_the_caller_still_ends_the_run() -> None:
    """A hook that takes the cancellation for its own business does not keep `await Runner.run` going."""

    class Swallows(RunHooks[Any]):
        async def on_agent_start(self, *arguments: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    begun = asyncio.Event()
    model = ScriptedModel(["x"])
    running = asyncio.create_task(Runner.run(Agent(name="Ann", model=model), "hi", hooks=Swallows()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not model.calls


async def test_context_variables_of_hooks_stay() -> None:
    """What one hook sets, later hooks and tools see."""
    mark = contextvars.ContextVar("mark", default="unset")
    seen: list[str] = []

    class Sets(RunHooks[Any]):
        async def on_agent_start(self, *arguments: Any) -> None:
            mark.set("set")

        async def on_llm_end(self, *arguments: Any) -> None:
            seen.append(mark.get())

    @function_tool
    async def look() -> str:
        seen.append(mark.get())
        return "x"

    agent = Agent(name="Ann", model=ScriptedModel([ToolCall("look"), "done"]), tools=[look])
    await Runner.run(agent, "hi", hooks=Sets())
    assert seen == ["set", "set", "set"]


def test_ctrl_c_inside_a_run_ends_it_first() -> None:
    """KeyboardInterrupt in the caller's code passes through once the run has ended."""

    class Interrupted(RunHooks[Any]):
        async def on_llm_end(self, *arguments: Any) -> None:
            raise KeyboardInterrupt

    async def main() -> None:
        results.append(Runner.run_streamed(agent, "hi", session=session, hooks=Interrupted()))
        await results[0].wait()

    results: list[Any] = []
    session = InMemorySession("s")
    agent = Agent(name="Ann", model=ScriptedModel(["x"]))
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert isinstance(results[0].run_loop_exception, KeyboardInterrupt)
    assert len(asyncio.run(session.get_items())) == 2
