"""Durable runs: a run in a SQLite file that outlives its process. `kill -9` in mid-sentence, and another goes on.

By itself the program does both parts: it starts a second process that begins a run and is killed, and goes on with the
run here. Or do it yourself in two terminals: `06_durable_runs.py begin my-run`, and then `... resume my-run`.
"""

import asyncio
import os
import signal
import sys
import tempfile
import uuid

from openai.types.responses import ResponseTextDeltaEvent

from _service import service
from runstream import Agent, LeaseHeld, RunConfig, Runner, function_tool
from runstream.testing import Script, ToolCall, Turn, When, say

# A file that both processes find: no server is needed.
STORE = os.environ.get("RUNSTREAM_STORE") or f"sqlite:///{tempfile.gettempdir()}/runstream-examples.db"
# A run whose process was not heard of for a second may be taken over; by default it is five.
CONFIG = RunConfig(store=STORE, lease_s=1.0)


@function_tool
def book_room(people: int) -> str:
    """Book a meeting room."""
    print(f"[the room is booked, by process {os.getpid()}]")
    return f"Room 4, for {people} people, at ten."


agent = Agent(
    name="Assistant",
    instructions="Book the room with the tool, once. Then confirm it in three sentences.",
    tools=[book_room],
)


async def begin(run_id: str) -> None:
    """Start the run, and die in the middle of its answer: no `finally`, no cleaning up, nothing is said."""
    config = RunConfig(store=STORE, lease_s=1.0, run_id=run_id)
    pieces = 0
    async for event in Runner.run_streamed(agent, "A room for six, please.", run_config=config).stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            print(event.data.delta, end="", flush=True)
            pieces += 1
            if pieces == 12:
                print(f"\n[kill -9 {os.getpid()}]", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)


async def resume(run_id: str) -> None:
    """Go on with the run from its last completed step, and show its whole log."""
    while True:
        try:
            result = await Runner.resume(run_id, agent, store=STORE, run_config=CONFIG)
            break
        except LeaseHeld as error:
            print(f"[it is still {error.worker}'s]")
            await asyncio.sleep(0.5)

    async for event in result.events():
        if event.kind == "model" and isinstance(event.data, ResponseTextDeltaEvent):
            print(event.data.delta, end="", flush=True)
        elif event.kind == "item" and event.data.name == "tool_output":
            print(f"[tool: {event.live.output}]")
        elif event.kind == "attempt.discarded":
            print(f"\n[void since event {event.data.from_seq}: {event.data.detail}]")
    print(f"\n\nFinal output: {result.final_output}")


async def main() -> None:
    async with service(SCRIPT):
        if len(sys.argv) == 3:
            await {"begin": begin, "resume": resume}[sys.argv[1]](sys.argv[2])
            return
        run_id = f"run_{uuid.uuid4().hex[:8]}"
        print(f"=== {run_id} begins in another process ===")
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, "begin", run_id)
        print(f"[the process has ended with {await process.wait()}]\n\n=== it goes on in process {os.getpid()} ===")
        await resume(run_id)


# What the scripted model does where there is no key: a tool call, and once that is answered, the answer.
SCRIPT = Script(
    [
        Turn([ToolCall("book_room", {"people": 6})], when=When(after_tool=False)),
        Turn(
            say("Your room is booked. It is room 4, which has seats for six. It is yours from ten o'clock on.").parts,
            every_s=0.05,
            when=When(after_tool=True),
        ),
    ],
    repeat=True,
)

if __name__ == "__main__":
    asyncio.run(main())
