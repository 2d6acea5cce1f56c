"""What `runstream serve` serves where nobody names agents: a shop's support desk that does all that the page can show.

Without a key its models are scripted: each answers by what has been said and done since the last message of the user,
so that any number of runs may go on at once. It knows one story, and says so when it is asked for another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.raw_item import read_field, read_text
from runstream.agent.tool import function_tool
from runstream.agent.tool_context import ToolContext
from runstream.clock import system_clock
from runstream.testing.faults import Raise
from runstream.testing.model import ScriptedModel
from runstream.testing.model_step import ModelCall
from runstream.testing.steps import HandoffTo, Message, Reasoning, ToolCall, Turn

__all__ = ["served_desk"]

_ANSWER = """\
Your refund is **on its way**: 34.90 EUR for the Stonewell kettle, under the number `R-7301`.

| | |
| --- | --- |
| Order | {order} |
| Refund | 34.90 EUR, to the card you paid with |
| On your account | in three to five working days |

What happens next:

1. You get a confirmation by e-mail within the hour.
2. You need not send anything back: a cracked lid cannot be repaired, so please take the kettle to a recycling point.
3. If you would *rather have a new one*, write to us within fourteen days and we send it at no cost.

> Until then please do not boil water in it: steam may escape at the side.
"""
_REFUSED = """\
I have **not** sent the refund: somebody who looks after payments has refused it.

They said: “{why}” If you think that is wrong, answer here and a colleague will look at it again.
"""
_CODE = '''\
With the server that answers you right now this takes a dozen lines. Each frame is one event of the run, its `id` the \
place to go on from when the connection is lost:

```python
import json

import httpx2


async def ask(text: str) -> str:
    """The answer; its text is printed as it comes."""
    headers = {"Accept": "text/event-stream"}
    async with httpx2.AsyncClient(base_url="http://127.0.0.1:8000") as client:
        async with client.stream("POST", "/runs", json={"input": text}, headers=headers, timeout=60) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["data"].get("type") == "response.output_text.delta":
                    print(event["data"]["delta"], end="", flush=True)
                elif event["kind"] == "run.end":
                    return event["data"]["final_output"]
    raise ConnectionError("the stream was cut: go on with GET /runs/{id}/events")
```

The same from a shell:

```sh
curl -N localhost:8000/runs -H 'Content-Type: application/json' \\
  -H 'Accept: text/event-stream' -d '{"input": "Where is my order?"}'
```
'''
_OTHER = """\
No model answers here: **this desk is scripted**, so that you can see the page without a key. It knows these:

- *My order 1042 came with a cracked lid. Can I have my money back?* shows tools, an agent within a tool, a handoff, \
and a call that waits for your approval.
- *Show me some code* shows code.
- *Fail* shows what an error looks like.

Serve your own agents with `runstream serve module:agent`.
"""
_THOUGHTS = (
    "The customer reports a cracked lid and asks for a refund. I should look up the order first, and ask the expert "
    "whether a cracked lid can be repaired, before I hand over to the agent who decides on refunds."
)


def served_desk(*, scripted: bool, pace: float = 1.0) -> Agent[Any]:
    """The desk. `scripted`: its models need no key; `pace` 0 lets them, and the tools, answer at once."""

    @function_tool
    async def look_up_order(context: ToolContext[Any], order_id: str) -> str:
        """Look up an order: what was bought, for how much, and whether it has arrived.

        Args:
            order_id: The order's number.
        """
        for done, message in enumerate(("Asking the warehouse", "Asking the parcel service", "Putting it together")):
            context.emit({"done": done, "total": 3, "message": message})
            await system_clock.sleep(0.5 * pace)
        context.emit({"done": 3, "total": 3, "message": "Found"})
        found = {"order": order_id, "article": "Stonewell kettle", "price": "34.90 EUR", "delivered": "2 days ago"}
        return json.dumps(found)

    @function_tool(needs_approval=True)
    async def refund_order(order_id: str, amount: str, reason: str) -> str:
        """Pay the price of an order back.

        Args:
            order_id: The order's number.
            amount: How much, with the currency.
            reason: Why, in a few words.
        """
        await system_clock.sleep(0.4 * pace)
        return f"refund R-7301 of {amount} sent"

    @function_tool
    async def read_manual(article: str) -> str:
        """The part of an article's manual about safety.

        Args:
            article: The article's name.
        """
        await system_clock.sleep(0.3 * pace)
        return "Do not use with a damaged lid. Lids are not sold separately."

    def model(choose: Callable[[Sequence[Any], str], Any]) -> Any:
        return _scripted(choose, pace) if scripted else None

    expert: Agent[Any] = Agent(
        name="Product Expert",
        instructions="You know the shop's articles. Read the manual, then answer in one or two sentences.",
        tools=[read_manual],
        model=model(_expert),
    )
    refunds: Agent[Any] = Agent(
        name="Refund Agent",
        handoff_description="Decides on refunds and pays them.",
        instructions=(
            "You pay refunds for a shop. An article that came broken is refunded in full with refund_order, and need "
            "not be sent back. Then tell the customer in Markdown what you did and what happens next."
        ),
        tools=[refund_order],
        model=model(_refunds),
    )
    return Agent(
        name="Support Desk",
        handoff_description=(
            "Try “My order 1042 came with a cracked lid. Can I have my money back?”, “Show me some code” or “Fail”."
        ),
        instructions=(
            "You are the first contact of a shop's support. Look up the order, ask the product expert where it "
            "matters whether something can be repaired, and hand over to the Refund Agent where the customer wants "
            "money back."
        ),
        tools=[
            look_up_order,
            expert.as_tool("ask_product_expert", "Ask somebody who knows the articles. Give the whole question."),
        ],
        handoffs=[refunds],
        model=model(_desk),
    )


def _scripted(choose: Callable[[Sequence[Any], str], Any], pace: float) -> Any:
    """A model that plays what `choose` gives for the conversation so far, and the last message of the user."""

    def step(call: ModelCall) -> Turn:
        given: Any = call.input
        items: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        asked = next((_text(item) for item in reversed(items) if _is_of_user(item)), "")
        chosen = choose(items, asked)
        turn = chosen if isinstance(chosen, Turn) else Turn(chosen)
        return replace(turn, every_s=0.022 * pace, first_after_s=0.35 * pace)

    return ScriptedModel(default=step)


def _text(message: Any) -> str:
    content = read_field(message, "content")
    if isinstance(content, str):
        return content
    return " ".join(read_text(part, "text") or "" for part in cast("list[Any]", content or []))


def _is_of_user(item: Any) -> bool:
    return read_field(item, "role") == "user"


def _after(items: Sequence[Any], holds: Callable[[Any], bool]) -> Sequence[Any]:
    """What came after the last item of which it holds."""
    last = max((place for place, item in enumerate(items) if holds(item)), default=-1)
    return items[last + 1 :]


def _outputs(items: Sequence[Any]) -> list[str]:
    """What the tools have said."""
    return [str(read_field(item, "output")) for item in items if read_field(item, "type") == "function_call_output"]


def _order(text: str) -> str:
    found = re.search(r"\d{3,}", text)
    return found[0] if found else "1042"


def _desk(items: Sequence[Any], asked: str) -> Any:
    words = asked.lower()
    if _outputs(_after(items, _is_of_user)):
        return [HandoffTo("Refund Agent", {})]
    if re.search(r"order|refund|money|kettle|lid|broken|crack", words):
        question = "Can a cracked lid of the Stonewell kettle be repaired, and is it safe to go on using it?"
        return [
            Reasoning(_THOUGHTS),
            Message("I am sorry to hear that. Let me look at your order, and ask our expert about the lid."),
            ToolCall("look_up_order", {"order_id": _order(asked)}),
            ToolCall("ask_product_expert", {"input": question}),
        ]
    if re.search(r"\bcode\b|python|script|curl|api", words):
        return [Message(_CODE)]
    if re.search(r"\bfail", words):
        broken = Raise(AskedToFail("this desk fails when it is asked to"), after=9)
        return Turn((Message("I am looking into it. The warehouse says that your parcel is"),), fault=broken)
    return [Message(_OTHER)]


def _expert(items: Sequence[Any], asked: str) -> Any:
    if not _outputs(_after(items, _is_of_user)):
        return [ToolCall("read_manual", {"article": "Stonewell kettle"})]
    return [Message("No: lids of this kettle are not sold separately, and with a crack it is **not safe** to use.")]


def _refunds(items: Sequence[Any], asked: str) -> Any:
    items = _after(items, lambda item: read_field(item, "name") == "transfer_to_refund_agent")
    if not any(read_field(item, "name") == "refund_order" for item in items):
        facts = {"order_id": _order(asked), "amount": "34.90 EUR", "reason": "cracked lid"}
        return [ToolCall("refund_order", facts)]
    said = _outputs(items)[-1]
    if said.startswith("refund R-"):
        return [Message(_ANSWER.format(order=_order(asked)))]
    return [Message(_REFUSED.format(why=said.rstrip(".") + "."))]


class AskedToFail(Exception):
    """The desk was asked to fail."""
