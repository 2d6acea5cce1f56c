"""The page in Chromium, over real sockets, against `runstream serve` with scripted models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from page_agents import LONG
from page_server import TOKEN, PageServer, say, shown_answer, wait_for
from page_tools import PAGE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

QUESTION = "My order 1042 came with a cracked lid. Can I have my money back?"
# Told by every page at once: scripts that ran, and what the policy of the page has refused.
WATCH = """
    window.violations = [];
    addEventListener('securitypolicyviolation', (event) => window.violations.push(event.violatedDirective));
"""
LAST_RUN = "(document.querySelector('.run:last-child')?.textContent ?? '')"
WORDS_SHOWN = f"(least) => ({LAST_RUN}.match(/w\\d+/g) ?? []).length >= least"
AT_END = """() => {
    const area = document.querySelector('.transcript');
    return area.scrollTop + area.clientHeight >= area.scrollHeight - 2;
}"""

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """One server for all tests that leave it alive."""
    server = PageServer(tmp_path_factory.mktemp("page"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def open_page(browser: Browser, server: PageServer) -> Iterator[Open]:
    """Opens the page, in a context of its own or in that of another; it must have complained of nothing in the end."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_(
        url: str = "", *, beside: Page | None = None, may_fail: bool = False, token: str | None = TOKEN, **options: Any
    ) -> Page:
        if beside is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            context.add_init_script(WATCH)
            if token is not None:
                context.add_init_script(f"sessionStorage.setItem('runstream.token', '{token}')")
            contexts.append(context)
        else:
            context = beside.context
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"a dialog: {dialog.message}"))
        if not may_fail:
            page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
        page.goto(url or server.url)
        page.wait_for_selector("#message")
        return page

    yield open_
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("[window.violations, window.pwned ?? null]") == [[], None]
        context.close()
    assert faults == []


def test_a_conversation(open_page: Open) -> None:
    """Reasoning, tools with progress, an agent within a tool, a handoff, an approval by keyboard, the answer; after a
    reload all is there as it was, and the next message goes on with the conversation."""
    page = open_page()
    page.wait_for_selector(".empty h2")
    say(page, QUESTION, "Support Desk")
    page.wait_for_selector(".handoff")
    assert page.locator(".handoff").inner_text().split() == ["Support", "Desk", "Refund", "Agent"]
    page.get_by_role("form", name="Allow refund_order?").wait_for()
    assert page.locator(".active-agent").inner_text() == "Refund Agent"
    assert page.locator(".fields").inner_text().split("\n") == [
        *("order_id", "1042", "amount", "34.90 EUR", "reason", "cracked lid"),
    ]
    # With the keyboard alone: to the call that waits, and allow it.
    page.get_by_role("button", name="Show").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Approve"
    page.keyboard.press("Enter")
    page.wait_for_selector(".end.completed")
    # What is folded away when a call has its result: its reports, and the agent within.
    for name, within in (("look_up_order", "progress"), ("ask_product_expert", ".nested [aria-label^='Tool read_']")):
        head = page.locator(f"[aria-label^='Tool {name}, done'] .tool-head").first
        head.click()
        page.wait_for_selector(f"[aria-label^='Tool {name}'] {within}")
        head.click()
    texts = page.locator("#conversation").inner_text()
    assert re.search(r"refund R-7301 of 34.90 EUR sent", texts)
    assert re.search(r"first text after [\d.]+ m?s · [\d,]+ tokens · [\d,]+ tokens/s", texts)
    assert page.locator(".message strong").all_inner_texts() == ["on its way"]
    assert page.locator(".table td").count() == 6
    # What a screen reader was told, once each.
    told = page.locator("#announcements p").all_inner_texts()
    assert told[-1] == "The answer is complete."
    assert told[-2].startswith("Refund Agent: Your refund is on its way: 34.90 EUR")
    page.locator("#timeline-switch").click()
    page.locator(".rows li", has_text="refund_order waits").wait_for()
    rows = page.locator(".rows li").all_inner_texts()
    labels = {row.split("\n")[0] for row in rows}
    assert labels >= {"look_up_order", "Product Expert", "→ Refund Agent", "refund_order waits"}
    # Each call of a model has the time that it took to begin: nothing of the axis is unaccounted for.
    assert page.locator(".rows .model").count() == page.locator(".rows .bar.asked").count() == 6
    with page.expect_download() as downloading:
        page.get_by_role("button", name="All events").click()
    events = [json.loads(line) for line in downloading.value.path().read_text().splitlines()]
    assert (events[0]["kind"], events[-1]["kind"], events[-1]["seq"]) == ("run.start", "run.end", len(events))
    page.locator("#timeline-switch").click()
    page.reload()
    page.wait_for_selector(".end.completed")
    assert page.locator("#conversation").inner_text() == texts
    thoughts = page.locator(".reasoning")
    thoughts.locator("summary").click()
    assert "cracked lid" in thoughts.inner_text()
    say(page, "Show me some code")
    page.wait_for_selector(".run:nth-child(2) .end.completed")
    page.wait_for_selector(".hljs-keyword")
    assert page.locator(".past li").count() >= 1
    assert page.locator(".past .current .past-title").inner_text() == QUESTION
    # Deleted, with both of its runs.
    page.locator(".past .current .remove").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_selector(".empty h2")
    wait_for(page, "(title) => !document.querySelector('.past').textContent.includes(title)", QUESTION)


def test_no_character_is_lost_or_doubled(open_page: Open, server: PageServer) -> None:
    """Reloaded in mid-answer, followed by a second tab from a place that is none, and cut off the network: all show the
    same whole text."""
    page = open_page()
    server.hold_after(45)
    say(page, "go", "Long")
    wait_for(page, WORDS_SHOWN, 40)
    led_astray: list[str] = []

    def lead_astray(route: Any) -> None:
        """The first time to a place that is not in the log."""
        url = route.request.url if led_astray else re.sub(r"after=.*", "after=7-99999", route.request.url)
        led_astray.append(url)
        route.continue_(url=url)

    page.context.route("**/events?after=*", lead_astray)
    second = open_page(page.url, beside=page)
    cut_off = open_page(page.url, may_fail=True)
    wait_for(cut_off, WORDS_SHOWN, 40)
    cut_off.context.set_offline(True)
    cut_off.wait_for_selector(".doing.lost")
    page.reload()
    for each in (second, page):
        each.bring_to_front()
        wait_for(each, WORDS_SHOWN, 40)
        each.get_by_role("button", name="Stop").wait_for()
    server.go_on()
    page.wait_for_selector(".end.completed")
    second.wait_for_selector(".end.completed")
    assert led_astray[0].endswith("7-99999")
    assert cut_off.locator(".end").count() == 0
    cut_off.context.set_offline(False)
    cut_off.wait_for_selector(".end.completed")
    assert [shown_answer(each) for each in (page, second, cut_off)] == [LONG] * 3


def test_the_server_is_killed(browser: Browser, tmp_path: Path) -> None:
    """In mid-answer: the page says that the connection is lost, and goes on with the server that comes after; what the
    one before had said is shown for what it is, and that it could not be reached is no longer told."""
    server = PageServer(tmp_path, dies=True)
    server.start()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(server.url)
        server.hold_after(25)
        say(page, "go", "Long")
        wait_for(page, WORDS_SHOWN, 20)
        server.kill()
        page.wait_for_selector(".doing.lost")
        page.keyboard.press("Escape")
        page.wait_for_selector(".problem:has-text('cannot be reached')")
        server.go_on()
        server.start()
        page.wait_for_selector(".end.completed", timeout=30_000)
        assert shown_answer(page) == LONG
        assert page.locator(".problem").count() == 0
        assert "another worker took over" in page.locator("details.discarded summary").first.inner_text()
    finally:
        context.close()
        server.kill()


def test_stop(open_page: Open, server: PageServer) -> None:
    """Escape stops the run; another tab sees it. What was said is marked as not finished, and one can go on."""
    page = open_page()
    server.hold_after(25)
    say(page, "go", "Long")
    wait_for(page, WORDS_SHOWN, 20)
    other = open_page(page.url, beside=page)
    wait_for(other, WORDS_SHOWN, 20)
    page.keyboard.press("Escape")
    for each in (other, page):
        each.bring_to_front()  # in the back they are drawn once a second
        each.wait_for_selector(".end.cancelled")
        assert "Not finished" in each.locator(".message.incomplete").inner_text()
    assert shown_answer(page) == shown_answer(other) != LONG
    assert LONG.startswith(shown_answer(page))
    server.go_on()
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".run:nth-child(2) .end.completed")
    assert shown_answer(page) == LONG


def test_more_input_and_refusing(open_page: Open) -> None:
    """What is said while a run goes on is heard by it; a call is refused, with a message, in one tab, and the other
    sees it; the desk fails on request, and the error is shown."""
    page = open_page()
    say(page, QUESTION, "Support Desk")
    page.wait_for_selector(".approval")
    page.wait_for_selector(".past .current .dot.waiting", timeout=5_000)
    other = open_page(page.url, beside=page)
    other.wait_for_selector(".approval")
    page.bring_to_front()
    page.get_by_role("textbox", name="Say something more").fill("My order 1042 has a scratch, too.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".input:has-text('scratch')")
    other.bring_to_front()
    other.get_by_label("If you refuse").fill("Too expensive.")
    other.get_by_role("button", name="Reject").click()
    for each in (other, page):
        each.bring_to_front()
        each.wait_for_selector(".tool.state-rejected")
        each.wait_for_selector(".end.completed")
        assert each.locator(".input").count() == 2
        each.locator(".tool.state-rejected .tool-head").click()
        assert "Refused: “Too expensive.”" in each.locator(".tool.state-rejected").inner_text()
    # Who has folded something out, and looks at something else, is not led away by what is drawn then.
    page.set_viewport_size({"width": 900, "height": 420})
    page.locator(".tool-head").first.click()
    page.locator(".transcript").evaluate("(area) => area.scrollTo(0, 0)")
    page.wait_for_selector(".jump")
    page.get_by_role("textbox", name="Your message").fill("Fail?")
    page.wait_for_selector(".send:enabled")
    assert page.locator(".transcript").evaluate("(area) => area.scrollTop") == 0
    say(page, "Fail")
    for each in (page, other):  # who has seen that there is a new run
        each.wait_for_selector(".end.failed")
    assert "this desk fails when it is asked to" in page.locator(".failure").inner_text()
    assert page.locator(".message.incomplete").last.is_visible()


def test_hostile_markdown(open_page: Open, server: PageServer) -> None:
    """Nothing that a model writes runs, is loaded, or leads to more than pages: not as it grows, not as a whole."""
    asked: list[str] = []
    page = open_page()
    page.on("request", lambda request: asked.append(request.url))
    say(page, "go", "Hostile")
    page.wait_for_selector(".end.completed")
    assert "The end." in shown_answer(page)
    found = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll('.message *')].filter((each) => !each.closest('.copy'));
            const handlers = all.flatMap((each) => each.getAttributeNames().filter((name) => name.startsWith('on')));
            const names = [...new Set(all.map((each) => each.localName))];
            const links = [...document.querySelectorAll('.message [href], .message [src]')].map((each) => each.href);
            return { handlers, names, links };
        }"""
    )
    assert found["handlers"] == []
    assert not {"script", "iframe", "img", "svg", "math", "style", "form", "details"} & set(found["names"])
    assert {link.split("/")[2] for link in found["links"]} == {"example.com", "evil.example"}
    assert all(url.startswith(server.url) for url in asked), asked
    # And by brute force: whatever is on the page is clicked and passed over.
    page.evaluate(
        """() => document.querySelectorAll('.message *').forEach((each) => {
            for (const kind of ['mouseover', 'focus', 'error', 'load', 'toggle']) each.dispatchEvent(new Event(kind));
        })"""
    )


def test_the_reader_who_scrolls_up_stays(open_page: Open, server: PageServer) -> None:
    """The end is kept in sight until somebody scrolls up; a button leads back to it. Nothing scrolls sideways."""
    page = open_page(viewport={"width": 900, "height": 420})
    server.hold_after(110)
    say(page, "go", "Long")
    wait_for(page, WORDS_SHOWN, 100)
    wait_for(page, AT_END)
    page.locator(".transcript").hover()
    page.mouse.wheel(0, -400)
    page.wait_for_selector(".jump")
    before = page.evaluate("document.querySelector('.transcript').scrollTop")
    server.go_on()
    page.wait_for_selector(".end.completed")
    assert page.evaluate("document.querySelector('.transcript').scrollTop") == before
    page.locator(".jump").click()
    wait_for(page, AT_END)
    page.wait_for_selector(".jump", state="detached")
    assert page.locator(".transcript").evaluate("(area) => area.scrollWidth - area.clientWidth") == 0


def test_on_a_phone(open_page: Open, server: PageServer) -> None:
    """Nothing is wider than the screen; what an agent's description quotes is asked by a touch; the list and the
    timeline open over the page and close with Escape. An address that is none is that of an empty conversation."""
    page = open_page(f"{server.url}#/c/%", viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    page.get_by_text("“Show me some code”").tap()
    page.wait_for_selector(".end.completed")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.querySelector('.transcript').scrollWidth") == 390
    assert not page.locator(".past a").first.is_visible()
    page.locator("#history-switch").click()
    page.locator(".past a").first.wait_for()
    page.keyboard.press("Escape")
    page.locator(".past a").first.wait_for(state="hidden")
    page.locator("#timeline-switch").click()
    page.wait_for_selector(".timeline .rows")
    page.keyboard.press("Escape")
    page.wait_for_selector(".timeline", state="detached")


def test_it_can_be_used_by_everybody(open_page: Open) -> None:
    """axe-core finds nothing in either colours: empty, with a call that waits, and when all is folded out."""
    axe = (PAGE / "node_modules" / "axe-core" / "axe.min.js").read_text()
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_selector(".empty h2")
        page.evaluate(axe)
        check(page)
        say(page, QUESTION, "Support Desk")
        page.wait_for_selector(".approval")
        check(page)
        page.get_by_role("button", name="Approve").click()
        page.wait_for_selector(".end.completed")
        page.locator("#timeline-switch").click()
        for head in page.locator(".tool-head, .reasoning summary").all():
            head.click()
        check(page)


def check(page: Page) -> None:
    """No violations of the rules of WCAG 2.2 AA and of good practice."""
    found = page.evaluate(
        "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"
        ".map(({id, help, nodes}) => [id, help, nodes.map((n) => n.html + ' ' + n.failureSummary).slice(0, 3)])"
    )
    assert found == [], json.dumps(found, indent=1)


def test_tokens(open_page: Open, server: PageServer) -> None:
    """The page asks for a token where the server does, again if it was wrong, and keeps it for the tab alone. A run
    that may not be read is said to be so, and not tried again for ever."""
    page = open_page(token=None, may_fail=True)
    for token in ("wrong", TOKEN):
        page.get_by_label("Bearer token").fill(token)
        page.get_by_role("button", name="Go on").click()
        if token == "wrong":
            page.get_by_text("was not accepted").wait_for()
    page.wait_for_selector(".token", state="detached")
    say(page, "Show me some code", "Support Desk")
    page.wait_for_selector(".end.completed")
    page.reload()
    page.wait_for_selector(".end.completed")
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]
    refusal = {"error": {"code": "forbidden", "message": "This run is not yours."}}
    page.context.route("**/events?after=*", lambda route: route.fulfill(status=403, json=refusal))
    say(page, "Fail")
    page.get_by_text("This run is not yours.").wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="detached")
    other = open_page(beside=page, may_fail=True)
    other.get_by_label("Bearer token").wait_for()


def test_older_conversations(open_page: Open, server: PageServer) -> None:
    """The list goes on where the newest runs end, by a button that the keyboard reaches; the focus goes on with what
    came. An older conversation is found by its address, too; what is begun meanwhile changes nothing of this."""
    questions = [f"Fail {number}" for number in range(205)]
    for question in questions:
        server.ask("POST", "runs", {"input": question, "agent": "Support Desk", "session": question.replace(" ", "-")})
    page = open_page(viewport={"width": 1280, "height": 700})
    shown = page.locator(".past-title")
    page.get_by_text("Fail 204").wait_for()
    assert shown.all_inner_texts() == questions[:4:-1]
    server.ask("POST", "runs", {"input": "Fail later", "agent": "Support Desk", "session": "later"})
    page.get_by_role("button", name="Older conversations").focus()
    page.keyboard.press("Enter")
    wait_for(page, "() => document.activeElement.textContent.startsWith('Fail 4')")
    page.get_by_role("button", name="Older conversations").wait_for(state="detached")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_text("Fail later").wait_for()
    assert shown.all_inner_texts()[:206] == ["Fail later", *questions[::-1]]
    told = page.locator("#announcements p").all_inner_texts()
    assert re.fullmatch(r"\d+ older conversations\.", told[-1])
    page.keyboard.press("Enter")
    page.wait_for_selector(".end.failed")
    page.goto(f"{server.url}#/c/Fail-3")
    page.reload()
    page.wait_for_selector(".end.failed")
    assert page.locator(".past .current .past-title").inner_text() == "Fail 3"
