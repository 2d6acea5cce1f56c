"""The session in a run: what is read, what is written, when, and never twice."""

import asyncio
import threading
from typing import Any

import pytest

from runstream import Agent, MaxTurnsExceeded, RunConfig, Runner, UserError, function_tool
from runstream.sessions.base import SessionSettings
from runstream.sessions.memory import InMemorySession
from runstream.sessions.sqlite import SQLiteSession
from runstream.testing import FakeClock, Raise, Reasoning, ScriptedModel, ToolCall, Turn, say


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


def _agent(*steps: Any) -> Agent[Any]:
    return Agent(name="Ann", model=ScriptedModel(steps), tools=[ping])


def _kinds(items: Any) -> list[str]:
    return [item.get("type", item.get("role")) for item in items]


async def _run(agent: Agent[Any], input: Any, session: Any, *, streamed: bool, **options: Any) -> Any:
    if streamed:
        return await Runner.run_streamed(agent, input, session=session, **options).wait()
    return await Runner.run(agent, input, session=session, **options)


class _Recorder(InMemorySession):
    """Notes every write."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.writes: list[list[str]] = []

    async def add_items(self, items: list[Any]) -> None:
        self.writes.append(_kinds(items))
        await super().add_items(items)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation_over_two_runs(streamed: bool) -> None:
    """The second run's model sees the first run, once; the session holds both."""
    session = InMemorySession("s")
    agent = _agent([Reasoning("hm"), ToolCall("ping")], "one", "two")
    await _run(agent, "hi", session, streamed=streamed)
    first = ["user", "reasoning", "function_call", "function_call_output", "message"]
    assert _kinds(await session.get_items()) == first
    await _run(agent, "more", session, streamed=streamed)
    assert _kinds(agent.model.calls[2].input) == [*first, "user"]  # type: ignore[union-attr]
    assert _kinds(await session.get_items()) == [*first, "user", "message"]


async def test_the_session_is_written_after_each_turn() -> None:
    """The input is saved before the first call, each turn when it is complete; every item once."""
    session = _Recorder()
    await Runner.run(_agent(ToolCall("ping"), ToolCall("ping"), "done"), "hi", session=session)
    assert session.writes == [
        ["user"],
        ["function_call", "function_call_output"],
        ["function_call", "function_call_output"],
        ["message"],
    ]


async def test_a_file_keeps_the_conversation(tmp_path: Any) -> None:
    """SQLiteSession works in a run, streamed too, and another connection sees the same."""
    path = tmp_path / "conversation.db"
    session = SQLiteSession("s", path)
    await _run(_agent(ToolCall("ping"), "one"), "hi", session, streamed=True)
    session.close()
    again = SQLiteSession("s", path)
    agent = _agent("two")
    await Runner.run(agent, "more", session=again)
    assert _kinds(agent.model.calls[0].input)[-2:] == ["message", "user"]  # type: ignore[union-attr]
    assert len(await again.get_items()) == 6
    again.close()


@pytest.mark.parametrize(
    ("own", "runs", "expected"), [(None, 2, 2), (3, None, 3), (3, 1, 1), (3, 5, 5), (None, None, 6)]
)
async def test_the_limit_of_history(own: int | None, runs: int | None, expected: int) -> None:
    """The run's session_settings win over the session's; the newest items are sent, all are kept."""
    session = InMemorySession("s", SessionSettings(limit=own))
    await session.add_items([{"role": "user", "content": str(n)} for n in range(6)])
    agent = _agent("ok")
    config = RunConfig(session_settings=SessionSettings(limit=runs))
    await Runner.run(agent, "new", session=session, run_config=config)
    sent = [item["content"] for item in agent.model.calls[0].input]  # type: ignore[union-attr]
    assert sent == [*[str(n) for n in range(6)][-expected:], "new"]
    assert len(await session.get_items(limit=100)) == 8


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_callback_joins_history_and_input(is_async: bool) -> None:
    """What the callback returns is sent; of it only what is new is saved."""

    def join(history: list[Any], new: list[Any]) -> list[Any]:
        return [history[-1], {"role": "developer", "content": "note"}, *new]

    async def join_async(history: list[Any], new: list[Any]) -> list[Any]:
        return join(history, new)

    session = InMemorySession("s")
    await session.add_items([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    agent = _agent("ok")
    config = RunConfig(session_input_callback=join_async if is_async else join)
    await Runner.run(agent, "new", session=session, run_config=config)
    assert [item["content"] for item in agent.model.calls[0].input] == ["b", "note", "new"]  # type: ignore[union-attr]
    saved: list[Any] = await session.get_items()
    assert [item["content"] for item in saved[:4]] == ["a", "b", "note", "new"]


async def test_a_callback_may_copy_what_it_keeps() -> None:
    """Copies of history items are not saved a second time."""
    session = InMemorySession("s")
    await session.add_items([{"role": "user", "content": "a"}])
    config = RunConfig(session_input_callback=lambda history, new: [*map(dict, history), *map(dict, new)])  # type: ignore[arg-type, return-value]
    await Runner.run(_agent("ok"), "new", session=session, run_config=config)
    assert [item.get("content") for item in (await session.get_items())[:2]] == ["a", "new"]
    assert len(await session.get_items()) == 3


async def test_a_callback_must_return_a_list() -> None:
    """Anything else is refused before any request."""
    agent = _agent()
    config = RunConfig(session_input_callback=lambda history, new: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match="session_input_callback must return a list of items, not NoneType"):
        await Runner.run(agent, "new", session=InMemorySession("s"), run_config=config)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_list_of_items_is_saved_with_a_session(streamed: bool) -> None:
    """Input items go after the history, and into the session."""
    session = InMemorySession("s")
    await session.add_items([{"role": "user", "content": "a"}])
    agent = _agent("ok")
    await _run(agent, [{"role": "user", "content": "b"}], session, streamed=streamed)
    assert [item["content"] for item in agent.model.calls[0].input] == ["a", "b"]  # type: ignore[union-attr]
    assert len(await session.get_items()) == 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_failed_run_did_is_saved(streamed: bool) -> None:
    """After a failure the session holds the input and every complete turn; the next run works."""
    session = InMemorySession("s")
    agent = _agent(ToolCall("ping"), Raise(ValueError("broken")), "works")
    with pytest.raises(ValueError, match="broken"):
        await _run(agent, "hi", session, streamed=streamed)
    assert _kinds(await session.get_items()) == ["user", "function_call", "function_call_output"]
    result = await _run(agent, "again", session, streamed=streamed)
    assert result.final_output == "works"


@pytest.mark.parametrize("streamed", [False, True])
async def test_max_turns_leaves_a_session_that_works(streamed: bool) -> None:
    """All turns that were made are kept."""
    session = InMemorySession("s")
    agent = _agent(ToolCall("ping"), "works")
    with pytest.raises(MaxTurnsExceeded):
        await _run(agent, "hi", session, streamed=streamed, max_turns=1)
    assert (await _run(agent, "again", session, streamed=streamed)).final_output == "works"


async def test_partial_text_is_saved_without_the_providers_id() -> None:
    """What readers saw of an answer that broke off is kept as an incomplete message that can be sent back."""
    session = InMemorySession("s")
    agent = _agent(say("one two three", fault=Raise(ValueError("broken"), after=2)), "works")
    result = Runner.run_streamed(agent, "hi", session=session)
    with pytest.raises(ValueError, match="broken"):
        await result.wait()
    saved: Any = (await session.get_items())[-1]
    assert (saved["status"], saved["content"][0]["text"]) == ("incomplete", "one two")
    assert "id" not in saved
    assert (await Runner.run(agent, "again", session=session)).final_output == "works"


class _Broken(InMemorySession):
    """Fails at the n-th write (from 1), or at every read."""

    def __init__(self, fails_at: int) -> None:
        super().__init__("broken")
        self.count = 0
        self.fails_at = fails_at

    async def get_items(self, limit: int | None = None) -> list[Any]:
        if self.fails_at == 0:
            raise OSError("cannot read")
        return await super().get_items(limit)

    async def add_items(self, items: list[Any]) -> None:
        self.count += 1
        if self.count == self.fails_at:
            raise OSError("disk full")
        await super().add_items(items)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
async def test_a_write_that_fails_fails_the_run(streamed: bool, fails_at: int) -> None:
    """The error is raised once, nothing is written after the gap, and nothing hangs."""
    session = _Broken(fails_at)
    with pytest.raises(OSError, match="disk full") as caught:
        await _run(_agent(ToolCall("ping"), "done"), "hi", session, streamed=streamed)
    assert session.count == fails_at
    assert caught.value.__context__ is None


async def test_a_read_that_fails_asks_no_model() -> None:
    """Without its history the conversation is not continued."""
    agent = _agent()
    with pytest.raises(OSError, match="cannot read"):
        await Runner.run(agent, "hi", session=_Broken(0))
    assert not agent.model.calls  # type: ignore[union-attr]


async def test_a_save_error_outweighs_the_runs_own_error() -> None:
    """What was to be kept is lost: that is raised, with the run's error as its context."""
    session = _Broken(2)
    agent = _agent(say("one two", fault=Raise(ValueError("model broke"), after=1)))
    result = Runner.run_streamed(agent, "hi", session=session)
    with pytest.raises(OSError, match="disk full") as caught:
        await result.wait()
    assert isinstance(caught.value.__context__, ValueError)
    assert [event.kind async for event in result.events()][-1] == "run.end"


async def test_a_save_error_after_success_is_raised() -> None:
    """A run whose last write fails has failed, although its output is there."""
    result = Runner.run_streamed(_agent("done"), "hi", session=_Broken(2))
    with pytest.raises(OSError, match="disk full"):
        await result.wait()
    log = [event async for event in result.events()]
    assert log[-1].data.status == "failed"


async def test_a_session_that_cancels_itself_is_an_error() -> None:
    """A write that ends in a cancellation of its own is not taken for a save."""

    class Odd(InMemorySession):
        async def add_items(self, items: list[Any]) -> None:
            if items[0].get("type") == "message":
                raise asyncio.CancelledError
            await super().add_items(items)

    result = Runner.run_streamed(_agent("done"), "hi", session=Odd("s"))
    with pytest.raises(RuntimeError, match="cancelled by something that it waited for"):
        await result.wait()


async def test_one_session_for_many_runs_at_once() -> None:
    """Runs that share a session each save what is theirs, whole turns at a time."""
    clock = FakeClock()
    session = _Recorder()
    agents = [
        Agent(
            name=f"A{n}",
            tools=[ping],
            model=ScriptedModel([ToolCall("ping", call_id=f"c{n}"), say("x y", every_s=n)], clock=clock),
        )
        for n in range(4)
    ]
    config = RunConfig(clock=clock)
    await asyncio.gather(*(Runner.run(agent, "hi", session=session, run_config=config) for agent in agents))
    assert sorted(map(tuple, session.writes)) == sorted(
        [("user",), ("function_call", "function_call_output"), ("message",)] * 4
    )


# Where the provider remembers.


async def test_a_conversation_of_the_provider_gets_only_what_is_new() -> None:
    """With conversation_id each call sends only what the provider has not seen."""
    agent = _agent(ToolCall("ping"), "done")
    await Runner.run(agent, "hi", conversation_id="conv_1")
    first, second = agent.model.calls  # type: ignore[union-attr]
    assert (first.conversation_id, second.conversation_id) == ("conv_1", "conv_1")
    assert (_kinds(first.input), _kinds(second.input)) == (["user"], ["function_call_output"])
    assert (first.previous_response_id, second.previous_response_id) == (None, None)


async def test_a_chain_of_responses_sends_only_what_is_new() -> None:
    """With previous_response_id each call goes on from the response before."""
    agent = _agent(ToolCall("ping"), "done")
    result = await Runner.run(agent, "hi", previous_response_id="resp_0")
    first, second = agent.model.calls  # type: ignore[union-attr]
    assert first.previous_response_id == "resp_0"
    assert second.previous_response_id == result.raw_responses[0].response_id
    assert (_kinds(first.input), _kinds(second.input)) == (["user"], ["function_call_output"])


async def test_auto_previous_response_id_chains_from_the_first_response() -> None:
    """Without an id to start from, the chain begins with the run's own first response."""
    agent = _agent(ToolCall("ping"), "done")
    result = await Runner.run(agent, "hi", auto_previous_response_id=True)
    first, second = agent.model.calls  # type: ignore[union-attr]
    assert first.previous_response_id is None
    assert second.previous_response_id == result.raw_responses[0].response_id
    assert _kinds(second.input) == ["function_call_output"]


async def test_without_them_everything_is_sent_each_time() -> None:
    """By default the program remembers: the whole conversation goes along."""
    agent = _agent(ToolCall("ping"), "done")
    await Runner.run(agent, "hi")
    assert _kinds(agent.model.calls[1].input) == ["user", "function_call", "function_call_output"]  # type: ignore[union-attr]


async def test_stuck_tools_do_not_hold_up_the_session() -> None:
    """However many plain tools block their threads, a run that ends saves its session at once."""
    gate, begun = threading.Event(), threading.Semaphore(0)

    @function_tool
    def stuck() -> str:
        begun.release()
        gate.wait(20.0)
        return "at last"

    calls = Turn(tuple(ToolCall("stuck", call_id=f"c{number}") for number in range(100)))
    session = SQLiteSession("s")
    result = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel([calls]), tools=[stuck]), "hi", session=session)
    try:
        for _ in range(40):  # more than asyncio's own pool has threads
            await asyncio.to_thread(begun.acquire, timeout=10.0)
        result.cancel()
        await result.wait()
        assert len(await session.get_items()) == 201
    finally:
        gate.set()
        session.close()
