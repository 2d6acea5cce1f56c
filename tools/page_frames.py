"""Measures what drawing a long answer costs on the page: milliseconds of script a frame, in fifths of the answer.

`python tools/page_frames.py [DELTAS...]` serves an answer of so many deltas in Markdown, follows it in Chromium, and
prints a line for each. The page is cheap enough if the last fifth costs what the first did.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runstream import Agent
from runstream.testing import Message, ScriptedModel, Turn

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOOLS = Path(__file__).parent
sys.path.insert(0, str(TOOLS.parent / "tests"))

PARAGRAPH = "Some **words** of a paragraph, with `code` and [links](https://example.com) in it, and then some more."
CODE = "```python\n" + "\n".join(f"def f{n}(x: int) -> int:\n    return x * {n}  # noted" for n in range(12)) + "\n```"
# When each frame began to be drawn, and how long that took.
WATCH = """
    window.drawn = [];
    const request = requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (draw) => request((time) => {
        const before = performance.now();
        draw(time);
        window.drawn.push(performance.now() - before);
    });
"""


def text_of(deltas: int) -> str:
    """Markdown of so many words: headings, paragraphs, lists, and code every now and then."""
    sections = (
        f"## Section {n}\n\n{PARAGRAPH} {PARAGRAPH}\n\n- one **{n}**\n- two\n- three\n\n{PARAGRAPH if n % 3 else CODE}"
        for n in range(1 + deltas // 20)
    )
    return " ".join("\n\n".join(sections).split(" ")[:deltas])


def _answer(call: Any) -> Turn:
    deltas = int(call.input if isinstance(call.input, str) else call.input[-1]["content"])
    return Turn((Message(text_of(deltas)),), every_s=0.002)


answer = Agent(name="Long", model=ScriptedModel(default=_answer))


def measure(browser: Browser, url: str, deltas: int) -> str:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(WATCH)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".empty h2")
    page.locator("#message").fill(str(deltas))
    page.keyboard.press("Enter")
    page.wait_for_selector(".end.completed", timeout=120_000)
    drawn: list[float] = page.evaluate("window.drawn")
    characters = page.evaluate("document.querySelector('.message').textContent.length")
    context.close()
    fifth = len(drawn) // 5
    means = [sum(drawn[n * fifth : (n + 1) * fifth]) / fifth for n in range(5)]
    told = ", ".join(f"{mean:.1f}" for mean in means)
    return f"{deltas} deltas, {characters} characters, {len(drawn)} frames: {told} ms a frame, {max(drawn):.0f} at most"


def main() -> int:
    from playwright.sync_api import sync_playwright

    from chromium import ARGUMENTS, install_chromium

    program = install_chromium()
    if program is None:
        print("no Chromium in PATH, and apt-get could not provide one: install it", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "runstream.cli", "serve", "page_frames:answer", "--port", "0", "--drain", "0s"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        process = subprocess.Popen(
            [*command, "--store", "memory://"],
            cwd=TOOLS,
            env={**os.environ, "XDG_DATA_HOME": folder},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
            for deltas in [int(each) for each in sys.argv[1:]] or [2000, 8000]:
                print(measure(browser, url, deltas))
            browser.close()
        finally:
            process.terminate()
            process.communicate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
