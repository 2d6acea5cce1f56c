"""The error bodies and headers of OpenAI's API.

Owns their shape, for faults of a script and for requests that are themselves wrong. Pure.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runstream.testing.faults import Fault

__all__ = ["error_body", "error_headers", "error_text"]


def error_body(message: str, kind: str, *, code: str | None = None, param: str | None = None) -> str:
    """The JSON text of an error."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def error_text(fault: Fault) -> str:
    """The body of an `http_error`."""
    if fault.body is not None:
        return fault.body
    kinds = {429: "requests"} if fault.status < 500 else {}
    kind = kinds.get(fault.status, "invalid_request_error" if fault.status < 500 else "server_error")
    return error_body(fault.text, kind, code=fault.shown_code)


def error_headers(fault: Fault) -> dict[str, str]:
    """The headers of an `http_error`."""
    kind = "application/json" if fault.body is None else "text/html; charset=utf-8"
    headers = {"Content-Type": kind}
    if fault.retry_after_s is not None:
        headers["Retry-After"] = f"{fault.retry_after_s:g}"
    return {**headers, **fault.headers}
