"""What a session is: the memory of one conversation, as items that go before the next run's input.

Owns the `Session` protocol, its abstract base, and `SessionSettings`. Must not know stores or runs.

The contract, which every implementation is tested against: items come back in the order in which they were added, as
copies; `add_items` adds all of its items or none; a limit means the newest items, in their order.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from runstream.agent.response import TResponseInputItem

__all__ = ["Session", "SessionABC", "SessionSettings", "coerce_session_settings", "resolve_session_limit"]


@dataclass
class SessionSettings:
    """How a session is read."""

    limit: int | None = None
    """The most items to read, the newest ones; None reads all."""

    def resolve(self, override: SessionSettings | dict[str, Any] | None) -> SessionSettings:
        """These settings, with every field that `override` sets in place of ours. Raises TypeError for unknown keys."""
        if override is None:
            return self
        settings = coerce_session_settings(override, type(self))
        names = [entry.name for entry in dataclasses.fields(self)]
        changes = {name: value for name in names if (value := getattr(settings, name, None)) is not None}
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)


@runtime_checkable
class Session(Protocol):
    """The memory of one conversation. Implement these four methods to keep it anywhere."""

    session_id: str
    session_settings: SessionSettings | None = None

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The items, oldest first; with a limit the newest ones. None leaves the limit to `session_settings`."""
        ...

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items at the end, all or none."""
        ...

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item and return it; None if there is none."""
        ...

    async def clear_session(self) -> None:
        """Remove all items."""
        ...


class SessionABC(ABC):
    """The protocol as a base class."""

    session_id: str
    session_settings: SessionSettings | None = None

    @abstractmethod
    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The items, oldest first; with a limit the newest ones. None leaves the limit to `session_settings`."""

    @abstractmethod
    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add items at the end, all or none."""

    @abstractmethod
    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the newest item and return it; None if there is none."""

    @abstractmethod
    async def clear_session(self) -> None:
        """Remove all items."""


def coerce_session_settings(
    value: SessionSettings | dict[str, Any], settings_type: type[SessionSettings] = SessionSettings
) -> SessionSettings:
    """Settings given as an object or as a dict. Raises TypeError for anything else and for unknown keys."""
    if isinstance(value, SessionSettings):
        return value
    given = cast("Any", value)
    if not isinstance(given, Mapping):
        raise TypeError(f"session settings must be a SessionSettings instance or a dict, got {type(given).__name__}")
    values = cast("Mapping[str, Any]", given)
    names = {entry.name for entry in dataclasses.fields(settings_type)}
    unknown = sorted(str(name) for name in values if name not in names)
    if unknown:
        raise TypeError(f"Unknown session settings: {', '.join(unknown)}")
    return settings_type(**values)


def resolve_session_limit(limit: int | None, settings: SessionSettings | dict[str, Any] | None) -> int | None:
    """The limit that holds: the explicit one, else that of the settings."""
    if limit is not None or settings is None:
        return limit
    return coerce_session_settings(settings).limit
