"""`runstream endpoint`: a local server that speaks OpenAI's API from a script, for programs in any language.

Owns the command's options, what it prints, and the script that is played when none is given.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runstream.testing.request import ScriptRequest
    from runstream.testing.script import Script
    from runstream.testing.steps import Turn

__all__ = ["command", "default_script"]


@click.command("endpoint")
@click.argument("script", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The port; 0, the default, takes a free one.")
@click.option("--api-key", help="Refuse requests without this key. By default any key will do.")
@click.option(
    "--fault",
    metavar="NAME[:N]",
    help="What goes wrong in every answer, after N deltas: 429, 500, reset, silence, broken-frame, no-end, "
    "truncated-body, error-event, failed, slow-first-byte.",
)
@click.option("--fault-times", type=click.IntRange(1), help="Only the first so many requests have the fault.")
@click.option("--quiet", is_flag=True, help="Do not print a line for each request.")
def command(
    script: str | None,
    host: str,
    port: int,
    api_key: str | None,
    fault: str | None,
    fault_times: int | None,
    quiet: bool,
) -> None:
    """Serve the OpenAI API (Responses and Chat Completions, streamed or not) from a script: no LLM, no key, no network.

    SCRIPT is a JSON file with the turns to play ("-" reads standard input). Without one, every question gets an answer
    of some sentences that repeats it. Stop with Ctrl-C.

    \b
    An example of a script:
      {"repeat": true, "turns": [
        {"tool_call": "get_weather", "arguments": {"city": "Paris"}, "when": {"after_tool": false}},
        {"say": "It is sunny in Paris.", "every_s": 0.05, "when": {"after_tool": true}},
        {"parts": [{"reasoning": "Not mine."}, {"handoff": "Billing Agent"}]},
        {"say": "This will not end well.", "fault": {"kind": "reset", "after": 3}}
      ]}

    A turn has `parts` (strings, or objects with `say`, `refusal`, `reasoning`, `tool_call`, `handoff` or `item`), or
    one part itself, and may have `chunks`, `every_s`, `first_after_s`, `usage`, `incomplete`, `interleave`, `fault`,
    `when`, `times`, `response_id`, `model` and `cut_bytes`. A script has `turns`, `repeat`, `default`, `fault` and
    `fault_times`.
    """
    from runstream.errors import UserError

    try:
        played = _load(script, fault, fault_times)
        if not quiet:
            logging.basicConfig(format="%(message)s", stream=sys.stderr)
            logging.getLogger("runstream.testing.endpoint").setLevel(logging.INFO)
        asyncio.run(_serve(played, host, port, api_key))
    except KeyboardInterrupt:
        # Where the loop cannot take signals (Windows), Ctrl-C arrives here.
        pass
    except UserError as error:
        raise click.ClickException(error.message) from error


def default_script() -> Script:
    """Answers whatever is asked, word by word, and says what it is."""
    from runstream.testing.script import Script

    return Script(default=_echo)


def _echo(request: ScriptRequest) -> Turn:
    from runstream.testing.steps import say

    asked = f'You said: "{request.user_text}". ' if request.user_text else ""
    return say(
        f"{asked}This answer comes from the scripted endpoint of runstream, not from a language model. It is the same "
        "each time, so you can build and test against it: the words arrive one by one, as a model's would. To decide "
        "what is said, and to try out tool calls, handoffs and faults, give the command a script.",
        every_s=0.02,
    )


def _load(path: str | None, fault: str | None, fault_times: int | None) -> Script:
    from runstream.testing.faults import Fault
    from runstream.testing.script import Script

    if path is None:
        script = default_script()
    elif path == "-":
        script = Script.from_json(sys.stdin.buffer.read())
    else:
        script = Script.load(path)
    if fault is not None:
        script = dataclasses.replace(script, fault=Fault.named(fault), fault_times=fault_times)
    elif fault_times is not None:
        raise click.UsageError("--fault-times needs --fault")
    return script


async def _serve(script: Script, host: str, port: int, api_key: str | None) -> None:
    from runstream.testing.endpoint import Endpoint

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:
            pass
    async with Endpoint(script, host=host, port=port, api_key=api_key) as endpoint:
        click.echo("Scripted model, no LLM. Ctrl-C stops it.")
        click.echo(endpoint.url)
        click.echo(f"export OPENAI_BASE_URL={endpoint.url} OPENAI_API_KEY={api_key or 'scripted'}")
        await stop.wait()
