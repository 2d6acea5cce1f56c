"""Function tools in a run: side by side, in threads, in time, and what becomes of their failures."""

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from runstream import (
    Agent,
    ModelBehaviorError,
    RunConfig,
    RunContextWrapper,
    RunItemStreamEvent,
    Runner,
    RunView,
    ToolGuardrailFunctionOutput,
    ToolOutputGuardrail,
    ToolsToFinalOutputResult,
    UserError,
    function_tool,
)
from runstream.agent.tool import FunctionTool, FunctionToolResult
from runstream.agent.tool_context import ToolContext
from runstream.errors import ToolTimeoutError
from runstream.events.codec import decode, encode
from runstream.run.bind import AgentBook, bind
from runstream.run.config import ToolErrorFormatterArgs, ToolExecutionConfig
from runstream.run.history import CANCELLED_OUTPUT
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn, function_call
from runstream.view.entries import ToolEntry

MARK = contextvars.ContextVar("MARK", default="unset")


def _agent(tools: list[Any], *calls: ToolCall, **fields: Any) -> Agent[Any]:
    """An agent whose model makes these calls in one response, and then says "done"."""
    return Agent(name="Ann", model=ScriptedModel([list(calls), "done"]), tools=tools, **fields)


def _outputs(agent: Agent[Any]) -> dict[str, Any]:
    """What the model was told about its calls in its second turn."""
    sent: Any = agent.model.calls[1].input  # type: ignore[union-attr]
    return {item["call_id"]: item["output"] for item in sent if item.get("type") == "function_call_output"}


async def _run(agent: Agent[Any], **config: Any) -> Any:
    return await Runner.run(agent, "hi", run_config=RunConfig(**config))


def _sleeper(clock: FakeClock) -> FunctionTool:
    @function_tool
    async def sleep(seconds: float) -> str:
        """Sleep."""
        await clock.sleep(seconds)
        return f"slept {seconds:g}"

    return sleep


async def test_calls_run_side_by_side_and_end_in_their_own_order() -> None:
    """Three calls take as long as the longest; each output is in the log at the moment its tool ends."""
    clock = FakeClock()
    calls = [ToolCall("sleep", {"seconds": s}, call_id=f"c{s}") for s in (30, 10, 20)]
    agent = _agent([_sleeper(clock)], *calls)
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    seen: list[tuple[str, float]] = []
    async for event in result.stream_events():
        if isinstance(event, RunItemStreamEvent) and event.name == "tool_output":
            seen.append((event.item.output, clock.now() - FakeClock().now()))  # type: ignore[union-attr]
    assert seen == [("slept 10", 10), ("slept 20", 20), ("slept 30", 30)]
    assert _outputs(agent) == {"c30": "slept 30", "c10": "slept 10", "c20": "slept 20"}


async def test_the_concurrency_limit_holds() -> None:
    """With a limit of two, never more than two tools are at work, and all get their turn."""
    clock = FakeClock()
    now: list[int] = [0]
    most: list[int] = []

    @function_tool
    async def work(n: int) -> str:
        now[0] += 1
        most.append(now[0])
        await clock.sleep(1.0)
        now[0] -= 1
        return str(n)

    agent = _agent([work], *[ToolCall("work", {"n": n}, call_id=f"c{n}") for n in range(7)])
    await _run(agent, clock=clock, tool_execution=ToolExecutionConfig(max_function_tool_concurrency=2))
    assert max(most) == 2
    assert len(_outputs(agent)) == 7


async def test_plain_functions_run_in_threads() -> None:
    """A plain function does not block the loop, sees the caller's context variables, and several run at once."""
    together = threading.Barrier(2, timeout=5)

    @function_tool
    def meet() -> str:
        together.wait()
        assert threading.current_thread() is not threading.main_thread()
        return MARK.get()

    MARK.set("mine")
    agent = _agent([meet], ToolCall("meet", call_id="a"), ToolCall("meet", call_id="b"))
    await _run(agent)
    assert _outputs(agent) == {"a": "mine", "b": "mine"}


async def test_tools_get_the_context() -> None:
    """ToolContext tells the call and its agent; RunContextWrapper and ToolContext share the run's usage."""
    seen: dict[str, Any] = {}

    @function_tool
    async def plain(context: RunContextWrapper[Any], n: int) -> str:
        seen["plain"] = (context.context, context.usage)
        return str(n)

    @function_tool
    async def full(context: ToolContext[Any], n: int) -> str:
        seen["full"] = (context.tool_name, context.tool_call_id, context.tool_arguments, context.agent)
        return str(n)

    mine = object()
    agent = _agent([plain, full], ToolCall("plain", {"n": 1}), ToolCall("full", {"n": 2}, call_id="c2"))
    result = await Runner.run(agent, "hi", context=mine)
    assert seen["plain"] == (mine, result.context_wrapper.usage)
    assert seen["full"] == ("full", "c2", '{"n":2}', agent)


# Failures


async def test_the_model_gets_to_know_of_a_failure() -> None:
    """By default an exception of a tool becomes a message for the model, and the run goes on."""

    @function_tool
    async def fail() -> str:
        raise ValueError("no luck")

    agent = _agent([fail], ToolCall("fail", call_id="c1"))
    assert (await _run(agent)).final_output == "done"
    assert "no luck" in _outputs(agent)["c1"]


@pytest.mark.parametrize(
    ("arguments", "message"), [("{broken", "valid JSON"), ('{"n": "x"}', "integer"), ("[]", "object"), ("{}", "n")]
)
async def test_arguments_that_do_not_fit_are_told_to_the_model(arguments: str, message: str) -> None:
    """Arguments that are no JSON, or fail validation, never reach the function."""
    ran: list[int] = []

    @function_tool
    async def count(n: int) -> str:
        ran.append(n)
        return "ok"

    agent = _agent([count], ToolCall("count", arguments, call_id="c1"))
    assert (await _run(agent)).final_output == "done"
    assert message in _outputs(agent)["c1"]
    assert ran == []


async def test_a_failure_function_words_the_message() -> None:
    """`failure_error_function` gets the context and the error."""

    def say(context: RunContextWrapper[Any], error: Exception) -> str:
        return f"sorry: {error}"

    @function_tool(failure_error_function=say)
    async def fail() -> str:
        raise ValueError("no luck")

    agent = _agent([fail], ToolCall("fail", call_id="c1"))
    await _run(agent)
    assert _outputs(agent) == {"c1": "sorry: no luck"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failure_that_is_raised_ends_the_run_and_its_siblings(streamed: bool) -> None:
    """With failure_error_function=None the error ends the run; siblings are cancelled, every call is answered."""
    clock = FakeClock()
    ends: list[str] = []

    @function_tool(failure_error_function=None)
    async def fail() -> str:
        await clock.sleep(1.0)
        raise ValueError("no luck")

    @function_tool
    async def slow() -> str:
        try:
            await clock.sleep(1000.0)
        finally:
            ends.append("stopped")
        return ""

    calls = [ToolCall(name, call_id=name) for name in ("slow", "fail", "sleep")]
    calls[2] = ToolCall("sleep", {"seconds": 0.5}, call_id="sleep")
    agent = _agent([slow, fail, _sleeper(clock)], *calls)
    config = RunConfig(clock=clock)
    with pytest.raises(UserError, match="Error running tool fail: no luck") as caught:  # noqa: PT012
        if streamed:
            await Runner.run_streamed(agent, "hi", run_config=config).wait()
        else:
            await Runner.run(agent, "hi", run_config=config)
    assert isinstance(caught.value.__cause__, ValueError)
    assert ends == ["stopped"]
    assert clock.now() - FakeClock().now() == 1.0
    assert caught.value.run_data is not None
    outputs = [item for item in caught.value.run_data.new_items if item.type == "tool_call_output_item"]
    assert [(item.raw_item["call_id"], item.output) for item in outputs] == [
        ("sleep", "slept 0.5"),
        ("slow", CANCELLED_OUTPUT),
        ("fail", CANCELLED_OUTPUT),
    ]


async def test_of_several_failures_the_first_calls_is_raised() -> None:
    """Tools that fail at the same moment give the same error each time: that of the first call."""

    def failing(name: str) -> FunctionTool:
        @function_tool(name_override=name, failure_error_function=None)
        async def fail() -> str:
            raise ValueError(name)

        return fail

    agent = _agent([failing("a"), failing("b")], ToolCall("b"), ToolCall("a"))
    with pytest.raises(UserError, match="Error running tool b"):
        await _run(agent)


async def test_a_cancellation_of_the_tools_own_is_a_failure_like_any_other() -> None:
    """A tool that is hit by the cancellation of something it waited for does not cancel the run."""

    async def something() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    @function_tool
    async def told() -> str:
        await asyncio.create_task(something())
        return ""

    @function_tool(failure_error_function=None)
    async def raised() -> str:
        raise asyncio.CancelledError

    agent = _agent([told], ToolCall("told", call_id="c1"))
    assert (await _run(agent)).final_output == "done"
    assert "error" in _outputs(agent)["c1"]
    with pytest.raises(UserError, match="what it waited for was cancelled"):
        await _run(_agent([raised], ToolCall("raised")))


async def test_a_tool_has_as_long_as_its_timeout() -> None:
    """Past its timeout a tool is cancelled and the model is told; other tools go on."""
    clock = FakeClock()

    @function_tool(timeout=5.0)
    async def slow() -> str:
        await clock.sleep(1000.0)
        return ""

    agent = _agent([slow, _sleeper(clock)], ToolCall("slow", call_id="a"), ToolCall("sleep", {"seconds": 8}, "b"))
    await _run(agent, clock=clock)
    assert clock.now() - FakeClock().now() == 8.0
    assert _outputs(agent) == {"a": "Tool 'slow' timed out after 5 seconds.", "b": "slept 8"}


async def test_a_timeout_can_end_the_run() -> None:
    """`timeout_behavior="raise_exception"` raises ToolTimeoutError, after every call was answered."""
    clock = FakeClock()

    @function_tool(timeout=5.0, timeout_behavior="raise_exception")
    async def slow() -> str:
        await clock.sleep(1000.0)
        return ""

    with pytest.raises(ToolTimeoutError, match="'slow' exceeded its time limit of 5 s") as caught:
        await _run(_agent([slow], ToolCall("slow")), clock=clock)
    assert caught.value.run_data is not None
    assert caught.value.run_data.new_items[-1].output == CANCELLED_OUTPUT


# What the agent may call


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_unknown_tool_ends_the_run(streamed: bool) -> None:
    """By default a call of a tool that does not exist is the model's error, which names the tools there are."""
    agent = _agent([_sleeper(FakeClock())], ToolCall("sleeep", call_id="c1"))
    with pytest.raises(ModelBehaviorError, match=r"Tool sleeep not found in agent Ann.*tools are: sleep") as caught:
        await (Runner.run_streamed(agent, "hi").wait() if streamed else Runner.run(agent, "hi"))
    assert caught.value.run_data is not None
    assert [item.type for item in caught.value.run_data.new_items] == ["tool_call_item", "tool_call_output_item"]


async def test_an_unknown_tool_can_be_told_to_the_model() -> None:
    """`tool_not_found_behavior` and `tool_error_formatter` make it a message; known tools of the turn run."""
    seen: list[ToolErrorFormatterArgs[Any]] = []

    def formatter(args: ToolErrorFormatterArgs[Any]) -> str:
        seen.append(args)
        return f"no {args.tool_name}"

    calls = (ToolCall("nope", call_id="a"), ToolCall("sleep", {"seconds": 0}, call_id="b"))
    agent = _agent([_sleeper(FakeClock())], *calls)
    config = {"tool_not_found_behavior": "return_error_to_model", "tool_error_formatter": formatter}
    assert (await _run(agent, **config)).final_output == "done"
    assert _outputs(agent) == {"a": "no nope", "b": "slept 0"}
    assert (seen[0].kind, seen[0].call_id) == ("tool_not_found", "a")


async def test_truncated_arguments_are_never_run() -> None:
    """A call whose arguments were cut off is an error, and its tool is not run."""
    ran: list[int] = []

    @function_tool
    async def pay(amount: int) -> str:
        ran.append(amount)
        return "paid"

    call = function_call("pay", '{"amount": 1', call_id="c1")
    call.status = "incomplete"
    agent = Agent(name="Ann", model=ScriptedModel([[call]]), tools=[pay])
    with pytest.raises(ModelBehaviorError, match="arguments of the call of 'pay' were cut off"):
        await _run(agent)
    cut = Turn((ToolCall("pay", {"amount": 123456}),), incomplete="max_output_tokens")
    streamed = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel([cut]), tools=[pay]), "hi")
    with pytest.raises(ModelBehaviorError, match="incomplete"):
        await streamed.wait()
    assert ran == []


async def test_is_enabled_decides_at_each_turn() -> None:
    """A tool that is not enabled is not sent to the model; functions are asked anew each turn."""
    asked: list[Any] = []

    def once(context: RunContextWrapper[Any], agent: Any) -> bool:
        asked.append(agent.name)
        return len(asked) == 1

    @function_tool(is_enabled=False)
    async def never() -> str:
        return ""

    @function_tool(is_enabled=once)
    async def first_turn_only() -> str:
        return "ok"

    agent = _agent([never, first_turn_only, _sleeper(FakeClock())], ToolCall("first_turn_only"))
    await _run(agent)
    first, second = agent.model.calls  # type: ignore[union-attr]
    assert first.tool_names == ("first_turn_only", "sleep")
    assert second.tool_names == ("sleep",)
    assert asked == ["Ann", "Ann"]


async def test_two_tools_of_one_name_are_refused_before_any_request() -> None:
    """The error names agent and tool, and says what to do; nothing is sent."""
    agent = _agent([_sleeper(FakeClock()), _sleeper(FakeClock())])
    with pytest.raises(UserError, match=r"two tools of the name 'sleep'.*name_override"):
        await _run(agent)
    assert not agent.model.calls  # type: ignore[union-attr]


async def test_two_tools_of_one_name_can_be_let_through(caplog: pytest.LogCaptureFixture) -> None:
    """With the policy "warn" the later one is used, and a warning says so."""

    @function_tool(name_override="sleep")
    async def other(seconds: float) -> str:
        return "other"

    agent = _agent([_sleeper(FakeClock()), other], ToolCall("sleep", {"seconds": 1}, call_id="c1"))
    await _run(agent, tool_name_collision_policy="warn")
    assert _outputs(agent) == {"c1": "other"}
    # Once, though there were two turns.
    assert caplog.messages == [f"Agent {agent.name!r} has two tools of the name 'sleep'; the later one is used"]


# tool_use_behavior


@function_tool
async def one() -> str:
    """One."""
    return "output one"


@function_tool
async def two() -> str:
    """Two."""
    return "output two"


CALLS = (ToolCall("one"), ToolCall("two"))


async def test_stop_on_first_tool() -> None:
    """The first call's output is the final one; all tools of the turn have run."""
    agent = _agent([one, two], *CALLS, tool_use_behavior="stop_on_first_tool")
    result = await _run(agent)
    assert result.final_output == "output one"
    assert len(agent.model.calls) == 1  # type: ignore[union-attr]
    assert [item.type for item in result.new_items].count("tool_call_output_item") == 2


async def test_stop_at_tool_names() -> None:
    """The output of a named tool ends the run; without a call of it the model is asked again."""
    stop = {"stop_at_tool_names": ["two"]}
    assert (await _run(_agent([one, two], *CALLS, tool_use_behavior=stop))).final_output == "output two"
    assert (await _run(_agent([one, two], ToolCall("one"), tool_use_behavior=stop))).final_output == "done"


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_decides_what_follows(is_async: bool) -> None:
    """A function of the context and the results may end the run, with any object, or let it go on."""
    seen: list[list[str]] = []

    def decide(context: RunContextWrapper[Any], results: list[FunctionToolResult]) -> ToolsToFinalOutputResult:
        seen.append([result.tool.name for result in results])
        return ToolsToFinalOutputResult(is_final_output=context.context == "stop", final_output={"made": 1})

    async def decide_async(context: RunContextWrapper[Any], results: list[FunctionToolResult]) -> Any:
        return decide(context, results)

    behavior: Any = decide_async if is_async else decide
    result = await Runner.run(_agent([one, two], *CALLS, tool_use_behavior=behavior), "hi", context="stop")
    assert result.final_output == {"made": 1}
    result = await Runner.run(_agent([one, two], *CALLS, tool_use_behavior=behavior), "hi", context="go on")
    assert result.final_output == "done"
    assert seen == [["one", "two"], ["one", "two"]]


async def test_a_function_that_decides_nothing_is_an_error() -> None:
    """What is no ToolsToFinalOutputResult is refused with the agent's name."""
    agent = _agent([one], ToolCall("one"), tool_use_behavior=lambda context, results: True)
    with pytest.raises(UserError, match="Agent 'Ann': tool_use_behavior must return a ToolsToFinalOutputResult"):
        await _run(agent)


async def test_tool_choice_is_reset_after_a_tool_call() -> None:
    """A forced tool call happens once, unless the agent wants it otherwise."""
    from runstream import ModelSettings

    for reset, expected in ((True, None), (False, "required")):
        settings = ModelSettings(tool_choice="required")
        agent = _agent([one], ToolCall("one"), model_settings=settings, reset_tool_choice=reset)
        await _run(agent)
        first, second = agent.model.calls  # type: ignore[union-attr]
        assert (first.model_settings.tool_choice, second.model_settings.tool_choice) == ("required", expected)


async def test_the_log_says_what_became_of_each_call() -> None:
    """Also where the words are the program's own: the model is told them, interfaces are told the outcome."""
    clock = FakeClock()

    @function_tool(failure_error_function=lambda context, error: "All is well!")
    def fails() -> str:
        raise ZeroDivisionError

    @function_tool(timeout=1.0, timeout_error_function=lambda context, error: "Patience.")
    async def slow() -> str:
        await clock.sleep(60)
        return "never"

    @function_tool(failure_error_function=lambda context, error: "Hm.")
    async def cancels() -> str:
        raise asyncio.CancelledError

    @function_tool(needs_approval=True)
    def pay() -> str:
        return "paid"

    @function_tool(
        tool_output_guardrails=[ToolOutputGuardrail(lambda data: ToolGuardrailFunctionOutput.reject_content("No."))]
    )
    def leaks() -> str:
        return "sk-1"

    inner = Agent(name="Inner", model=ScriptedModel([]))
    tools = [fails, slow, cancels, pay, leaks, inner.as_tool("ask", "Ask."), _sleeper(clock)]
    names = ("fails", "slow", "cancels", "pay", "leaks", "ask", "nobody")
    calls = [ToolCall(name, {"input": "x"} if name == "ask" else {}, call_id=name) for name in names]
    good, late = (ToolCall("sleep", {"seconds": seconds}, call_id=f"c{seconds}") for seconds in (1, 2))
    agent = Agent(name="Ann", model=ScriptedModel([[*calls, good], [late]]), tools=tools)
    config = RunConfig(clock=clock, on_approval="wait", tool_not_found_behavior="return_error_to_model")
    result = Runner.run_streamed(agent, "hi", run_config=config)
    view, outcomes = RunView(), {}
    async for event in result.events():
        view.apply(event)
        if event.kind == "item" and event.data.name == "tool_approval_item":
            await result.reject("pay", message="Not today.")
        elif event.kind == "item" and event.data.name == "tool_called" and event.data.raw.call_id == "c2":
            result.cancel()
        elif event.kind == "item" and event.data.name == "tool_output":
            again = decode(encode(event))
            bind(again, AgentBook([agent]))
            assert again.live.outcome == event.live.outcome
            outcomes[event.data.raw["call_id"]] = event.data.more["outcome"]
    assert outcomes == {
        "fails": "failed",
        "slow": "timed_out",
        "cancels": "failed",
        "pay": "rejected",
        "leaks": "rejected",
        "ask": "failed",
        "nobody": "failed",
        "c1": "done",
        "c2": "cancelled",
    }
    states: Any = {entry.call_id: entry.state for entry in view.entries if isinstance(entry, ToolEntry)}
    assert states == {**outcomes, "slow": "failed"}
