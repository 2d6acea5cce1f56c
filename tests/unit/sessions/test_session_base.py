"""Laws of the session protocol and its settings."""

from typing import Any

import pytest

from runstream.sessions.base import Session, SessionSettings, coerce_session_settings, resolve_session_limit
from runstream.sessions.memory import InMemorySession


def test_a_users_class_is_a_session_by_structure():
    """Nothing needs to be inherited; a missing method is noticed."""

    class Mine:
        session_id = "x"
        session_settings = None

        async def get_items(self, limit: int | None = None) -> list[Any]:
            return []

        async def add_items(self, items: list[Any]) -> None: ...

        async def pop_item(self) -> Any: ...

        async def clear_session(self) -> None: ...

    class Incomplete:
        session_id = "x"
        session_settings = None

    assert isinstance(Mine(), Session)
    assert not isinstance(Incomplete(), Session)


def test_settings_are_overlaid():
    """What the override sets wins, zero included; the operands do not change."""
    settings = SessionSettings(limit=3)
    assert settings.resolve(None) is settings
    assert settings.resolve(SessionSettings()).limit == 3
    assert settings.resolve(SessionSettings(limit=0)).limit == 0
    assert settings.resolve({"limit": 5}).limit == 5
    assert settings.to_dict() == {"limit": 3}


def test_misspelt_settings_are_refused():
    """A key that is no setting would silently do nothing."""
    with pytest.raises(TypeError, match="Unknown session settings: limitt"):
        InMemorySession("x", session_settings={"limitt": 1})
    with pytest.raises(TypeError, match="must be a SessionSettings instance or a dict, got int"):
        coerce_session_settings(3)  # type: ignore[arg-type]


def test_an_explicit_limit_goes_before_the_settings():
    """Zero is a limit."""
    assert resolve_session_limit(0, SessionSettings(limit=3)) == 0
    assert resolve_session_limit(None, SessionSettings(limit=3)) == 3
    assert resolve_session_limit(None, {"limit": 4}) == 4
    assert resolve_session_limit(None, None) is None
