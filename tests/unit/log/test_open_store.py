"""log/open_store: a URL names a store; whatever does not is refused in words that help."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from runstream.errors import UserError
from runstream.log.memory_store import MemoryStore
from runstream.log.open_store import open_store
from runstream.log.payload import CodedStore, ZlibPayloads
from runstream.testing import FakeClock


def test_memory() -> None:
    """With its options."""
    store = open_store("memory://shop", clock=FakeClock())
    assert isinstance(store, MemoryStore)
    assert store.url == "memory://shop"


def test_a_store_is_passed_through() -> None:
    """As it is; it cannot be given options any more."""
    store = MemoryStore()
    assert open_store(store) is store
    with pytest.raises(UserError, match="no options: clock"):
        open_store(store, clock=FakeClock())


def test_a_codec_stands_before_the_store() -> None:
    """Whether it was named or passed."""
    store = open_store("memory://shop", codec=ZlibPayloads())
    assert isinstance(store, CodedStore)
    assert isinstance(store.store, MemoryStore)
    assert isinstance(open_store(MemoryStore(), codec=ZlibPayloads()), CodedStore)


@pytest.mark.parametrize("url", ["", "runs.db", "postgres://user:secret@host/db", "memory", "sqlite:runs.db", "://"])
def test_other_urls(url: str) -> None:
    """The error lists what there is and shows no secret."""
    with pytest.raises(UserError, match=r"sqlite:///FILE.*redis://HOST") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, object(), b"memory://"])
def test_what_is_no_store(value: Any) -> None:
    """Says what a store is."""
    with pytest.raises(UserError, match="methods of Store"):
        open_store(value)


def test_stores_are_imported_when_asked_for() -> None:
    """Naming a store in memory brings no client and no database."""
    code = (
        "import sys; from runstream.log.open_store import open_store; open_store('memory://'); "
        "print([name for name in ('sqlite3', 'redis', 'openai') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
