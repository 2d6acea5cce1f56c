"""A Chromium for the tests of the page: found, or installed by apt-get.

`python tests/chromium.py` makes sure that it is there (`make install` does that). Where it can not be had it says so
loudly, and fails if the environment variable CI is set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_INSTALLING_S = 600.0
# Of tests nobody is to be kept from anything, and containers have little shared memory, and often no namespaces.
ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")


def find_chromium() -> str | None:
    """The program's path; None if there is none. RUNSTREAM_CHROMIUM names another one."""
    given = os.environ.get("RUNSTREAM_CHROMIUM")
    if given:
        return given
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def install_chromium() -> str | None:
    """The program's path, after installing it if need be; None where that is not possible."""
    found = find_chromium()
    if found is None and shutil.which("apt-get") is not None:
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if not prefix or shutil.which("sudo") is not None:
            for package in ("chromium", "chromium-browser"):
                install = [*prefix, "apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
                if _runs(install) or (_runs([*prefix, "apt-get", "update", "-qq"]) and _runs(install)):
                    break
        found = find_chromium()
    return found


def _runs(command: list[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=_INSTALLING_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a module. Skips where there is none and none can be had; in CI that is a failure."""
    program = install_chromium()
    if program is None:
        reason = "NO CHROMIUM: there is none in PATH, and apt-get could not provide one"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


def main() -> int:
    found = install_chromium()
    if found is not None:
        print(f"tests of the page use {found}")
        return 0
    print(
        "NO CHROMIUM: tests of the page are SKIPPED, because there is none in PATH and apt-get could not provide one. "
        "Install it to run them.",
        file=sys.stderr,
    )
    return 1 if os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
