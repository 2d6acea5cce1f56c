"""What every session must do, run over each implementation: subclass `SessionConformance` and give it a fixture."""

import asyncio
from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall

from runstream.sessions.base import Session, SessionABC, SessionSettings
from runstream.sessions.memory import InMemorySession
from runstream.sessions.sqlite import SQLiteSession


def item(number: int) -> Any:
    return {"role": "user", "content": f"message {number}"}


def numbers(items: list[Any]) -> list[int]:
    return [int(entry["content"].split()[1]) for entry in items]


class SessionConformance:
    """The laws. `session` must be a fixture that gives an empty session."""

    @pytest.fixture
    def session(self) -> Any:
        raise NotImplementedError

    async def test_it_is_a_session(self, session):
        """The protocol holds, by structure and by base class."""
        assert isinstance(session, Session)
        assert isinstance(session, SessionABC)
        assert session.session_id == "conversation"
        assert session.session_settings == SessionSettings()

    async def test_a_new_session_is_empty(self, session):
        """Nothing to read and nothing to pop."""
        assert await session.get_items() == []
        assert await session.pop_item() is None

    async def test_items_come_back_in_order(self, session):
        """Order is that of adding, within and between calls; adding nothing changes nothing."""
        await session.add_items([item(1), item(2)])
        await session.add_items([])
        await session.add_items([item(3)])
        assert numbers(await session.get_items()) == [1, 2, 3]

    @pytest.mark.parametrize(
        ("limit", "expected"), [(None, [1, 2, 3]), (0, []), (1, [3]), (2, [2, 3]), (9, [1, 2, 3]), (-1, [1, 2, 3])]
    )
    async def test_a_limit_means_the_newest(self, session, limit, expected):
        """They stay in order; zero reads nothing, and a negative limit is none."""
        await session.add_items([item(1), item(2), item(3)])
        assert numbers(await session.get_items(limit)) == expected
        assert numbers(await session.get_items(limit=limit)) == expected

    async def test_the_settings_limit_holds_unless_one_is_given(self, session):
        """Settings apply to reading only, as an object or as a dict."""
        await session.add_items([item(1), item(2), item(3)])
        session.session_settings = SessionSettings(limit=2)
        assert numbers(await session.get_items()) == [2, 3]
        assert numbers(await session.get_items(3)) == [1, 2, 3]
        session.session_settings = {"limit": 0}
        assert await session.get_items() == []
        session.session_settings = None
        assert numbers(await session.get_items()) == [1, 2, 3]

    async def test_pop_takes_the_newest(self, session):
        """Each pop removes one item, until there is none; later items follow what is left."""
        await session.add_items([item(1), item(2), item(3)])
        assert await session.pop_item() == item(3)
        await session.add_items([item(4)])
        assert numbers([await session.pop_item() for _ in range(3)]) == [4, 2, 1]
        assert await session.pop_item() is None

    async def test_clear_removes_everything(self, session):
        """Afterwards the session is as new, and can be used; clearing twice is fine."""
        await session.add_items([item(1)])
        await session.clear_session()
        await session.clear_session()
        assert await session.get_items() == []
        await session.add_items([item(2)])
        assert numbers(await session.get_items()) == [2]

    async def test_items_are_copies(self, session):
        """Neither the caller's objects nor those given out change what is remembered."""
        original = {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}
        await session.add_items([original])
        original["content"][0]["text"] = "changed"
        (await session.get_items())[0]["content"].clear()
        assert await session.get_items() == [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]

    async def test_any_json_survives(self, session):
        """Every script, quotes, nesting, null and numbers come back as they were."""
        value = {
            "role": "user",
            "content": "日本語 🎉 'x' \"y\"; DROP TABLE agent_messages;--\n\u0000",
            "n": [None, 1.5, {}],
        }
        await session.add_items([value])
        assert await session.get_items() == [value]

    async def test_official_objects_become_dicts(self, session):
        """Items may be official objects, also inside a dict."""
        call: Any = ResponseFunctionToolCall(arguments="{}", call_id="c", name="f", type="function_call")
        plain = {"arguments": "{}", "call_id": "c", "name": "f", "type": "function_call"}
        await session.add_items([call, {"type": "wrapper", "call": call}])
        assert await session.get_items() == [plain, {"type": "wrapper", "call": plain}]

    async def test_tasks_do_not_mix_their_items(self, session):
        """What one call adds stays together, however many tasks add at once."""
        await asyncio.gather(*(session.add_items([item(number)] * 3) for number in range(20)))
        found = numbers(await session.get_items())
        assert sorted(found) == sorted(list(range(20)) * 3)
        assert all(len(set(found[start : start + 3])) == 1 for start in range(0, 60, 3))

    async def test_tasks_do_not_pop_an_item_twice(self, session):
        """Each item is popped once, and only once."""
        await session.add_items([item(number) for number in range(10)])
        popped = await asyncio.gather(*(session.pop_item() for _ in range(15)))
        assert sorted(numbers([entry for entry in popped if entry is not None])) == list(range(10))
        assert popped.count(None) == 5


class TestInMemorySession(SessionConformance):
    @pytest.fixture
    def session(self):
        return InMemorySession("conversation")


class TestSQLiteSessionInMemory(SessionConformance):
    @pytest.fixture
    def session(self):
        session = SQLiteSession("conversation")
        yield session
        session.close()


class TestSQLiteSessionInFile(SessionConformance):
    @pytest.fixture
    def session(self, tmp_path):
        session = SQLiteSession("conversation", tmp_path / "sessions.db")
        yield session
        session.close()
