"""A run is cancelled before each single step of the event loop, in every way there is; each time it ends properly.

The run is the same each time: it has a slow model, parallel tools, hooks, callbacks, a handoff and a session, so that
every await of the main path is among the steps.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runstream import Agent, AgentHooks, ModelSettings, RunConfig, RunHooks, Runner, function_tool
from runstream.errors import RunNotFound, StoreError
from runstream.log.follow import Follower
from runstream.log.memory_store import MemoryStore
from runstream.run.active import ActiveRun
from runstream.run.config import CallModelData, ModelInputData
from runstream.run.history import CANCELLED_OUTPUT, input_items_of
from runstream.run.result import RunResultStreaming
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, Fault, HandoffTo, ScriptedModel, ToolCall, Turn

# Longer than a cancelled run may take with the default limits.
BOUND_S = 20.0


class _SweepLoop(asyncio.SelectorEventLoop):
    """Counts what is scheduled while `counting`, and puts `strike` right before the callback number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.count = 0
        self.counting = False
        self.strike: Callable[[], None] | None = None

    def begin(self, strike: Callable[[], None]) -> None:
        """Count from now on."""
        self.strike = strike
        self.counting = True

    def call_soon(self, callback: Any, *arguments: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        # The fake clock looks at the loop in each turn: that is no step of the run.
        if self.counting and type(getattr(callback, "__self__", None)).__name__ != "_Watch":
            self.count += 1
            if self.count == self.at and self.strike is not None:
                self.counting = False
                super().call_soon(self.strike)
        return super().call_soon(callback, *arguments, context=context)


class _SlowSession(InMemorySession):
    """Every read and write takes some time, and some of it before anything is done."""

    def __init__(self, clock: FakeClock, delay_s: float) -> None:
        super().__init__("s")
        self._clock, self._delay_s = clock, delay_s

    async def get_items(self, limit: int | None = None) -> list[Any]:
        await self._clock.sleep(self._delay_s)
        return await super().get_items(limit)

    async def add_items(self, items: list[Any]) -> None:
        await self._clock.sleep(self._delay_s)
        await super().add_items(items)
        await self._clock.sleep(self._delay_s)


class _Hooks(RunHooks):
    """Each hook waits a little."""

    def __getattribute__(self, name: str) -> Any:
        return _pause if name.startswith("on_") else super().__getattribute__(name)


class _HooksOfAgent(AgentHooks):
    def __getattribute__(self, name: str) -> Any:
        return _pause if name.startswith("on_") else super().__getattribute__(name)


async def _pause(*arguments: Any, **fields: Any) -> None:
    await asyncio.sleep(0)


async def _same_input(data: CallModelData[Any]) -> ModelInputData:
    await asyncio.sleep(0)
    return data.model_data


async def _instructions(context: Any, agent: Any) -> str:
    await asyncio.sleep(0)
    return "Be kind."


class _Scene:
    """One run of the scene, with everything that there is to look at."""

    def __init__(self, *, session_delay_s: float, durable: bool = False) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock) if durable else None
        self.session = _SlowSession(self.clock, session_delay_s)
        self.struck_at: float | None = None
        self.model = ScriptedModel(
            [
                Fault("http_error", status=503),
                Turn(("Wait a bit.", ToolCall("slow"), ToolCall("quick"), ToolCall("threaded")), every_s=0.5),
                HandoffTo("Bob"),
                Turn(("This is all.",), every_s=0.5),
            ],
            clock=self.clock,
        )

        @function_tool
        async def slow() -> str:
            await self.clock.sleep(3.0)
            return "slow result"

        @function_tool
        async def quick() -> str:
            await asyncio.sleep(0)
            return "quick result"

        @function_tool(timeout=50.0)
        async def threaded() -> str:
            await self.clock.sleep(1.0)
            return "result"

        bob = Agent(name="Bob", model=self.model, instructions=_instructions)
        self.agent = Agent(
            name="Ann",
            model=self.model,
            instructions=_instructions,
            tools=[slow, quick, threaded],
            handoffs=[bob],
            hooks=_HooksOfAgent(),
            model_settings=ModelSettings(timeout=100.0),
        )
        self.options: dict[str, Any] = {
            "session": self.session,
            "hooks": _Hooks(),
            "run_config": RunConfig(clock=self.clock, call_model_input_filter=_same_input, store=self.store),
        }

    def strike(self, action: Callable[[], Any]) -> Callable[[], None]:
        """Do it, and note when."""

        def struck() -> None:
            self.struck_at = self.clock.now()
            action()

        return struck

    async def check(self, run: ActiveRun, *, may_finish: bool) -> None:
        """The run has ended as a run must."""
        if self.struck_at is not None:
            assert self.clock.now() - self.struck_at < (BOUND_S if not may_finish else 60.0)
        follower = Follower(run.log)
        events = list(iter(follower.next_nowait, None))
        assert [event.kind for event in events if event.kind.startswith("run.")] == ["run.start", "run.end"]
        assert (events[0].kind, events[-1].kind) == ("run.start", "run.end")
        assert events[-1].data.status in ("cancelled", "completed")
        assert run.error is None
        assert self.model.open_streams == 0
        if self.store is not None:
            await self.check_store(run, events)
        for _ in range(5):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        stored: list[Any] = await self.session.get_items()
        expected = input_items_of(run.items)
        assert stored in ([], [{"role": "user", "content": "hi"}, *expected])
        assert stored or not expected
        calls = [item["call_id"] for item in stored if item.get("type") == "function_call"]
        outputs = [item["call_id"] for item in stored if item.get("type") == "function_call_output"]
        assert sorted(calls) == sorted(outputs)
        assert len(set(calls)) == len(calls)
        again = Agent(name="Ann", model=ScriptedModel(["works"]))
        result = await Runner.run(again, "more", session=self.session)
        assert result.final_output == "works"

    async def check_store(self, run: ActiveRun, events: list[Any]) -> None:
        """The store has the whole log with its end, or nothing of a run that ended before it was entered."""
        assert self.store is not None
        assert run.durable is None or run.durable.writer.committed_seq == events[-1].seq
        try:
            record = await self.store.find(run.run_id)
        except StoreError:
            return  # it was not opened
        except RunNotFound:
            return
        if run.durable is None:
            # Entered, and cancelled in that very moment: nothing is in its log, and its lease runs out.
            assert (record.last_seq, record.ended) == (0, False)
            return
        assert (record.last_seq, record.status) == (events[-1].seq, events[-1].data.status)
        followed = await Runner.attach(run.run_id, store=self.store)
        stored = [event async for event in followed.events()]
        assert [(event.seq, event.kind) for event in stored] == [(event.seq, event.kind) for event in events]


async def _ended(result: RunResultStreaming) -> ActiveRun:
    run = result._run
    await run.wait_ended()
    if result.run_loop_task is not None:
        await asyncio.wait({result.run_loop_task})
    return run


async def _by_cancel(scene: _Scene, loop: _SweepLoop, mode: Any) -> None:
    result = Runner.run_streamed(scene.agent, "hi", **scene.options)
    loop.begin(scene.strike(lambda: result.cancel(mode)))
    after_cancel = 0
    async for _ in result.stream_events():
        after_cancel += result.is_complete and mode == "immediate" and not result._run.ended
    loop.counting = False
    assert after_cancel == 0
    await scene.check(await _ended(result), may_finish=mode == "after_turn")


async def _by_reader(scene: _Scene, loop: _SweepLoop, mode: Any) -> None:
    async def read() -> None:
        async for _ in result.stream_events() if mode == "view" else result.events():
            pass

    def strike() -> None:
        began.append(bool(result._run._readers))
        reading.cancel()

    began: list[bool] = []
    result = Runner.run_streamed(scene.agent, "hi", **scene.options)
    reading = asyncio.create_task(read())
    loop.begin(scene.strike(strike))
    await asyncio.wait({reading})
    loop.counting = False
    # A reader that goes before its first read leaves nothing behind: the run goes on.
    await scene.check(await _ended(result), may_finish=began != [True])
    assert reading.cancelled() or result.final_output == "This is all."


async def _by_caller(scene: _Scene, loop: _SweepLoop, mode: Any) -> None:
    def strike() -> None:
        running.cancel()
        if mode == "twice":
            loop.call_soon(loop.call_soon, running.cancel)

    runs: list[ActiveRun] = []

    original = ActiveRun.start

    def start(self: ActiveRun, drive: Any) -> None:
        runs.append(self)
        original(self, drive)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActiveRun, "start", start)
        running = asyncio.create_task(Runner.run(scene.agent, "hi", **scene.options))
        loop.begin(scene.strike(strike))
        await asyncio.wait({running})
        loop.counting = False
    if not runs:
        assert running.cancelled()  # before its first step
        return
    await scene.check(runs[0], may_finish=False)
    assert running.cancelled() or running.result().final_output == "This is all."


WAYS: dict[str, tuple[Any, Any]] = {
    "cancel": (_by_cancel, "immediate"),
    "cancel after_turn": (_by_cancel, "after_turn"),
    "reader of the view": (_by_reader, "view"),
    "reader of the log": (_by_reader, "log"),
    "caller of run": (_by_caller, "once"),
    "caller of run, again while it ends": (_by_caller, "twice"),
}


def _sweep_at(way: str, at: int, session_delay_s: float, *, durable: bool = False) -> tuple[int, bool]:
    """Run the scene with a strike before that step. Returns the number of steps, and whether the strike came."""
    perform, mode = WAYS[way]
    scene = _Scene(session_delay_s=session_delay_s, durable=durable)
    loops: list[_SweepLoop] = []

    def make() -> _SweepLoop:
        loops.append(_SweepLoop(at))
        return loops[0]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(perform(scene, runner.get_loop(), mode))
    return loops[0].count, scene.struck_at is not None


@pytest.mark.parametrize(("session_delay_s", "stride"), [(0.0, 1), (2.0, 2)])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_ends_properly_wherever_it_is_cancelled(way: str, session_delay_s: float, stride: int) -> None:
    """For every step k: exactly one run.end, a valid session written once, nothing left, in bounded time."""
    steps, _ = _sweep_at(way, 0, session_delay_s)
    assert steps > 100
    for at in range(1, steps + 1, stride):
        try:
            _, struck = _sweep_at(way, at, session_delay_s)
        except BaseException as error:
            error.add_note(f"cancelled before step {at} of {steps}")
            raise
        assert struck


@pytest.mark.parametrize(("way", "stride"), [("cancel", 1), ("cancel after_turn", 3), ("caller of run", 3)])
def test_a_durable_run_ends_properly_wherever_it_is_cancelled(way: str, stride: int) -> None:
    """As above, and its store has the same log, with its end."""
    steps, _ = _sweep_at(way, 0, 0.0, durable=True)
    for at in range(1, steps + 1, stride):
        try:
            _sweep_at(way, at, 0.0, durable=True)
        except BaseException as error:
            error.add_note(f"cancelled before step {at} of {steps}")
            raise


def test_the_scene_covers_what_it_is_for() -> None:
    """Undisturbed, the scene has a retry, all three tools, the handoff and the answer."""
    scene = _Scene(session_delay_s=0.0)
    result = asyncio.run(Runner.run(scene.agent, "hi", **scene.options))
    assert result.final_output == "This is all."
    assert [item.type for item in result.new_items].count("tool_call_output_item") == 3
    assert result.context_wrapper.usage.requests == 4
    assert not any(getattr(item, "output", None) == CANCELLED_OUTPUT for item in result.new_items)
