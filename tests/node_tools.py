"""Node and the official clients of the server's protocols: found or installed, and run as programs by tests.

`python tests/node_tools.py` makes sure that they are there (`make install` does that): Node of at least 20 by apt-get
where it is missing, and what `tests/clients/package-lock.json` pins by `npm ci`. Where they can not be had it says so
loudly, and fails if the environment variable CI is set.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from debian_tools import failure_of, install, skip, tell

CLIENTS = Path(__file__).parent / "clients"

_LEAST_VERSION = 20


class NoNode(Exception):
    """Node or the packages are not there; the message says what is missing and what to do."""


def node_program() -> str | None:
    """The path of a Node that is new enough, None if there is none."""
    found = shutil.which("node") or shutil.which("nodejs")
    if found is None:
        return None
    asked = subprocess.run([found, "--version"], capture_output=True, text=True)
    major = asked.stdout.strip().removeprefix("v").partition(".")[0]
    return found if major.isdecimal() and int(major) >= _LEAST_VERSION else None


def ensure(folder: Path = CLIENTS) -> str:
    """The path of Node, with what the folder's `package-lock.json` pins in place. Quick if it is. Raises NoNode."""
    node = node_program()
    if node is None:
        install("nodejs", "npm")
        node = node_program()
        if node is None:
            raise NoNode(
                f"there is no Node of version {_LEAST_VERSION} or newer in PATH, and apt-get could not provide one. "
                "Install it (https://nodejs.org)"
            )
    installed = folder / "node_modules" / ".installed"
    digest = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    if not _says(installed, digest):
        with (folder / ".installing").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
            if not _says(installed, digest):
                _install_packages(folder)
                installed.write_text(digest)
    return node


def _says(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def _install_packages(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoNode("there is Node, but no npm in PATH. Install it")
    failure = failure_of([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder)
    if failure is not None:
        raise NoNode(f"`npm ci` in {folder.name} failed: {failure}")


def ensured(folder: Path = CLIENTS) -> str:
    """As `ensure`, for fixtures: skips where it can not be had; in CI that is a failure."""
    try:
        return ensure(folder)
    except NoNode as error:
        skip(f"NO NODE: {error}")


@pytest.fixture(scope="session")
def node() -> str:
    """Path of Node, with the official clients in place. Skips where they can not be had; in CI that is a failure."""
    return ensured()


async def run_client(node: str, program: str, *arguments: Any, timeout_s: float = 20.0) -> list[Any]:
    """Runs `tests/clients/PROGRAM` with these arguments (what is no string, as JSON); the lines that it printed, each
    one JSON. Raises AssertionError with what it wrote to stderr, if it ended with another status than 0 or too late."""
    given = [each if isinstance(each, str) else json.dumps(each) for each in arguments]
    process = await asyncio.create_subprocess_exec(
        node,
        str(CLIENTS / program),
        *given,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, complaints = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        output, complaints = await process.communicate()
        raise AssertionError(f"{program} took more than {timeout_s:g} s: {output!r} {complaints.decode()}") from None
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{program} ended with {process.returncode}: {complaints.decode()}"
    return [json.loads(line) for line in output.decode().split("\n") if line]


def main(tests: str = "tests with the official clients of the server's protocols", folder: Path = CLIENTS) -> int:
    try:
        return tell(tests, ensure(folder), "")
    except NoNode as error:
        return tell(tests, None, f"NO NODE: {error}")


if __name__ == "__main__":
    sys.exit(main())
