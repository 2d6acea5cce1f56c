"""The calls of a run that have no output yet, and whether they wait for a person. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from runstream.agent.raw_item import read_field, read_text
from runstream.events.codec import plain
from runstream.events.event import ApprovalResolved, Event
from runstream.server.protocols.response_item import Item

__all__ = ["OpenCall", "OpenCalls", "arguments_of", "is_call", "name_of"]

_CALLS: Final = frozenset(
    ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call")
)
_ARGUMENTS: Final = ("arguments", "input", "action", "actions", "operation")


def is_call(kind: str) -> bool:
    """Whether the run carries out what an item of that type asks for."""
    return kind in _CALLS


def name_of(raw: Any) -> str:
    """The name of the tool that is called."""
    return read_text(raw, "name") or (read_text(raw, "type") or "").removesuffix("_call")


def arguments_of(raw: Any) -> str:
    """The arguments of a call, as the model wrote them; those that are no text as JSON."""
    given = next((value for name in _ARGUMENTS if (value := read_field(raw, name))), "")
    return given if isinstance(given, str) else json.dumps(plain(given), ensure_ascii=False)


class OpenCall:
    """A call that has no output yet."""

    __slots__ = (
        "agent",
        "arguments",
        "asked_seq",
        "call_id",
        "is_pending",
        "is_presumed",
        "is_rejected",
        "item",
        "name",
        "seq",
    )

    def __init__(self, seq: int, call_id: str, agent: str, name: str, arguments: str) -> None:
        self.seq = seq
        self.call_id = call_id
        self.agent = agent
        self.name = name
        self.arguments = arguments
        self.item: Item | None = None
        """What shows it in the present response."""
        self.is_pending = False
        """Whether a person has to answer."""
        self.is_rejected = False
        self.asked_seq = 0
        """Of the request for approval; 0 without."""
        self.is_presumed = False
        """Whether its answer is expected any moment: requests of one response are answered together."""


class OpenCalls:
    """By the path of the agent that made them, and their id."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, ...], dict[str, OpenCall]] = {}

    def add(self, event: Event, name: str, arguments: str, item: Item | None) -> OpenCall:
        """The run is about to carry out a call."""
        raw = event.data.raw
        call_id = read_text(raw, "call_id") or read_text(raw, "id") or ""
        call = OpenCall(event.seq, call_id, event.agent or "", name, arguments)
        call.item = item
        self._by_path.setdefault(event.path, {})[call_id] = call
        return call

    def asked(self, event: Event, name: str, arguments: str) -> OpenCall:
        """A call waits for a person. Those of the provider's tools are made known by that."""
        raw = event.data.raw
        call_id = read_text(raw, "call_id") or read_text(raw, "id") or ""
        call = self._by_path.get(event.path, {}).get(call_id) or self.add(event, name, arguments, None)
        call.is_pending, call.is_presumed = True, False
        call.asked_seq = event.seq
        return call

    def resolved(self, path: tuple[str, ...], answer: ApprovalResolved) -> list[OpenCall]:
        """The calls that wait no longer: with `always` the agent's others of the same tool, too."""
        calls = self._by_path.get(path, {})
        named = calls.get(answer.call_id)
        found: list[OpenCall] = []
        for call in calls.values():
            alike = answer.always and call.name == answer.tool_name and named is not None and call.agent == named.agent
            if call.is_pending and (call is named or alike):
                call.is_pending, call.is_rejected = False, not answer.approved
                found.append(call)
        return found

    def answered(self, path: tuple[str, ...], call_id: str | None) -> OpenCall | None:
        """A call has its output."""
        calls = self._by_path.get(path)
        call = None if calls is None else calls.pop(call_id or "", None)
        self._by_path.pop((*path, call_id or ""), None)
        return call

    def forget(self, path: tuple[str, ...], from_seq: int) -> None:
        """What came from that seq on was never said."""
        calls = self._by_path.get(path, {})
        for call_id in [call_id for call_id, call in calls.items() if call.seq >= from_seq]:
            del calls[call_id]

    def pending(self) -> list[OpenCall]:
        """Those that wait for a person, of nested agents too, in the order of their requests."""
        found = [call for calls in self._by_path.values() for call in calls.values() if call.is_pending]
        return sorted(found, key=lambda call: call.asked_seq)

    def own(self) -> list[OpenCall]:
        """Those of the run itself."""
        return list(self._by_path.get((), {}).values())

    def all_wait(self, path: tuple[str, ...] = ()) -> bool:
        """Whether there are calls under that path, and nothing goes on until a person answers."""
        calls = self._by_path.get(path)
        return bool(calls) and all(
            (call.is_pending and not call.is_presumed) or self.all_wait((*path, call.call_id))
            for call in calls.values()
        )
