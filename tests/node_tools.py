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
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CLIENTS = Path(__file__).parent / "clients"

_LOCK = CLIENTS / "package-lock.json"
_INSTALLED = CLIENTS / "node_modules" / ".installed"
_LEAST_VERSION = 20
_INSTALLING_S = 300.0


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


def ensure() -> str:
    """The path of Node, with the packages of `tests/clients` in place. Quick if they are. Raises NoNode."""
    node = node_program()
    if node is None:
        _install_node()
        node = node_program()
        if node is None:
            raise NoNode(
                f"there is no Node of version {_LEAST_VERSION} or newer in PATH, and apt-get could not provide one. "
                "Install it (https://nodejs.org)"
            )
    if not _is_current():
        with (CLIENTS / ".installing").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
            if not _is_current():
                _install_packages()
    return node


def _is_current() -> bool:
    return _INSTALLED.exists() and _INSTALLED.read_text() == _digest()


def _digest() -> str:
    return hashlib.sha256(_LOCK.read_bytes()).hexdigest()


def _install_node() -> None:
    """With apt-get, as root."""
    if shutil.which("apt-get") is None:
        return
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and shutil.which("sudo") is None:
        return
    install = [*prefix, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "nodejs", "npm"]
    if _failure_of(install) is not None and _failure_of([*prefix, "apt-get", "update", "-qq"]) is None:
        _failure_of(install)


def _install_packages() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoNode("there is Node, but no npm in PATH. Install it")
    failure = _failure_of([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
    if failure is not None:
        raise NoNode(f"`npm ci` in tests/clients failed: {failure}")
    _INSTALLED.write_text(_digest())


def _failure_of(command: list[str]) -> str | None:
    """Runs it in the folder of the clients; why it failed, None if it has not."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=CLIENTS, env=environment, capture_output=True, text=True, timeout=_INSTALLING_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()[-1000:] or f"status {done.returncode}"


@pytest.fixture(scope="session")
def node() -> str:
    """Path of Node, with the official clients in place. Skips where they can not be had; in CI that is a failure."""
    try:
        return ensure()
    except NoNode as error:
        if os.environ.get("CI"):
            pytest.fail(f"NO NODE: {error}")
        pytest.skip(f"NO NODE: {error}")


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


def main() -> int:
    try:
        found = ensure()
    except NoNode as error:
        reason = f"NO NODE: tests with the official clients of the server's protocols are SKIPPED: {error}"
        print(reason, file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    print(f"tests of the server's protocols use {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
