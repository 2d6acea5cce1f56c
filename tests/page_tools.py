"""The page's sources: what builds them is found or installed, and run by tests and by `make page`.

`python tests/page_tools.py` makes sure that it is there (`make install` does that): Node, as for the tests of the
server's protocols, and what `page/package-lock.json` pins by `npm ci`. Where it can not be had it says so loudly, and
fails if the environment variable CI is set.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node_tools import NoNode
from node_tools import ensure as ensure_node

PAGE = Path(__file__).parent.parent / "page"
STATIC = PAGE.parent / "src" / "runstream" / "server" / "static"

_LOCK = PAGE / "package-lock.json"
_INSTALLED = PAGE / "node_modules" / ".installed"
_INSTALLING_S = 300.0


def ensure() -> str:
    """The path of Node, with the packages of `page` in place. Quick if they are. Raises NoNode."""
    node = ensure_node()
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if not (_INSTALLED.exists() and _INSTALLED.read_text() == digest):
        with (PAGE / ".installing").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
            if not (_INSTALLED.exists() and _INSTALLED.read_text() == digest):
                _install()
                _INSTALLED.write_text(digest)
    return node


def _install() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoNode("there is Node, but no npm in PATH. Install it")
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=PAGE, capture_output=True, text=True, timeout=_INSTALLING_S)
    except subprocess.SubprocessError as error:
        raise NoNode(f"`npm ci` in page did not end: {error}") from error
    if done.returncode:
        raise NoNode(f"`npm ci` in page failed: {done.stderr.strip()[-1000:]}")


def run_tool(node: str, *arguments: str, given: str = "") -> str:
    """Runs a program of `page` with that input; what it printed. Raises AssertionError with what it complained of."""
    done = subprocess.run([node, *arguments], cwd=PAGE, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"node {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def page_node() -> str:
    """Path of Node, with the page's packages in place. Skips where they can not be had; in CI that is a failure."""
    try:
        return ensure()
    except NoNode as error:
        if os.environ.get("CI"):
            pytest.fail(f"NO NODE: {error}")
        pytest.skip(f"NO NODE: {error}")


def main() -> int:
    try:
        found = ensure()
    except NoNode as error:
        print(f"NO NODE: tests of the page's sources are SKIPPED, and `make page` cannot run: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    print(f"the page is built by {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
