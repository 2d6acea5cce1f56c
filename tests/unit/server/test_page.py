"""How the page is sent, what it asks the server, and what it is built of."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from page_tools import STATIC, run_tool
from runstream import Agent
from runstream.log.cursor import Cursor
from runstream.server import create_app
from runstream.server import page as server_page
from runstream.server.protocols import native
from runstream.sessions.memory import InMemorySession
from runstream.testing import ScriptedModel
from serving import Client, serving
from view_events import Log, support_run

TOKENS = {"a" * 20: "ann", "x" * 20: None}


def desk(**options: Any) -> Any:
    agent = Agent(name="Desk", handoff_description="Helps.", model=ScriptedModel(default="Hello."))
    return create_app(agent, store="memory://", **options)


async def read(client: Client, path: str, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body as it came."""
    headers = {"Accept_Encoding": "identity", **headers}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(path, headers=named, auto_decompress=False) as response:
        return response.status, response.headers, await response.read()


async def test_the_files() -> None:
    """The page may be kept only if it is asked for again each time, what it is made of for ever; both with their types,
    and with a policy that lets nothing run but the files themselves."""
    async with serving(desk()) as url, Client(url) as client:
        status, headers, page = await read(client, "/")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert page == (STATIC / "index.html").read_bytes()
        assert headers["Cache-Control"] == "no-cache"
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert (await read(client, "/", If_None_Match=headers["ETag"]))[0] == 304
        assert (await read(client, "/", If_None_Match='"other"'))[0] == 200
        assert b"<script>" not in page
        assert b"style=" not in page
        names = re.findall(rb'(?:src|href)="([^"]+)"', page)
        assert len(names) == 4
        for name in names:
            status, headers, body = await read(client, f"/{name.decode()}", Accept_Encoding="gzip")
            assert status == 200
            assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert gzip.decompress(body) == (STATIC / name.decode()).read_bytes()
        types = {
            name.rpartition(b".")[2]: (await read(client, f"/{name.decode()}"))[1]["Content-Type"] for name in names
        }
        assert types[b"js"] == "text/javascript; charset=utf-8"
        assert types[b"css"] == "text/css; charset=utf-8"
        for path in ("/assets/none.js", "/assets/..%2Findex.html", "/assets/%2e%2e%2f%2e%2e%2fpage.py", "/assets/"):
            assert (await read(client, path))[0] == 404


async def test_the_page_is_small() -> None:
    """What a browser loads before the first answer, packed; colours for code come when there is code."""
    page = (STATIC / "index.html").read_text()
    first = set(re.findall(r'"assets/([^"]+)"', page))
    packed = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in (STATIC / "assets").iterdir()}
    late = {name for name in packed if name.startswith("highlight-") or name.endswith(".txt")}
    assert first < set(packed) - late
    assert sum(size for name, size in packed.items() if name not in late) < 60_000
    assert sum(packed[name] for name in late) < 40_000


async def test_below_a_path() -> None:
    """Mounted in another application the page finds its files and its server: it names them without a root."""
    agents = desk()
    app = Starlette(routes=[Mount("/agents", agents)], lifespan=lambda _: agents.router.lifespan_context(agents))
    async with serving(app) as url, Client(url) as client:
        status, _, page = await read(client, "/agents/")
        assert status == 200
        for name in re.findall(rb'(?:src|href)="([^"]+)"', page):
            assert not name.startswith((b"/", b"http"))
            assert (await read(client, f"/agents/{name.decode()}"))[0] == 200
        assert (await read(client, "/agents"))[0] == 200  # by way of a redirect
        assert (await client.json("GET", "/agents/page/server"))[1]["agents"][0]["name"] == "Desk"


async def test_who_may_know_what() -> None:
    """The page itself is anybody's; agents and runs are told to those who have a token, each their own."""
    async with serving(desk(tokens=TOKENS, session=lambda name: InMemorySession(name))) as url, Client(url) as client:
        assert (await read(client, "/"))[0] == 200
        for path in ("/page/server", "/page/runs"):
            assert (await client.json("GET", path))[0] == 401
        ann, whoever = {"Authorization": f"Bearer {'a' * 20}"}, {"Authorization": f"Bearer {'x' * 20}"}
        assert (await client.json("GET", "/page/server", **ann))[1] == {
            "agents": [{"name": "Desk", "description": "Helps."}],
            "sessions": True,
        }
        assert (await client.json("GET", "/page/runs", **ann))[1] == {"runs": [], "next": None}
        said = [{"role": "user", "content": [{"type": "input_text", "text": "Hello,\n  you"}]}]
        await client.stream({"input": said, "session": "s 1"}, **ann)
        await client.stream({"input": "x" * 500}, **whoever)
        (mine,) = (await client.json("GET", "/page/runs", **ann))[1]["runs"]
        assert (mine["title"], mine["session"], mine["status"]) == ("Hello, you", "s 1", "completed")
        newest, oldest = (await client.json("GET", "/page/runs", **whoever))[1]["runs"]
        assert (newest["title"], newest["session"]) == ("x" * 120, None)
        # Somebody else's conversation is not one's own of that name.
        assert (oldest["title"], oldest["owner"], oldest["session"]) == ("Hello, you", "ann", None)


async def test_all_runs_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """List by list, each run once, whatever is begun meanwhile; so does the list of the server's own protocol."""
    monkeypatch.setattr(server_page, "_SHOWN_RUNS", 3)
    async with serving(desk()) as url, Client(url) as client:
        asked = [(await client.stream({"input": f"{number}"}))[0].data["run"] for number in range(7)]
        for path in ("/page/runs?", "/runs?limit=3&"):
            seen: list[str] = []
            more = ""
            while more is not None:
                _, listed = await client.json("GET", f"{path}before={quote(more)}" if more else path)
                await client.stream({"input": "meanwhile"})
                seen += [run["run_id"] for run in listed["runs"] if run["run_id"] in asked]
                more = listed["next"]
                assert len(listed["runs"]) == 3 or more is None
            assert seen == asked[::-1]


async def test_without_the_page() -> None:
    """`page=False`: the server alone."""
    async with serving(desk(page=False)) as url, Client(url) as client:
        for path in ("/", "/page/server", "/page/runs"):
            assert (await client.json("GET", path))[0] == 404
        assert (await client.json("GET", "/runs"))[0] == 200


def test_the_built_page_is_that_of_the_sources(page_node: str, tmp_path: Path) -> None:
    """Built again, every file is the same, byte for byte: `make page` was run after the last change."""
    run_tool(page_node, "build.mjs", str(tmp_path))
    assert files_of(tmp_path) == files_of(STATIC)
    run_tool(page_node, "node_modules/typescript/bin/tsc", "--noEmit")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TEXTS = [
    "Hello **bold and *slanted* text** with `code` and ~~gone~~, then [a link](https://example.com/a_b) and *more*.",
    "# Title\n\nA paragraph of\ntwo lines.\n\n- one\n- **two**\n  - inner `x`\n\n- more\n\n1. first\n2. second\n",
    "Text before\n- a list right after\n- and more\n\n> A quote **with** marks\n> of two lines\n\nEnd.",
    "Look:\n\n```python\nprint('**no marks** here')\n\n# no title\n```\n\nDone.\n\n    indented\n\nAnd ***both***.",
    "| a | b |\n| --- | --: |\n| **1** | `2` |\n| 3 | 4 |\n\nAfter the table.\n\n---\n\nAfter the line.",
    "- [ ] to do\n- [x] done\n\nA [named][r] link.\n\n[r]: https://example.com\n",
    "Title\n=====\n\nOther\n-----\n\nüöä — “quotes” 日本語のテキスト **太字** です。\r\nAnd a line.\n",
    "~~~\nfence of tildes\n~~~\n\n<div>raw</div>\n\ntext <b>raw</b> &amp; more\n",
]


@pytest.mark.parametrize("size", [1, 3, 7])
def test_markdown_that_grows(page_node: str, size: int) -> None:
    """However the text comes: blocks that are complete do not change, no marks show that are closed later, and the end
    is as if it had come at once."""
    texts = [{"text": text, "sizes": [size], "loose": "]: " in text} for text in TEXTS]
    for text, line in zip(
        TEXTS, run_tool(page_node, "tools/markdown.mjs", given=json.dumps(texts)).splitlines(), strict=True
    ):
        assert json.loads(line)["wrong"] == [], text


def test_any_text_that_grows(page_node: str) -> None:
    """The same for texts of nothing but marks, in pieces of any size; marks may show, since these are seldom closed."""
    texts: list[dict[str, Any]] = []
    pieces = st.sampled_from(
        [
            "*",
            "**",
            "_",
            "`",
            "```",
            "\n",
            "\n\n",
            "# ",
            "- ",
            "1. ",
            "> ",
            "|",
            "---",
            "[",
            "](",
            ")",
            "word ",
            "<b>",
            "    ",
        ]
    )

    @settings(max_examples=150)
    @given(st.lists(pieces, max_size=30).map("".join), st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def collect(text: str, sizes: list[int]) -> None:
        texts.append({"text": text, "sizes": sizes, "loose": True})

    collect()
    lines = run_tool(page_node, "tools/markdown.mjs", given=json.dumps(texts)).splitlines()
    wrong = [(each["text"], json.loads(line)["wrong"]) for each, line in zip(texts, lines, strict=True)]
    assert [each for each in wrong if "the end is not the whole" in each[1]] == []


@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_frames_in_pieces(page_node: str, size: int) -> None:
    """The page reads what the server writes, wherever the network cuts it: also within a character."""
    events = [*Log().start("ünï\u2028 日本 \n\nid: 7\ndata: {}\n\n").events, *support_run()[2:]]
    body = native.OPENING + native.resync("ahead", "1-9", Cursor(1, 3)) + native.HEARTBEAT
    body += native.encode(events, 1) + native.failure("store_error") + b"id: 1-99\ndata: cut off"
    given = [{"body": base64.b64encode(body).decode(), "sizes": [size]}]
    resync, *frames, failure = json.loads(run_tool(page_node, "tools/frames.mjs", given=json.dumps(given)))
    assert (resync["event"], resync["id"]) == ("resync", "1-3")
    assert (failure["event"], failure["id"]) == ("failure", None)
    assert [(frame["id"], frame["event"]) for frame in frames] == [(f"1-{each.seq}", "message") for each in events]
    assert [frame["data"].encode() for frame in frames] == [native.record(each) for each in events]


def test_a_long_answer_is_no_dearer_at_its_end(page_node: str) -> None:
    """What is parsed for each new piece of text does not grow with the text."""
    paragraph = "Some **words** of a paragraph, with `code` and [links](https://example.com) in it, and then more.\n\n"
    texts = [{"text": paragraph * count, "sizes": [5], "loose": True} for count in (20, 200)]
    few, many = (
        json.loads(line) for line in run_tool(page_node, "tools/markdown.mjs", given=json.dumps(texts)).splitlines()
    )
    assert many["blocks"] == 10 * few["blocks"] == 200
    assert many["parsed"] < 10.5 * few["parsed"]
