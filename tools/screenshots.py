"""Draws docs/assets/page-*.png: the page of `runstream serve` in Chromium, with the scripted desk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "docs" / "assets"
sys.path.insert(0, str(ROOT / "tests"))

QUESTION = "My order 1042 came with a cracked lid. Can I have my money back?"
BEFORE = ("Show me some code", "Fail", "What do you know?")


@contextmanager
def served() -> Iterator[str]:
    """The URL of a server without a key and with nothing in its store."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RUNSTREAM_"))}
        command = [
            sys.executable,
            "-m",
            "runstream.cli",
            "serve",
            "--port",
            "0",
            "--store",
            "memory://",
            "--drain",
            "0s",
        ]
        process = subprocess.Popen(
            command,
            env={**kept, "XDG_DATA_HOME": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.communicate()


def opened(browser: Browser, url: str, width: int, height: int, **options: Any) -> Page:
    page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
    page.goto(url)
    page.wait_for_selector("#message")
    return page


def ask(page: Page, text: str) -> None:
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")


def draw(page: Page, name: str) -> None:
    page.mouse.move(640, 20)
    page.wait_for_timeout(400)  # transitions
    page.screenshot(path=ASSETS / f"page-{name}.png")
    print(f"docs/assets/page-{name}.png")


def main() -> int:
    from playwright.sync_api import sync_playwright

    from chromium import ARGUMENTS, install_chromium

    program = install_chromium()
    if program is None:
        print("no Chromium in PATH, and apt-get could not provide one: install it", file=sys.stderr)
        return 1
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        page = opened(browser, url, 1280, 800, color_scheme="light")
        for text in BEFORE:
            ask(page, text)
            page.wait_for_selector(".end")
            page.get_by_role("button", name="New conversation").click()
            page.wait_for_selector(".empty h2")
        ask(page, QUESTION)
        page.wait_for_selector(".approval")
        draw(page, "light")
        page.get_by_role("button", name="Approve").click()
        page.wait_for_selector(".end.completed")
        dark = opened(browser, page.url, 1280, 800, color_scheme="dark")
        dark.wait_for_selector(".end.completed")
        dark.locator("#timeline-switch").click()
        draw(dark, "dark")
        phone = opened(browser, page.url, 390, 844, color_scheme="light", has_touch=True, is_mobile=True)
        phone.wait_for_selector(".end.completed")
        draw(phone, "phone")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
