"""Streaming with handoffs: several agents, one stream. It says who is in control, and goes on through every handoff."""

import asyncio
import time

from openai.types.responses import ResponseTextDeltaEvent

from _service import service
from runstream import Agent, Runner, RunResultStreaming, function_tool
from runstream.testing import HandoffTo, ToolCall, Turn


@function_tool
def look_up_invoice(number: str) -> str:
    """What is known about an invoice."""
    return f"Invoice {number}: 30 euros, paid on 2 March and again on 3 March."


@function_tool
def refund(invoice_number: str, euros: int) -> str:
    """Pay money back to the customer."""
    return f"{euros} euros for invoice {invoice_number} are on their way."


refund_agent = Agent(
    name="Refund Agent",
    handoff_description="Pays money back.",
    instructions="Refund what was paid too much, then tell the customer.",
    tools=[refund],
)
billing_agent = Agent(
    name="Billing Agent",
    handoff_description="Knows invoices and payments.",
    instructions="Look the invoice up. If something was paid twice, hand over to the Refund Agent.",
    tools=[look_up_invoice],
    handoffs=[refund_agent],
)
technical_agent = Agent(
    name="Technical Agent",
    handoff_description="Knows routers and connections.",
    instructions="Help the customer with the connection, in one or two sentences.",
)
triage_agent = Agent(
    name="Triage Agent",
    instructions="Hand over to the agent that can help. Do not answer yourself.",
    handoffs=[billing_agent, technical_agent],
)


async def answer(result: RunResultStreaming) -> None:
    """Show the run as it goes, then who was in control, and for how long."""
    start = time.perf_counter()
    agents: list[str] = []
    since_s: list[float] = []
    in_text = False

    async for event in result.stream_events():
        if event.type == "raw_response_event":
            if isinstance(event.data, ResponseTextDeltaEvent):
                # Whichever agent writes: its text comes through the same stream.
                print("" if in_text else "  ", event.data.delta, sep="", end="", flush=True)
                in_text = True
            continue
        if in_text:
            print()
            in_text = False

        if event.type == "agent_updated_stream_event":
            agents.append(event.new_agent.name)
            since_s.append(time.perf_counter() - start)
            print(f"{event.new_agent.name}:")
        elif event.item.type == "tool_call_item":
            print(f"  [{event.item.tool_name} {event.item.raw_item.arguments}]")
        elif event.item.type == "tool_call_output_item":
            print(f"  [{event.item.output}]")
        elif event.item.type == "handoff_output_item":
            print(f"  [hands over to the {event.item.target_agent.name}]")

    print(f"\nPath: {' -> '.join(agents)} ({result.current_turn} model calls)")
    for name, begun_s, ended_s in zip(agents, since_s, [*since_s[1:], time.perf_counter() - start], strict=True):
        print(f"  {name:16} in control for {ended_s - begun_s:.2f} s")
    print(f"The {result.last_agent.name} had the last word.\n")


async def main() -> None:
    async with service(SCRIPT):
        question = "I think I have paid invoice 1042 twice."
        print(f"Customer: {question}\n")
        result = Runner.run_streamed(triage_agent, question)
        await answer(result)

        # The next message goes on with the same conversation, and back to triage.
        question = "Thank you! And the light of my router is red."
        print(f"Customer: {question}\n")
        conversation = result.to_input_list()
        conversation.append({"role": "user", "content": question})
        await answer(Runner.run_streamed(triage_agent, conversation))


# What the scripted model does where there is no key: after a moment, token by token.
SCRIPT = [
    Turn([part], first_after_s=0.15, every_s=0.02)
    for part in (
        HandoffTo(billing_agent),
        ToolCall("look_up_invoice", {"number": "1042"}),
        HandoffTo(refund_agent),
        ToolCall("refund", {"invoice_number": "1042", "euros": 30}),
        "You did pay twice. I have sent the second 30 euros back to you; they arrive within two days.",
        HandoffTo(technical_agent),
        "Red means no connection. Unplug the router, wait ten seconds, and plug it in again.",
    )
]

if __name__ == "__main__":
    asyncio.run(main())
