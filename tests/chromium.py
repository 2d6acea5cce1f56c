"""A Chromium for the tests of the page: found, or installed by apt-get.

`python tests/chromium.py` makes sure that it is there (`make install` does that). Where it can not be had it says so
loudly, and fails if the environment variable CI is set.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from debian_tools import install, skip, tell

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_CHROMIUM = "NO CHROMIUM: there is none in PATH, and apt-get could not provide one"
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
    if find_chromium() is None and not install("chromium"):
        install("chromium-browser")
    return find_chromium()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a module. Skips where there is none and none can be had; in CI that is a failure."""
    program = install_chromium()
    if program is None:
        skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


def main() -> int:
    return tell("tests of the page", install_chromium(), NO_CHROMIUM)


if __name__ == "__main__":
    sys.exit(main())
