"""The defaults of the process: which key, client and API models are reached with where nothing else is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from runstream.errors import UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = [
    "check_client",
    "is_official_openai_base_url",
    "is_official_openai_client",
    "set_default_openai_api",
    "set_default_openai_client",
    "set_default_openai_key",
]


class Defaults:
    """What the setters below have set."""

    api_key: str | None = None
    client: AsyncOpenAI | None = None
    use_responses: bool = True


defaults = Defaults()


def set_default_openai_key(key: str | None, use_for_tracing: bool = True) -> None:
    """The API key for models that are not given a client. Goes before OPENAI_API_KEY; None takes it back.

    `use_for_tracing` is accepted for compatibility: this package sends no traces.
    """
    if key is not None and not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UserError(f"the API key must be a string, not {type(key).__name__}")
    defaults.api_key = key


def check_client(client: object) -> None:
    """Raises UserError for the synchronous client, which would block the event loop."""
    if type(client).__name__ in ("OpenAI", "AzureOpenAI") and type(client).__module__.startswith("openai"):
        raise UserError(f"the client must be asynchronous: pass openai.Async{type(client).__name__}(...)")


def set_default_openai_client(client: AsyncOpenAI | None, use_for_tracing: bool = True) -> None:
    """The client for models that are not given one. It keeps its own transport, retries and time limits."""
    check_client(client)
    defaults.client = client


def set_default_openai_api(api: Literal["chat_completions", "responses"]) -> None:
    """Which API models are reached through by default. Raises UserError for any other name."""
    if api not in ("chat_completions", "responses"):
        raise UserError(f"the API must be 'responses' or 'chat_completions', not {api!r}")
    defaults.use_responses = api == "responses"


def is_official_openai_base_url(base_url: object, *, websocket: bool = False) -> bool:
    """Whether requests to this address go to OpenAI itself, encrypted."""
    parts = urlsplit(str(base_url))
    return parts.scheme == ("wss" if websocket else "https") and parts.hostname == "api.openai.com"


def is_official_openai_client(client: AsyncOpenAI) -> bool:
    """Whether the client's requests go to OpenAI itself."""
    return is_official_openai_base_url(getattr(client, "base_url", None))
