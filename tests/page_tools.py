"""The page's sources: what builds them is found or installed, and run by tests and by `make page`.

`python tests/page_tools.py` makes sure that it is there (`make install` does that): Node, as for the tests of the
server's protocols, and what `page/package-lock.json` pins by `npm ci`. Where it can not be had it says so loudly, and
fails if the environment variable CI is set.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from node_tools import ensured, main

PAGE = Path(__file__).parent.parent / "page"
STATIC = PAGE.parent / "src" / "runstream" / "server" / "static"


def run_tool(node: str, *arguments: str, given: str = "") -> str:
    """Runs a program of `page` with that input; what it printed. Raises AssertionError with what it complained of."""
    done = subprocess.run([node, *arguments], cwd=PAGE, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"node {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def page_node() -> str:
    """Path of Node, with the page's packages in place. Skips where they can not be had; in CI that is a failure."""
    return ensured(PAGE)


if __name__ == "__main__":
    sys.exit(main("`make page`, and tests of the page's sources,", PAGE))
