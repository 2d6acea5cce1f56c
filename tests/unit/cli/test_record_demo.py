"""The README's animation: drawn from a recording, always the same, and showing what the terminal showed."""

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
ASSETS = ROOT / "docs" / "assets"
SVG = "{http://www.w3.org/2000/svg}"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("record_demo", ROOT / "tools" / "record_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = load()


def recording(*chunks: tuple[float, str], columns: int = 20) -> Any:
    return tool.Recording(columns, list(chunks))


def test_text_has_its_place_its_time_and_its_colour() -> None:
    """Across chunks and lines, with what the escape sequences say."""
    pieces = tool.pieces_of(
        recording(
            (0.0, "\x1b[36m\x1b[1mtool  \x1b[0mf()\r\n"), (1.5, "Hello"), (2.0, " you\r\n\r\n"), (2.5, "\x1b[2;33mEnd")
        )
    )
    found = [(piece.at_s, piece.row, piece.column, piece.text) for piece in pieces]
    assert found == [
        (0.0, 0, 0, "tool"),
        (0.0, 0, 6, "f()"),
        (1.5, 1, 0, "Hello"),
        (2.0, 1, 6, "you"),
        (2.5, 3, 0, "End"),
    ]
    assert pieces[0].style == tool.Style("#56d4dd", bold=True)
    assert pieces[1].style == tool.Style()
    assert pieces[4].style == tool.Style("#d29922", dim=True)


def test_the_terminal_wraps_at_its_edge() -> None:
    """A full line wraps only when more comes, as a terminal has it."""
    assert recording((0.0, "12345678"), (0.1, "90\r\nx"), columns=4).screen() == "1234\n5678\n90\nx\n"
    assert recording((0.0, "1234\r\nx"), columns=4).screen() == "1234\nx\n"


@pytest.mark.parametrize("chunk", ["\x1b[2J", "\x1b[38;5;7m", "a\rb", "\x07", "\x1b]0;title\x07"])
def test_what_cannot_be_drawn_is_an_error(chunk: str) -> None:
    """Rather than a picture that is not what the terminal showed."""
    with pytest.raises(ValueError, match="cannot draw"):
        tool.draw(recording((0.0, chunk)))


def test_a_recording_is_written_and_read_back() -> None:
    """As asciicast v2: a header, then one event a line."""
    original = recording((0.0, "$ x\r\n"), (0.25, "\x1b[36mé\x1b[0m\r\n"))
    cast = original.to_cast()
    assert cast.splitlines()[0] == '{"version": 2, "width": 20, "height": 2, "title": "runstream demo"}'
    assert tool.Recording.from_cast(cast) == original


def test_the_picture_is_drawn_from_the_recording_that_lies_beside_it() -> None:
    """Nobody has edited it by hand, and drawing it again gives the same bytes, less than 300 kB of them."""
    cast = (ASSETS / "demo.cast").read_text(encoding="utf-8")
    picture = (ASSETS / "demo.svg").read_text(encoding="utf-8")
    assert picture == tool.draw(tool.Recording.from_cast(cast))
    assert len(picture.encode()) < 300_000


def test_the_picture_shows_the_screen_and_nothing_from_elsewhere() -> None:
    """Its texts are the terminal's, in order of appearance; no script, no link, no font to load."""
    shown = tool.Recording.from_cast((ASSETS / "demo.cast").read_text(encoding="utf-8"))
    picture = (ASSETS / "demo.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(picture)
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert " ".join(texts).split() == shown.screen().split()
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        *("svg", "title", "desc", "style", "rect", "path", "g", "circle", "text")
    }
    assert not re.search("href|url\\(|@import|https?://(?!www.w3.org/2000/svg)", picture)
    times = [float(share) for share in re.findall(r"opacity:0}([\d.]+)%", picture)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 100


def test_the_recording_is_of_this_demo() -> None:
    """What the README shows is what the command says today, but for the figures."""
    from runstream.cli.demo import _ANSWER, _LOOKING, _PROMPT, _SCRIPTED

    screen = tool.Recording.from_cast((ASSETS / "demo.cast").read_text(encoding="utf-8")).screen()
    words = " ".join(screen.split())
    for text in (_SCRIPTED, _PROMPT, _LOOKING, _ANSWER):
        assert " ".join(text.split()) in words
    assert len(re.findall("^figures ", screen, re.MULTILINE)) == 1
