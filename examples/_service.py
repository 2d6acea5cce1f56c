"""Where the examples find their model. With OPENAI_API_KEY set this does nothing: they talk to the real service."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from runstream.testing import Endpoint


@asynccontextmanager
async def service(script: Any) -> AsyncGenerator[None]:
    """Without a key, serve `script` on this machine and point the environment to it."""
    if os.environ.get("OPENAI_API_KEY"):
        yield
        return
    print("No OPENAI_API_KEY is set: a scripted model answers, over HTTP on this machine. No LLM.\n")
    async with Endpoint(script) as endpoint:
        with patch.dict(os.environ, OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY="scripted"):
            yield
