"""What becomes of a run whose readers go away."""

import asyncio
import gc
from typing import Any

import pytest

from runstream import Agent, RunConfig, RunItemStreamEvent, Runner, function_tool
from runstream.run.result import RunResultStreaming
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, ScriptedModel, ToolCall, say


class _Desk:
    """A run with a tool that takes a thousand seconds, and what became of it."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.stopped: list[str] = []
        self.model = ScriptedModel([ToolCall("slow", call_id="c1"), "done"], clock=self.clock)
        self.session = InMemorySession("s")

        @function_tool
        async def slow() -> str:
            try:
                await self.clock.sleep(1000.0)
                self.stopped.append("finished")
            except asyncio.CancelledError:
                self.stopped.append("cancelled")
                raise
            return "slow result"

        self.result = Runner.run_streamed(
            Agent(name="Ann", model=self.model, tools=[slow]),
            "hi",
            run_config=RunConfig(clock=self.clock, **config),
            session=self.session,
        )

    async def ended(self) -> list[Any]:
        """All events, once there is nothing more to come; the clock must not have waited for the tool."""
        return [event async for event in self.result.events()]

    async def assert_cancelled(self) -> None:
        """The run was cancelled at once: its tool stopped, its call is answered, and the session is saved."""
        started_at = self.clock.now()
        events = await self.ended()
        assert self.clock.now() - started_at < 20.0
        assert events[-1].data.status == "cancelled"
        assert self.stopped == ["cancelled"]
        assert len(self.model.calls) == 1
        types = [item.get("type", item.get("role")) for item in await self.session.get_items()]  # type: ignore[union-attr]
        assert types == ["user", "function_call", "function_call_output"]

    async def assert_finished(self) -> None:
        """The run came to its regular end."""
        assert (await self.ended())[-1].data.status == "completed"
        assert self.stopped == ["finished"]
        assert self.result.final_output == "done"


def _called(event: Any) -> bool:
    return isinstance(event, RunItemStreamEvent) and event.name == "tool_called"


async def _read_to_the_call(result: RunResultStreaming) -> Any:
    """A reader that has come to the tool call and is still open."""
    reader = result.stream_events()
    async for event in reader:
        if _called(event):
            break
    return reader


async def test_break_cancels_the_run() -> None:
    """Leaving the loop is enough: no close, no cancel."""
    desk = _Desk()
    async for event in desk.result.stream_events():
        if _called(event):
            break
    assert desk.result.is_complete
    await desk.assert_cancelled()


async def test_break_before_the_first_turn_asks_no_model() -> None:
    """Abandoned at its first event, the run does not begin its first model call."""
    desk = _Desk()
    async for _ in desk.result:
        break
    assert (await desk.ended())[-1].data.status == "cancelled"
    assert desk.stopped == []


async def test_an_exception_in_the_body_cancels_the_run() -> None:
    """The body's error comes through and the run ends."""
    desk = _Desk()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async for event in desk.result.stream_events():
            if _called(event):
                raise ZeroDivisionError
    await desk.assert_cancelled()


async def test_aclose_cancels_the_run_and_returns_after_its_end() -> None:
    """aclose() waits for the end of the run that it takes with it."""
    desk = _Desk()
    reader = await _read_to_the_call(desk.result)
    await reader.aclose()
    assert desk.stopped == ["cancelled"]
    await desk.assert_cancelled()
    await reader.aclose()


@pytest.mark.parametrize("kind", ["stream_events", "events"])
async def test_a_half_read_iterator_that_is_collected_cancels_the_run(kind: str) -> None:
    """Dropping the last reference has the same effect as closing."""
    desk = _Desk()
    reader = getattr(desk.result, kind)()
    async for event in reader:
        if _called(event) or getattr(event, "kind", "") == "item":
            break
    await desk.clock.settle()
    del reader
    await desk.assert_cancelled()


async def test_a_reader_in_a_reference_cycle_counts_until_it_is_collected() -> None:
    """The garbage collector ends what reference counting cannot."""
    desk = _Desk()

    async def abandon() -> None:
        holder: list[Any] = [await _read_to_the_call(desk.result)]
        holder.append(holder)

    gc.disable()
    try:
        await abandon()
        assert not desk.result.is_complete
        gc.collect()
    finally:
        gc.enable()
    assert desk.result.is_complete
    await desk.assert_cancelled()


async def test_a_reader_that_another_thread_collects_cancels_the_run() -> None:
    """The garbage collector may run in any thread; the run ends in its own loop all the same."""
    desk = _Desk()
    holder = [await _read_to_the_call(desk.result)]
    # The thread that is started takes the only reference along.
    await asyncio.to_thread(holder.clear)
    await desk.assert_cancelled()


async def test_cancelling_the_reading_task_cancels_the_run() -> None:
    """The task that reads goes away, and with it the run."""
    desk = _Desk()

    async def read() -> None:
        async for _ in desk.result.stream_events():
            pass

    # Whoever still holds the task and its error does not hold the reader.
    reading = asyncio.create_task(read())
    desk.clock.autojump = False
    await desk.clock.settle()
    assert not desk.stopped
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    desk.clock.autojump = True
    await desk.assert_cancelled()
    assert reading.cancelled()


async def test_leaving_async_with_early_cancels_the_run_and_waits() -> None:
    """At the end of the block the run has ended, and the session is saved."""
    desk = _Desk()
    async with desk.result as result:
        async for event in result.stream_events():
            if _called(event):
                break
    assert result.is_complete
    assert desk.stopped == ["cancelled"]
    await desk.assert_cancelled()


async def test_an_error_in_async_with_cancels_the_run() -> None:
    """The error of the block comes through, after the run has ended."""
    desk = _Desk()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with desk.result as result:
            await _read_to_the_call(result)
            raise ZeroDivisionError
    assert desk.stopped == ["cancelled"]


async def test_async_with_around_a_whole_run_changes_nothing() -> None:
    """A run that was read to its end is complete, not cancelled."""
    desk = _Desk()
    async with desk.result as result:
        async for _ in result:
            pass
    await desk.assert_finished()


@pytest.mark.parametrize("leave", ["break", "aclose", "with"])
async def test_a_detached_run_goes_on(leave: str) -> None:
    """on_abandon="detach" lets the run finish after break, aclose() and the end of `async with`."""
    desk = _Desk(on_abandon="detach")
    if leave == "with":
        async with desk.result as result:
            await _read_to_the_call(result)
    else:
        reader = await _read_to_the_call(desk.result)
        if leave == "aclose":
            await reader.aclose()
        del reader
    assert not desk.result.is_complete
    await desk.assert_finished()


async def test_a_run_that_nobody_ever_read_goes_on() -> None:
    """Without a reader there is none to lose: the run comes to its end."""
    desk = _Desk()
    while not desk.result.is_complete:
        await desk.clock.sleep(100.0)
    await desk.assert_finished()


async def test_a_result_that_is_dropped_unread_goes_on() -> None:
    """Even a result that nobody holds runs to its end."""
    desk = _Desk()
    del desk.result
    gc.collect()
    while len(await desk.session.get_items()) < 4:
        await desk.clock.sleep(100.0)
    assert desk.stopped == ["finished"]


@pytest.mark.parametrize("way", ["await task", "wait", "gather", "callback"])
async def test_a_run_that_somebody_awaits_is_not_abandoned(way: str) -> None:
    """While the run is awaited through its task or wait(), readers may come and go."""
    desk = _Desk()
    task = desk.result.run_loop_task
    assert task is not None

    async def wait() -> None:
        if way == "await task":
            await task
        elif way == "gather":
            await asyncio.gather(task)
        elif way == "wait":
            assert await desk.result.wait() is desk.result

    waiting = asyncio.create_task(wait())
    if way == "callback":
        task.add_done_callback(lambda _: None)
    await asyncio.sleep(0)
    reader = await _read_to_the_call(desk.result)
    await reader.aclose()
    assert not desk.result.is_complete
    await waiting
    await desk.assert_finished()


async def test_a_run_whose_waiter_gave_up_can_be_abandoned() -> None:
    """wait() counts only as long as it waits."""
    desk = _Desk()
    reader = await _read_to_the_call(desk.result)
    waiting = asyncio.create_task(desk.result.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await reader.aclose()
    await desk.assert_cancelled()


@pytest.mark.parametrize("way", ["wait", "wait_for", "gather"])
@pytest.mark.parametrize("reader_leaves", ["before", "after"])
async def test_who_awaited_the_task_in_vain_does_not_wait_any_more(way: str, reader_leaves: str) -> None:
    """A limit that expired, or a cancelled wait, ends the claim: without readers the run is abandoned then."""
    desk = _Desk()
    task = desk.result.run_loop_task
    assert task is not None
    reader = await _read_to_the_call(desk.result)

    async def wait() -> None:
        if way == "wait":
            await asyncio.wait([task])
        elif way == "wait_for":
            await asyncio.wait_for(asyncio.shield(task), 1000.0)
        else:
            await asyncio.gather(asyncio.shield(task))

    waiting = asyncio.create_task(wait())
    desk.clock.autojump = False
    await desk.clock.settle()
    closing = asyncio.create_task(reader.aclose()) if reader_leaves == "before" else None
    await desk.clock.settle()
    assert not desk.result.is_complete
    waiting.cancel()
    await asyncio.wait([waiting])
    if closing is None:
        assert not desk.result.is_complete
        closing = asyncio.create_task(reader.aclose())
    await closing
    desk.clock.autojump = True
    await desk.assert_cancelled()


async def test_only_the_last_reader_takes_the_run_with_it() -> None:
    """Another reader, of either kind, keeps the run alive."""
    desk = _Desk()
    first = await _read_to_the_call(desk.result)
    others = [desk.result.stream_events(), desk.result.events()]
    for other in others:
        await anext(other)  # type: ignore[arg-type]
    await first.aclose()
    await others[0].aclose()
    assert not desk.result.is_complete
    await others[1].aclose()
    await desk.assert_cancelled()


async def test_a_reader_that_was_never_begun_does_not_count() -> None:
    """Making an iterator is no reading, and dropping it no leaving."""
    desk = _Desk()
    unread = desk.result.stream_events()
    await unread.aclose()
    del unread
    desk.result.events()
    await desk.assert_finished()


async def test_a_timed_out_anext_abandons_nothing() -> None:
    """A read that is given up leaves the reader, and the run, as they are."""
    desk = _Desk()
    desk.clock.autojump = False
    reader = await _read_to_the_call(desk.result)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(reader), 0.001)
    assert not desk.result.is_complete
    desk.clock.autojump = True
    assert [event async for event in reader][-1].type == "run_item_stream_event"
    await desk.assert_finished()


async def test_abandoning_closes_the_models_stream() -> None:
    """In the middle of an answer the provider's stream is closed at once."""
    clock = FakeClock()
    model = ScriptedModel([say("one two three", every_s=1000.0)], clock=clock)
    agent = Agent(name="Ann", model=model)
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    async for event in result:
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            assert model.open_streams == 1
            break
    await result.wait()
    assert (model.open_streams, model.abandoned_streams) == (0, 1)
    assert clock.now() == FakeClock().now()


async def test_abandoning_is_bounded_although_a_tool_ignores_it() -> None:
    """A tool that does not stop holds up the end by the limit at most."""
    clock = FakeClock()

    @function_tool
    async def stubborn() -> str:
        while True:
            try:
                await clock.sleep(50.0)
                return "at last"
            except asyncio.CancelledError:
                continue

    model = ScriptedModel([ToolCall("stubborn")], clock=clock)
    config = RunConfig(clock=clock, cancel_timeout_s=2.0)
    result = Runner.run_streamed(Agent(name="Ann", model=model, tools=[stubborn]), "hi", run_config=config)
    async with result:
        async for event in result:
            if _called(event):
                break
    assert clock.now() - FakeClock().now() == 2.0
    await clock.sleep(100.0)


async def test_the_reader_of_a_task_that_was_cancelled_is_gone_with_it() -> None:
    """A cancelled task keeps its frames and a reader in them: once it is dropped, the run is abandoned all the same."""
    desk = _Desk()
    begun = asyncio.Event()

    async def read() -> None:
        reader = desk.result.stream_events()
        async for _ in reader:
            begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    assert desk.result.status == "running"
    reading.cancel()
    await asyncio.wait({reading})
    del reading
    await desk.result._run.wait_ended()
    assert desk.result.status == "cancelled"
    assert "finished" not in desk.stopped
