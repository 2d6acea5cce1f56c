"""Approvals from another process: a run waits in place for a person, who answers from wherever they are.

By itself the program starts a second process that reads the run from its store and approves. With `--by-hand` it waits
for you: in another terminal, `runstream watch RUN`, and `runstream approve RUN CALL_ID` or `runstream reject ...`.
"""

import asyncio
import os
import sys
import tempfile

from openai.types.responses import ResponseTextDeltaEvent

from _service import service
from runstream import Agent, RunConfig, Runner, function_tool
from runstream.testing import ToolCall, say

STORE = os.environ.get("RUNSTREAM_STORE") or f"sqlite:///{tempfile.gettempdir()}/runstream-examples.db"


@function_tool(needs_approval=True)
def pay(euros: int, to: str) -> str:
    """Pay money to somebody."""
    return f"{euros} euros paid to {to}."


agent = Agent(name="Accountant", instructions="Pay what you are asked to pay, then say so.", tools=[pay])


async def work(*, by_hand: bool) -> None:
    """Carry the run out. It waits for the answer without a model call, a time limit or a poll."""
    config = RunConfig(store=STORE, on_approval="wait")
    result = Runner.run_streamed(agent, "Pay 200 euros to Ann.", run_config=config)
    approver = None
    async for event in result.events():
        if event.kind == "model" and isinstance(event.data, ResponseTextDeltaEvent):
            print(event.data.delta, end="", flush=True)
        elif event.kind == "item" and event.data.type == "tool_approval_item":
            print(f"[process {os.getpid()} waits for an approval]")
            if by_hand:
                print(f"runstream approve {result.run_id} {event.live.call_id} --store {STORE}", flush=True)
            else:
                approver = await asyncio.create_subprocess_exec(sys.executable, __file__, "approve", result.run_id)
        elif event.kind == "approval.resolved":
            print(f"[the answer has come: approved={event.data.approved}]")
        elif event.kind == "item" and event.data.name == "tool_output":
            print(f"[{event.live.output}]")
    if approver is not None:
        await approver.wait()
    print(f"\n\nFinal output: {result.final_output}")


async def approve(run_id: str) -> None:
    """Look at the run through its store, and approve what waits. This process needs the agent's name at the most."""
    result = await Runner.attach(run_id, store=STORE)
    while not result.pending_approvals:  # the request may still be on its way into the store
        await asyncio.sleep(0.05)
        result = await Runner.attach(run_id, store=STORE)
    for request in result.pending_approvals:
        print(f"[process {os.getpid()} approves {request.tool_name} {request.arguments}]", flush=True)
        await result.approve(request)


async def main() -> None:
    if sys.argv[1:2] == ["approve"]:
        await approve(sys.argv[2])
        return
    async with service(SCRIPT):
        await work(by_hand="--by-hand" in sys.argv)


# What the scripted model does where there is no key.
SCRIPT = [
    ToolCall("pay", {"euros": 200, "to": "Ann"}),
    say("Done: Ann has her 200 euros.", every_s=0.03),
]

if __name__ == "__main__":
    asyncio.run(main())
