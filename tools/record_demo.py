"""Records `runstream demo` in a terminal of its own, and draws the recording as an animated SVG for the README.

`make record` writes two files: `docs/assets/demo.cast`, what the terminal received and when (asciicast v2, which
`asciinema play` understands), and `docs/assets/demo.svg`, drawn from it. Drawing is pure: one recording always gives
the same bytes. Only what the demo sends is understood, which is text, line ends and colours; anything else is an error.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
COLUMNS = 80
TITLE = "runstream demo"

# The picture, in pixels; the times in seconds.
FONT_SIZE = 14
CELL_WIDTH, CELL_HEIGHT = 8.4, 19
PADDING, BAR_HEIGHT = 18, 30
HOLD_S = 6.0
"""How long the end stays before the animation begins again."""

BACKGROUND, FOREGROUND, BAR = "#0d1117", "#d1d7e0", "#1c222b"
COLOURS = {32: "#3fb950", 33: "#d29922", 34: "#6cb6ff", 35: "#c297ff", 36: "#56d4dd"}
FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"

_PIECES = re.compile(r"\x1b\[([0-9;]*)m|(\r\n)|([^\x00-\x1f\x7f]+)|(.)", re.DOTALL)


@dataclass(frozen=True)
class Style:
    colour: str = FOREGROUND
    bold: bool = False
    dim: bool = False


@dataclass(frozen=True)
class Piece:
    """Some characters of one line that appear together."""

    at_s: float
    row: int
    column: int
    text: str
    style: Style


@dataclass
class Recording:
    columns: int
    chunks: list[tuple[float, str]] = field(default_factory=list)
    """When something came, in seconds from the start, and what."""

    def to_cast(self) -> str:
        header = {"version": 2, "width": self.columns, "height": len(self.screen().splitlines()), "title": TITLE}
        lines = [header, *([at_s, "o", text] for at_s, text in self.chunks)]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    @classmethod
    def from_cast(cls, cast: str) -> Recording:
        header, *lines = [json.loads(line) for line in cast.splitlines()]
        return cls(header["width"], [(at_s, text) for at_s, _, text in lines])

    def screen(self) -> str:
        """What stands in the terminal at the end, without colours."""
        rows: dict[int, str] = {}
        for piece in pieces_of(self):
            rows[piece.row] = rows.get(piece.row, "").ljust(piece.column) + piece.text
        return "".join(f"{rows.get(row, '')}\n" for row in range(max(rows) + 1))


def record(command: list[str]) -> Recording:
    """Run the command in a terminal. Raises CalledProcessError where it fails."""
    recording = Recording(COLUMNS, [(0.0, f"$ {TITLE}\r\n")])
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    # Without a key, whatever the environment: the recording is of the scripted model.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    environment.pop("NO_COLOR", None)
    started_at = time.monotonic()
    process = subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(child)
    decode = codecs.getincrementaldecoder("utf-8")().decode
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:  # Linux reports the end of a terminal so
            break
        if not data:
            break
        recording.chunks.append((round(time.monotonic() - started_at, 2), decode(data)))
    os.close(parent)
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return recording


def pieces_of(recording: Recording) -> list[Piece]:
    """The recording as characters with their places. Raises ValueError for what moves the cursor otherwise."""
    pieces: list[Piece] = []
    row = column = 0
    style = Style()
    for at_s, chunk in recording.chunks:
        for found in _PIECES.finditer(chunk):
            codes, line_end, text, other = found.groups()
            if codes is not None:
                style = styled(style, codes)
            elif line_end is not None:
                row, column = row + 1, 0
            elif other is not None:
                raise ValueError(f"the recording holds {other!r}, which this program cannot draw")
            while text:
                if column == recording.columns:
                    row, column = row + 1, 0
                part, text = text[: recording.columns - column], text[recording.columns - column :]
                start = column + len(part) - len(part.lstrip())
                if part.strip():
                    pieces.append(Piece(at_s, row, start, part.strip(), style))
                column += len(part)
    return pieces


def styled(style: Style, codes: str) -> Style:
    """The style after an escape sequence for colours (SGR). Raises ValueError for codes that the demo does not use."""
    for code in (int(code or 0) for code in codes.split(";")):
        if code == 0:
            style = Style()
        elif code in (1, 2):
            style = replace(style, bold=style.bold or code == 1, dim=style.dim or code == 2)
        elif code in COLOURS:
            style = replace(style, colour=COLOURS[code])
        else:
            raise ValueError(f"the recording uses the colour code {code}, which this program cannot draw")
    return style


def draw(recording: Recording) -> str:
    """The recording as an animated SVG. Where nothing can be animated, or shall not be, it shows the end."""
    pieces = pieces_of(recording)
    rows = max(piece.row for piece in pieces) + 1
    width = round(recording.columns * CELL_WIDTH + 2 * PADDING)
    height = BAR_HEIGHT + rows * CELL_HEIGHT + 2 * PADDING
    total_s = recording.chunks[-1][0] + HOLD_S
    times = sorted({piece.at_s for piece in pieces} - {0.0})
    frames = {at_s: f"f{number}" for number, at_s in enumerate(times)}
    classes = {style: f"s{number}" for number, style in enumerate(dict.fromkeys(piece.style for piece in pieces))}
    dots = "".join(f'<circle cx="{PADDING + 18 * place}" cy="{BAR_HEIGHT // 2}" r="5"/>' for place in range(3))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" xml:space="preserve">',
            f"<title>{escape(TITLE)}</title>",
            f"<desc>{escape(recording.screen().strip())}</desc>",
            "<style>",
            f"text{{font:{FONT_SIZE}px {FONT};animation:{total_s:.2f}s step-end infinite}}",
            *(f".{name}{{{css_of(style)}}}" for style, name in classes.items()),
            *(
                f"@keyframes {name}{{0%{{opacity:0}}{100 * at_s / total_s:.3f}%{{opacity:1}}}}"
                for at_s, name in frames.items()
            ),
            "@media (prefers-reduced-motion:reduce){text{animation:none!important}}",
            "</style>",
            f'<rect width="{width}" height="{height}" rx="9" fill="{BACKGROUND}"/>',
            f'<path d="M0 {BAR_HEIGHT}V9a9 9 0 0 1 9-9H{width - 9}a9 9 0 0 1 9 9V{BAR_HEIGHT}z" fill="{BAR}"/>',
            f'<g fill="#444c56">{dots}</g>',
            *(element(piece, classes[piece.style], frames.get(piece.at_s)) for piece in pieces),
            "</svg>\n",
        ]
    )


def css_of(style: Style) -> str:
    rules = [f"fill:{style.colour}"]
    if style.bold:
        rules.append("font-weight:bold")
    if style.dim:
        rules.append("fill-opacity:.7")
    return ";".join(rules)


def element(piece: Piece, style: str, frame: str | None) -> str:
    x = PADDING + piece.column * CELL_WIDTH
    y = BAR_HEIGHT + PADDING + piece.row * CELL_HEIGHT + FONT_SIZE
    # The length keeps the columns where they are, whatever font the reader has.
    length = f'textLength="{len(piece.text) * CELL_WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
    timing = "" if frame is None else f' style="animation-name:{frame}"'
    return f'<text class="{style}" x="{x:.1f}" y="{y}" {length}{timing}>{escape(piece.text, quote=False)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description="Records `runstream demo` and draws docs/assets/demo.svg.")
    parser.add_argument("--draw-only", action="store_true", help="draw the recording that is there, and record nothing")
    draw_only = parser.parse_args().draw_only
    cast, picture = ASSETS / "demo.cast", ASSETS / "demo.svg"
    if not draw_only:
        ASSETS.mkdir(parents=True, exist_ok=True)
        cast.write_text(record([sys.executable, "-m", "runstream.cli", "demo"]).to_cast(), encoding="utf-8")
    picture.write_text(draw(Recording.from_cast(cast.read_text(encoding="utf-8"))), encoding="utf-8")
    for path in (cast, picture):
        print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}: {path.stat().st_size} B")


if __name__ == "__main__":
    main()
