"""What clients of the OpenAI protocols may ask for, and errors in the shape that they know. Pure.

What would change an answer and cannot be done is refused, by name: tools of the client's, several choices, formats.
How an agent's model is set is the agent's affair: sampling settings and the like are taken and have no effect. Words
in the name of others are not a client's to write, unless the server trusts it: instructions and outputs of tools are
refused; what the assistant said is taken as what it is, text. Items of earlier responses that are no messages (calls
that the server made, reasoning) are left out where a client sends them back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from runstream.server.answers import Refused, json_bytes

__all__ = [
    "FAILURES",
    "OpenAIRefused",
    "check_fields",
    "decode_object",
    "error_body",
    "error_of",
    "flag",
    "message_input",
]

FAILURES: Final = {
    "expired": "The first events of this response are no longer kept.",
    "store_error": "The server cannot read the response at present: retrieve it again.",
    "run_not_found": "The response was deleted.",
}
"""Why a stream ends though its run has not."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_USER_PARTS: Final = {
    "text": "input_text",
    "input_text": "input_text",
    "image_url": "input_image",
    "input_image": "input_image",
    "file": "input_file",
    "input_file": "input_file",
    "input_audio": "input_audio",
}
# Of earlier responses, as clients send them back: what the server did is the server's to know.
_LEFT_OUT: Final = frozenset(
    (
        "reasoning",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
    )
)
_INSTRUCTIONS: Final = ("system", "developer")


class OpenAIRefused(Refused):
    """A request that is not carried out, and the parameter that is why."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(status, code or "invalid_value", message)
        self.param = param


def error_of(refused: Refused) -> dict[str, Any]:
    """The error object of the API."""
    status = refused.status
    return {
        "message": refused.message,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": getattr(refused, "param", None),
        "code": refused.code,
    }


def error_body(refused: Refused) -> bytes:
    """The body of every answer that is no success."""
    return json_bytes({"error": error_of(refused)})


def decode_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises Refused."""
    try:
        decoded: Any = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OpenAIRefused("The body is no JSON.", code="invalid_json") from error
    if not isinstance(decoded, dict):
        raise OpenAIRefused("The body must be a JSON object.", code="invalid_json")
    return cast("dict[str, Any]", decoded)


def check_fields(body: Mapping[str, Any], known: frozenset[str], only: Mapping[str, Sequence[Any]]) -> None:
    """Refuse what nobody knows, and what can be taken only with those values. A field that is null is not given."""
    for name, value in body.items():
        if name in only:
            if value is not None and value not in only[name]:
                allowed = " or ".join(_shown(each) for each in only[name])
                what = f"only {allowed} can be taken" if allowed else "it cannot be taken"
                why = " An agent has its own tools and its own settings."
                raise OpenAIRefused(
                    f"'{name}' is not supported by this server: {what}.{why}", param=name, code="unsupported_parameter"
                )
        elif name not in known:
            raise OpenAIRefused(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A field that is true or false."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise OpenAIRefused(f"'{name}' must be true or false.", param=name)
    return value


def message_input(item: Any, param: str, *, trusted: bool) -> dict[str, Any] | None:
    """An item of the client's as one of ours; None for one that is left out. Raises Refused."""
    if not isinstance(item, dict):
        raise OpenAIRefused("An input item must be an object.", param=param)
    fields = cast("dict[str, Any]", item)
    kind, role = fields.get("type") or "message", fields.get("role")
    if isinstance(kind, str) and kind in _LEFT_OUT:
        return None
    if kind != "message":
        if trusted and isinstance(kind, str) and kind != "item_reference":
            return fields
        raise OpenAIRefused(
            f"Input items of the type {kind!r:.60} are not a client's to write on this server.", param=param
        )
    content = fields.get("content")
    if role == "user":
        return {"role": role, "content": _user_content(content, f"{param}.content")}
    if role == "assistant":
        return {"role": role, "content": _text_of(content, f"{param}.content")}
    if role in _INSTRUCTIONS:
        if trusted:
            return {"role": role, "content": _text_of(content, f"{param}.content")}
        raise OpenAIRefused(
            f"Messages of the role {role!r} are not a client's to write on this server: an agent has its own "
            "instructions (trusts_input=True, or --trust-input, lets clients add to them).",
            param=param,
        )
    raise OpenAIRefused(f"There is no role {role!r:.60} of messages that this server takes.", param=param)


def _user_content(content: Any, param: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise OpenAIRefused("The content of a message is a text, or a list of parts.", param=param)
    return [_user_part(part, f"{param}[{index}]") for index, part in enumerate(cast("list[Any]", content))]


def _user_part(part: Any, param: str) -> dict[str, Any]:
    fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in _USER_PARTS:
        raise OpenAIRefused(f"There is no content of the type {kind!r:.60} that this server takes.", param=param)
    if kind in ("text", "input_text"):
        text = fields.get("text")
        if not isinstance(text, str):
            raise OpenAIRefused("'text' must be a string.", param=f"{param}.text")
        return {"type": "input_text", "text": text}
    if kind == "image_url":
        image = fields.get("image_url")
        given = cast("dict[str, Any]", image) if isinstance(image, dict) else {"url": image}
        if not isinstance(given.get("url"), str):
            raise OpenAIRefused("An image has a URL.", param=f"{param}.image_url")
        return {"type": "input_image", "image_url": given["url"], "detail": given.get("detail") or "auto"}
    if kind == "file":
        file = fields.get("file")
        return {"type": "input_file", **(cast("dict[str, Any]", file) if isinstance(file, dict) else {})}
    return fields


def _text_of(content: Any, param: str) -> str:
    """What was said, without what only its own provider understands."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise OpenAIRefused("The content of a message is a text, or a list of parts.", param=param)
    texts: list[str] = []
    for index, part in enumerate(cast("list[Any]", content)):
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        text = fields.get("refusal") if fields.get("type") == "refusal" else fields.get("text")
        if not isinstance(text, str):
            raise OpenAIRefused("Here only text can be taken.", param=f"{param}[{index}]")
        texts.append(text)
    return "".join(texts)
