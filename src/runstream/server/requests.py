"""What clients send: decoded, checked and bounded, before anything is done."""

from __future__ import annotations

from typing import Any, Literal, cast
from urllib.parse import quote

import msgspec

from runstream.server.answers import Refused

__all__ = ["AnswerCall", "CancelRun", "MoreInput", "NewRun", "checked_input", "decode_body", "session_key"]

_PARTS = frozenset(("input_text", "input_image", "input_file", "input_audio"))
_LONGEST_SESSION = 200
# What is nested more deeply is nobody's message: code that calls itself for each level would come to its end.
_MOST_LEVELS = 50


class NewRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /runs."""

    input: str | list[Any]
    agent: str | None = None
    session: str | None = None


class CancelRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /runs/{id}/cancel."""

    mode: Literal["immediate", "after_turn"] = "immediate"


class AnswerCall(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /runs/{id}/approvals."""

    call_id: str
    approve: bool
    always: bool = False
    message: str | None = None


class MoreInput(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /runs/{id}/input."""

    input: str | list[Any]


def decode_body(body: bytes, wanted: type[Any]) -> Any:
    """The body as that. Raises Refused for what is no such JSON."""
    try:
        return msgspec.json.decode(body or b"{}", type=wanted)
    except msgspec.ValidationError as error:
        raise Refused(422, "invalid_body", f"the body is not as it should be: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "invalid_json", "the body is no JSON") from error


def checked_input(
    given: str | list[Any], max_chars: int, *, any_items: bool, is_history: bool = False
) -> str | list[Any]:
    """The input of a run. Unless `any_items`, a list holds messages of the user alone, and texts of the assistant where
    it `is_history`: instructions, and outputs of tools, are not for clients to write. Raises Refused."""
    size = len(given) if isinstance(given, str) else len(msgspec.json.encode(given))
    if size > max_chars:
        raise Refused(413, "input_too_long", f"the input has {size} characters; at most {max_chars} are taken")
    if isinstance(given, str):
        return given
    if not given:
        raise Refused(422, "invalid_input", "the input is empty")
    if _is_deeper(given, _MOST_LEVELS):
        raise Refused(422, "invalid_input", f"the input is nested more than {_MOST_LEVELS} levels deep")
    for item in given:
        if not isinstance(item, dict):
            raise Refused(422, "invalid_input", "an input item is an object, as {'role': 'user', 'content': ...}")
        fields = cast("dict[str, Any]", item)
        if not (any_items or _is_of_user(fields) or (is_history and _is_text_of_assistant(fields))):
            raise Refused(
                422, "invalid_input", "input items are messages of the role 'user', with text, image, file or audio"
            )
    return given


def _is_deeper(given: list[Any], levels: int) -> bool:
    """Whether there are lists and objects within one another, more of them than that."""
    level: list[Any] = [given]
    for _ in range(levels):
        level = [
            inner
            for each in level
            for inner in (cast("dict[str, Any]", each).values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _is_of_user(item: dict[str, Any]) -> bool:
    if item.get("type", "message") != "message" or item.get("role") != "user":
        return False
    content = item.get("content")
    if isinstance(content, str):
        return True
    if not isinstance(content, list):
        return False
    parts = cast("list[Any]", content)
    return all(isinstance(part, dict) and cast("dict[str, Any]", part).get("type") in _PARTS for part in parts)


def _is_text_of_assistant(item: dict[str, Any]) -> bool:
    is_message = item.get("type", "message") == "message" and item.get("role") == "assistant"
    return is_message and isinstance(item.get("content"), str)


def session_key(session: str | None, owner: str | None) -> str | None:
    """The name of a conversation among those of everybody: nobody can name another's."""
    if session is None:
        return None
    if not 0 < len(session) <= _LONGEST_SESSION or not session.isprintable():
        raise Refused(422, "invalid_session", f"a session is named by 1 to {_LONGEST_SESSION} printable characters")
    return f"{'' if owner is None else quote(owner, safe='')}/{session}"
