"""What every test is held to: it leaves no task, socket or thread behind, and asyncio has nothing to complain about.

Whatever is left unclosed makes Python warn (ResourceWarning, "was never awaited"), and warnings are errors here.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ("redis_fixtures", "node_tools", "page_tools", "chromium")

# No test speaks TLS. Each HTTP client reads the certificates of all authorities, which takes 20 ms: here it is one.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "data" / "authority.pem")
os.environ.pop("SSL_CERT_DIR", None)

# Assertions of the laws of stores say what was compared. Here, since whoever imports them first settles it.
pytest.register_assert_rewrite(
    *(f"runstream.testing.store_{name}" for name in ("trial", "log_laws", "reader_laws", "claim_laws", "keeping_laws"))
)

# The same examples in each run: a failure is a failure for everybody.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Turns of the loop that cancelled tasks and closed transports may still need.
_LAST_TURNS = 10


def pytest_collection_finish() -> None:
    """Modules and collected tests live to the end: full collections, which many tests ask for, need not walk them."""
    import openai.types.responses  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves something behind."""
    test = getattr(request.node, "obj", None)
    if inspect.iscoroutinefunction(test):
        request.node.obj = _checking_tasks(test)
    threads = set(threading.enumerate())
    sockets = _open_sockets()
    complaints = _Complaints()
    logger = logging.getLogger("asyncio")
    logger.addHandler(complaints)
    try:
        yield
    finally:
        logger.removeHandler(complaints)
    for thread in set(threading.enumerate()) - threads:
        thread.join(5.0)  # it may be about to end
    left = [thread.name for thread in set(threading.enumerate()) - threads]
    assert not left, f"threads are left: {left}"
    if _open_sockets() > sockets:
        gc.collect()  # what nobody holds any more warns now, and the warning is an error
        assert _open_sockets() <= sockets, "sockets are left open"
    assert not complaints.texts, f"asyncio reported: {complaints.texts}"


def _checking_tasks(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        before = asyncio.all_tasks()
        await test(*args, **kwargs)
        for _ in range(_LAST_TURNS):
            if not asyncio.all_tasks() - before:
                return
            await asyncio.sleep(0)
        left = [repr(task) for task in asyncio.all_tasks() - before]
        assert not left, f"tasks are left: {left}"

    return checked


class _Complaints(logging.Handler):
    """Collects what asyncio reports because nobody else can: errors never retrieved, or raised in callbacks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _open_sockets() -> int:
    """How many sockets this process has open; 0 where the system does not tell."""
    count = 0
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return 0
    for descriptor in descriptors:
        try:
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        except OSError:
            continue  # it was closed meanwhile
    return count
