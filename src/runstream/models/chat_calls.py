"""Which tool call a piece of a Chat Completions stream belongs to.

OpenAI numbers the calls of an answer by `index` and names each once. Compatible servers leave the index out, count
every call as 0, leave the id out or give every call the same one, and repeat ids and names with every piece. The rules
of `CallTable.match` tell a new call from more of a known one in all recorded cases (see `chat_quirks.QUIRKS`).

Must not know events or items. Invariants: no two calls of an answer have the same `call_id`; a piece that repeats
what a call already has is dropped, because running a tool twice is worse than anything a repetition could mean.
"""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import msgspec

from runstream.models.chat_quirks import MIN_CALL_ID_LENGTH, arguments_text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Call", "CallTable"]

_decode_json = msgspec.json.Decoder().decode


class Call:
    """One tool call as it grows. `call_id` is ours to rely on; `provider_id` is what the server called it."""

    __slots__ = ("call_id", "index", "name", "provider_id", "round", "signature", "text")

    def __init__(self, index: int | None, provider_id: str) -> None:
        self.index = index
        self.provider_id = provider_id
        self.call_id = ""
        self.name = ""
        self.text = StringIO()
        self.round = -1
        self.signature: str | None = None

    @property
    def arguments(self) -> str:
        """What has come of the arguments so far."""
        return self.text.getvalue()


class CallTable:
    """The calls of one answer, in the order in which they began."""

    __slots__ = ("_by_id", "_by_index", "_new_id", "_round", "_used_ids", "calls")

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self.calls: list[Call] = []
        self._new_id = new_id
        self._by_index: dict[int, Call] = {}
        self._by_id: dict[str, Call] = {}
        self._used_ids: set[str] = set()
        self._round = 0

    def take(self, deltas: list[dict[str, Any]]) -> list[tuple[Call, str]]:
        """The call and the new piece of its arguments for each entry of one chunk's `tool_calls`."""
        self._round += 1
        taken: list[tuple[Call, str]] = []
        for position, delta in enumerate(deltas):
            function: dict[str, Any] = delta.get("function") or {}
            index = delta.get("index")
            if type(index) is not int:
                index = None
            provider_id = _text(delta.get("id"))
            name = _text(function.get("name"))
            arguments = arguments_text(function.get("arguments"))
            call, arguments = self._match(index, provider_id, name, arguments, position - len(deltas))
            if name or provider_id:
                call.round = self._round
            if name and not call.name:
                call.name = name
            if provider_id and not call.provider_id:
                call.provider_id = provider_id
                self._by_id.setdefault(provider_id, call)
            call.signature = call.signature or _signature(delta)
            taken.append((call, arguments))
        return taken

    def name_call(self, call: Call) -> None:
        """Settle `call_id`: the server's id if it can tell this call from all others, else one of our own."""
        call_id = call.provider_id
        if len(call_id) < MIN_CALL_ID_LENGTH or call_id in self._used_ids:
            call_id = self._new_id("call")
        self._used_ids.add(call_id)
        call.call_id = call_id

    def _match(self, index: int | None, provider_id: str, name: str, arguments: str, position: int) -> tuple[Call, str]:
        known = self._candidate(index, provider_id, name, position)
        if known is not None and provider_id and known.provider_id and provider_id != known.provider_id:
            # The index of another call with a new id: a server that counts every call as 0.
            known = self._by_id.get(provider_id)
            if known is not None and known.index != index:
                known = None
        if known is not None and name and known.name:
            # The call is introduced again: either more of it, or another call, or a repetition of all of it.
            if name != known.name or known.round == self._round:
                known = None
            elif arguments and _is_complete(known.arguments):
                if provider_id and _repeats(arguments, known.arguments):
                    return known, ""
                if arguments.lstrip().startswith("{"):
                    known = None
        if known is None:
            known = Call(index, provider_id)
            self.calls.append(known)
            if index is not None:
                self._by_index[index] = known
            if provider_id:
                self._by_id.setdefault(provider_id, known)
        return known, arguments

    def _candidate(self, index: int | None, provider_id: str, name: str, position: int) -> Call | None:
        if index is not None:
            return self._by_index.get(index)
        if provider_id:
            return self._by_id.get(provider_id)
        if not self.calls:
            return None
        if name or -position > len(self.calls):
            return self.calls[-1]
        # No index, no id, no name: several pieces in one chunk are in the order of the last calls.
        return self.calls[position]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_complete(arguments: str) -> bool:
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        _decode_json(arguments)
    except msgspec.DecodeError:
        return False
    return True


def _repeats(arguments: str, known: str) -> bool:
    if arguments == known:
        return True
    if not arguments.startswith('"'):
        return False
    # All of the arguments once more, encoded a second time.
    try:
        return _decode_json(arguments) == known
    except msgspec.DecodeError:
        return False


def _signature(delta: dict[str, Any]) -> str | None:
    """Gemini's `thought_signature`, which it wants back with the call; LiteLLM moves it to a field of its own."""
    for holder in (delta.get("extra_content"), delta.get("provider_specific_fields")):
        if isinstance(holder, dict):
            fields = cast("dict[str, Any]", holder)
            inner = fields.get("google", fields)
            if isinstance(inner, dict):
                signature = cast("dict[str, Any]", inner).get("thought_signature")
                if isinstance(signature, str) and signature:
                    return signature
    return None
