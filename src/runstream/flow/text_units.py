"""Where a text that is still growing may be cut, so that people see whole things. Pure functions.

Every cut lies strictly inside the text: whether what stands at its end is whole is known only when more follows.

- Graphemes, by the categories of `unicodedata`: no cut before a combining mark, a variation selector, a skin tone or a
  tag; around a zero-width joiner; after a virama (Indic conjuncts); inside a flag, a Hangul syllable of jamo, a line
  end of two characters or a surrogate pair. That is UAX #29 without its rare prepended marks.
- Words end before a space. In scripts that are written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) every
  grapheme is one, but closing punctuation stays with what stands before it and opening punctuation with what follows.
- Sentences end after `.`, `!` or `?` and a space, after their wide forms, and with the line.
- Markdown that would flicker stays whole: a link or an image, the line that opens or closes a code fence, a run of
  equal marks (`**`, ` ``` `).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, TypeAlias, get_args

__all__ = ["UNITS", "Unit", "cuts", "last_cut", "safe_end"]

Unit: TypeAlias = Literal["word", "line", "sentence", "character"]
UNITS: tuple[str, ...] = get_args(Unit)

# Scripts without spaces between words, and the punctuation of Han and kana.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3000-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff"
)
_SPACELESS_NEAR = re.compile(f"[{_SPACELESS}]")
_BEFORE_SPACE = re.compile(r"(?<=\S)(?=\s)")
_NEAR_SPACELESS = re.compile(f"(?<=[{_SPACELESS}])(?=.)|(?<=\\S)(?=[{_SPACELESS}])|(?<=\\S)(?=\\s)", re.DOTALL)
# Small kana, iteration and length marks, Thai and Lao vowels that follow: they begin no unit.
_NO_START = frozenset(
    "ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶーヽヾゝゞ々〻\u0e30\u0e32\u0e33\u0e45\u0e46\u0eb0\u0eb2\u0eb3"
)
# Thai and Lao vowels that are written before their consonant.
_NO_END = frozenset("\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4")

_OPENING = ("Ps", "Pi")

# Quotes and brackets that close, and Markdown's marks, stay with the sentence that they follow.
_SENTENCE_END = re.compile(
    "(?<=[.!?\u2026])[\"'\u201d\u2019\u00bb)\\]*_]*(?=[ \t])"
    "|(?<=[\u3002\uff01\uff1f\uff61])[\u300d\u300f\u201d\u2019\uff09\u3011]*(?=[^\u300d\u300f\u201d\u2019\uff09\u3011])"
    "|\n+(?=[^\n])"
)
_LINE_END = re.compile(r"(?<=\n)(?=.)", re.DOTALL)

_MAYBE_MARKDOWN = re.compile(r"[\[`*_~]")
# A link's longest text and target that are waited for: beyond that it is taken for plain text.
_WHOLE = re.compile(
    r"!?\[[^\]\n]{0,300}\]\([^)\n]{0,1000}\)"
    r"|(?:^|(?<=\n))[ \t]*(?:`{3,}|~{3,})[^\n]*\n?"
    r"|([`*_~])\1+"
)
_OPEN_AT_END = re.compile(
    r"!?\[[^\]\n]{0,300}(?:\](?:\([^)\n]{0,1000})?)?\Z"
    r"|(?:^|(?<=\n))[ \t]*(?:`{3,}|~{3,})[^\n]*\Z"
)

_ZWJ = "\u200d"


def cuts(text: str, by: Unit) -> list[int]:
    """The places in order, each the end of a unit, at which a text that begins after a cut may be cut again."""
    if by == "line":
        return [match.end() for match in _LINE_END.finditer(text)]
    if by == "sentence":
        found = [match.end() for match in _SENTENCE_END.finditer(text)]
    elif by == "word":
        found = _word_cuts(text)
    elif text.isascii():
        found = [at for at in range(1, len(text)) if text[at] != "\n" or text[at - 1] != "\r"]
    else:
        found = [at for at in range(1, len(text)) if not _joins(text, at)]
    if found and _MAYBE_MARKDOWN.search(text):
        found = _outside_markdown(text, found)
    return found


def last_cut(text: str, at_least: int) -> int:
    """Where to cut a text of which `at_least` so many characters have to go: after a word, else a grapheme, else
    at its end."""
    for by in ("word", "character"):
        found = cuts(text, by)
        if found and found[-1] >= at_least:
            return found[-1]
    end = safe_end(text)
    return end if end >= at_least else len(text)


def safe_end(text: str) -> int:
    """How much of the text can be shown now without tearing a grapheme as far as that can be told: all of it, unless
    its end calls for more (a joiner, a virama, half a flag, half a surrogate pair)."""
    last = text[-1]
    if last.isascii():
        return len(text)
    is_open = (
        last == _ZWJ
        or unicodedata.combining(last) == 9
        or "\ud800" <= last <= "\udbff"
        or (_is_regional(last) and _regionals_before(text, len(text)) % 2 == 1)
    )
    if not is_open:
        return len(text)
    at = len(text) - 1
    while at > 0 and _joins(text, at):
        at -= 1
    return at


def _word_cuts(text: str) -> list[int]:
    if text.isascii() or _SPACELESS_NEAR.search(text) is None:
        return [match.start() for match in _BEFORE_SPACE.finditer(text)]
    return [at for match in _NEAR_SPACELESS.finditer(text) if _may_part(text, at := match.start())]


def _may_part(text: str, at: int) -> bool:
    before, after = text[at - 1], text[at]
    if after.isspace():
        return not before.isspace()
    if before.isspace() or before in _NO_END or after in _NO_START or _joins(text, at):
        return False
    if unicodedata.category(before) in _OPENING:
        return False
    category = unicodedata.category(after)
    return category[0] != "P" or category in _OPENING


def _joins(text: str, at: int) -> bool:
    """Whether the characters on both sides belong to one grapheme."""
    before, after = text[at - 1], text[at]
    if before.isascii() and after.isascii():
        return before == "\r" and after == "\n"
    if unicodedata.category(after)[0] == "M" or after == _ZWJ or "\U0001f3fb" <= after <= "\U0001f3ff":
        return True
    if "\U000e0020" <= after <= "\U000e007f" or "\udc00" <= after <= "\udfff":
        return True
    if before == _ZWJ:
        return unicodedata.category(after) in ("So", "Sk") or _is_letter(after)
    if _is_regional(after) and _is_regional(before):
        return _regionals_before(text, at) % 2 == 1
    if unicodedata.combining(before) == 9:
        return _is_letter(after)
    if "\uac00" <= before <= "\ud7a3":
        return "\u11a8" <= after <= "\u11ff"
    return "\u1160" <= after <= "\u11ff" and "\u1100" <= before <= "\u11ff"


def _is_letter(character: str) -> bool:
    return unicodedata.category(character) == "Lo"


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _regionals_before(text: str, at: int) -> int:
    count = 0
    while count < at and _is_regional(text[at - 1 - count]):
        count += 1
    return count


def _outside_markdown(text: str, found: list[int]) -> list[int]:
    spans = [match.span() for match in _WHOLE.finditer(text)]
    is_open = _OPEN_AT_END.search(text, spans[-1][1] if spans else 0)
    if is_open is not None:
        spans.append(is_open.span())
    for start, end in spans:
        found = [at for at in found if not start < at < end]
    return found
