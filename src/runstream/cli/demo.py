"""`runstream demo`: a support desk with tools and a handoff, streamed; without a key against a scripted model.

Owns the demonstration's agents, their script, and what the command says. Everything goes over HTTP, through the same
agents, whether the model is real or not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from runstream.cli.screen import Screen, smooth_option

if TYPE_CHECKING:
    from collections.abc import Generator

    from runstream.agent.agent import Agent
    from runstream.flow.text_units import Unit
    from runstream.run.config import RunConfig
    from runstream.run.result import RunResultStreaming
    from runstream.testing.script import Script

__all__ = ["command", "demo_script", "support_desk"]

_PROMPT = "My order 1042 came with a cracked lid. Can I have my money back?"
_SCRIPTED = "scripted model, no LLM: a local endpoint plays it over HTTP"

_LOOKING = "I am sorry to hear that. Let me look at your order first."
_ANSWER = (
    "Your refund is on its way. I have sent back the full 34.90 EUR for the Stonewell kettle, order 1042, under the "
    "number R-7301. The money goes to the card you paid with, and most banks show it within three to five working "
    "days.\n\n"
    "You do not have to return anything: a cracked lid cannot be repaired, so please take the kettle to a recycling "
    "point near you. Until then, do not boil water in it, since steam may escape at the side.\n\n"
    "If you would rather have a new kettle, write to us within fourteen days and we will send one instead, at no cost "
    "and without another form. Is there anything else that I can do for you today?"
)

_STOPPED = 130  # what shells report for a program that Ctrl-C has ended


@click.command("demo")
@click.argument("prompt", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the run's events as JSON lines, and nothing else.")
@click.option("--api", type=click.Choice(["responses", "chat"]), default="responses", show_default=True)
@click.option("--model", help="A real model's name.")
@click.option("--base-url", metavar="URL", help="A compatible server, such as http://localhost:11434/v1.")
@click.option("--fast", is_flag=True, help="The scripted model, and the tools, do not pause.")
@click.option("--chaos", is_flag=True, help="The scripted model fails again and again: see what the run does about it.")
@smooth_option
def command(
    prompt: str | None,
    as_json: bool,
    api: str,
    model: str | None,
    base_url: str | None,
    fast: bool,
    chaos: bool,
    smooth: Unit | None,
) -> None:
    """Stream a support desk: a question, a tool call, a handoff to a specialist, and an answer.

    Without a key a scripted model plays the conversation, the same whatever PROMPT asks. With OPENAI_API_KEY, or a
    --model and its --base-url, the same agents talk to that model. The exit status is 0 if the run was completed and
    its final output is the text that was streamed.
    """
    # A terminal or a file that cannot show a character gets a substitute, not an error.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    if chaos and (model is not None or base_url is not None):
        raise click.UsageError("--chaos is played by the scripted model: leave out --model and --base-url")
    service = None if chaos else _service(model, base_url)
    screen = Screen(as_json, smooth=smooth)
    show = _show_chaos(prompt or _PROMPT, screen, use_responses=api == "responses", fast=fast)
    if not chaos:
        show.close()
        show = _show(service, prompt or _PROMPT, screen, use_responses=api == "responses", fast=fast)
    try:
        status = asyncio.run(show)
    except KeyboardInterrupt:
        # Ctrl-C before the run, or where the event loop cannot take signals (Windows).
        status = _STOPPED
    if status == _STOPPED:
        screen.note("stopped: the run was cancelled")
    sys.exit(status)


def support_desk(model: str | None, *, pause_s: float = 0.0) -> Agent[Any]:
    """The demonstration's first agent. Its tools take `pause_s` seconds, as if they asked a database."""
    from runstream.agent.agent import Agent
    from runstream.agent.tool import function_tool
    from runstream.clock import system_clock

    @function_tool
    async def look_up_order(order_id: str) -> str:
        """Look up an order: what was bought, for how much, and whether it has arrived.

        Args:
            order_id: The order's number.
        """
        await system_clock.sleep(pause_s)
        if order_id != "1042":
            return f"there is no order {order_id}"
        return "Stonewell kettle, 34.90 EUR, delivered 2 days ago"

    @function_tool
    async def refund_order(order_id: str, reason: str) -> str:
        """Pay the whole price of an order back.

        Args:
            order_id: The order's number.
            reason: Why, in a few words.
        """
        await system_clock.sleep(pause_s)
        return "refund R-7301 of 34.90 EUR sent" if order_id == "1042" else f"there is no order {order_id}"

    refunds: Agent[Any] = Agent(
        name="Refund Agent",
        handoff_description="Decides on refunds and pays them.",
        instructions=(
            "You pay refunds for a shop. An article that came broken is refunded in full with refund_order, and need "
            "not be sent back. Then tell the customer, in 100 words or more, what you did and what happens next."
        ),
        tools=[refund_order],
        model=model,
    )
    return Agent(
        name="Support Desk",
        instructions=(
            "You are the first contact of a shop's support. Say in one sentence what you are going to do, look up the "
            "order, and hand over to the Refund Agent where the customer wants money back."
        ),
        tools=[look_up_order],
        handoffs=[refunds],
        model=model,
    )


def demo_script(*, fast: bool = False) -> Script:
    """What the scripted model says: about six seconds at a natural pace."""
    from runstream.testing.script import Script

    return Script(_turns(fast=fast))


def _turns(*, fast: bool) -> list[Any]:
    from runstream.testing.steps import HandoffTo, Message, ToolCall, Turn

    every_s, first_s = (0.0, 0.0) if fast else (0.025, 0.3)

    def turn(*parts: Any) -> Turn:
        return Turn(parts, every_s=every_s, first_after_s=first_s)

    return [
        turn(Message(_LOOKING), ToolCall("look_up_order", {"order_id": "1042"}, chunks="whole")),
        turn(HandoffTo("Refund Agent")),
        turn(ToolCall("refund_order", {"order_id": "1042", "reason": "cracked lid"}, chunks="whole")),
        turn(Message(_ANSWER)),
    ]


@dataclass(frozen=True, slots=True)
class _Service:
    """A real model to talk to; None leaves it to the environment and the defaults."""

    model: str | None
    base_url: str | None
    api_key: str | None

    def __str__(self) -> str:
        from runstream.agent.settings import get_default_model

        address = self.base_url or os.environ.get("OPENAI_BASE_URL") or "api.openai.com"
        return f"model {self.model or get_default_model()} at {address}"


def _service(model: str | None, base_url: str | None) -> _Service | None:
    """The service to use; None is the scripted one. Raises click.UsageError for a model without a place."""
    has_key = bool(os.environ.get("OPENAI_API_KEY"))
    has_address = bool(base_url or os.environ.get("OPENAI_BASE_URL"))
    if base_url is None and model is None and not has_key:
        return None
    if not has_key and not has_address:
        raise click.UsageError(
            f"--model {model} is somebody's model: set OPENAI_API_KEY for OpenAI's, or say with --base-url where it is"
        )
    # Servers on one's own machine need no key, but the client wants one.
    return _Service(model, base_url, None if has_key else "none")


async def _show(service: _Service | None, prompt: str, screen: Screen, *, use_responses: bool, fast: bool) -> int:
    """Run the agents and show the run; returns the exit status."""
    from runstream.models.provider import OpenAIProvider
    from runstream.run.config import RunConfig

    async with AsyncExitStack() as stack:
        if service is None:
            from runstream.testing.endpoint import Endpoint

            endpoint = await stack.enter_async_context(Endpoint(demo_script(fast=fast)))
            model, base_url, api_key = "scripted", endpoint.url, "scripted"
            screen.title(_SCRIPTED)
        else:
            model, base_url, api_key = service.model, service.base_url, service.api_key
            screen.title(str(service))
        provider = OpenAIProvider(api_key=api_key, base_url=base_url, use_responses=use_responses)
        desk = support_desk(model, pause_s=0.0 if fast else 0.25)
        status, _ = await _follow(desk, prompt, prompt, screen, RunConfig(model_provider=provider))
    return status


async def _show_chaos(prompt: str, screen: Screen, *, use_responses: bool, fast: bool) -> int:
    """The same with faults switched on, and once more after the model has recovered; returns the exit status."""
    from runstream.cli.chaos import THANKS, chaos_config, recovery_pause_s
    from runstream.clock import system_clock

    # What it has to say is on the screen.
    logging.getLogger("runstream").addHandler(logging.NullHandler())
    async with AsyncExitStack() as stack:
        screen.title(f"{_SCRIPTED}, with faults: 503, a reset, a silence; a breaker and a spare model")
        config = await chaos_config(
            stack,
            _turns(fast=fast),
            fast=fast,
            use_responses=use_responses,
            on_breaker=lambda breaker: screen.line("breaker", f"{breaker.endpoint.split()[-1]}: {breaker.state}"),
        )
        desk = support_desk("scripted", pause_s=0.0 if fast else 0.25)
        status, result = await _follow(desk, prompt, prompt, screen, config)
        if status:
            return status
        screen.line("model", f"{result.answered_by} has answered: {result.fallback_reason}")
        await system_clock.sleep(recovery_pause_s(fast=fast))
        thanks: Any = [*result.to_input_list(), {"role": "user", "content": THANKS}]
        status, result = await _follow(result.last_agent, thanks, THANKS, screen, config)
        if not status:
            screen.line("model", f"{result.answered_by} has answered: it has recovered")
    return status


async def _follow(
    agent: Agent[Any], input: Any, shown: str, screen: Screen, config: RunConfig
) -> tuple[int, RunResultStreaming]:
    """Run the agent and show the run as it goes; returns the exit status, too."""
    from runstream.render.figures import FiguresFold, describe
    from runstream.run.runner import Runner

    fold = FiguresFold()
    async with AsyncExitStack() as stack:
        screen.line("user", shown)
        result = Runner.run_streamed(agent, input, run_config=config)
        await stack.enter_async_context(result)
        events = await stack.enter_async_context(aclosing(screen.paced(result.events(), fold.apply)))
        with _cancelled_by_ctrl_c(result):
            async for event in events:
                screen.show(event)
    if fold.status == "cancelled":
        return _STOPPED, result
    if fold.figures.turns:
        screen.line("figures", describe(fold.figures))
    problem = _problem(result, fold.status, fold.last_message)
    if problem is not None:
        screen.note(f"Error: {problem}")
    return (0 if problem is None else 1), result


def _problem(result: RunResultStreaming, status: str | None, streamed: str) -> str | None:
    """Why the demonstration has failed, in one line; None if it has not."""
    from runstream.render.terminal import one_line

    error = result.run_loop_exception
    if error is not None:
        cause = error.__cause__
        # "Connection error." alone does not say what is wrong with the connection.
        reason = f" ({cause})" if cause is not None and str(cause) not in str(error) else ""
        return one_line(f"{type(error).__name__}: {error}{reason}")
    if status != "completed":
        return f"the run ended as {status}, not as completed"
    if result.final_output != streamed:
        return one_line(f"the streamed text is not the final output: {streamed!r} is not {result.final_output!r}")
    return None


@contextmanager
def _cancelled_by_ctrl_c(result: RunResultStreaming) -> Generator[None]:
    """The first Ctrl-C cancels the run, which then ends in order; a second one ends the program."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        result.cancel()

    try:
        loop.add_signal_handler(signal.SIGINT, stop)
    except (NotImplementedError, RuntimeError):  # Windows, and threads other than the first
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
