"""JSON that is still being written: the value so far, after any piece of its text.

Must not know models or events. An object or list is there from its first bracket on, and a string as far as it has
come; a number, `true`, `false` or `null` is there once it is complete, and a key once its value is: what might still
become something else is not shown.

Invariants: each character is looked at once, so that the total cost is linear in the text, beside that of looking at
the value; a value that was shown only grows: texts and lists get longer, objects get keys, and nothing that is complete
changes (but for a key that an object has twice: its last value counts).
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

__all__ = ["MISSING", "JsonError", "PartialJson"]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Stands for the value before there is any."""


class JsonError(ValueError):
    """The text is no JSON."""

    def __init__(self, problem: str, position: int) -> None:
        self.position = position
        """Number of the character, from 0."""
        super().__init__(f"this is no JSON: {problem} at character {position}")


_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9a-fA-F]*")
_LITERALS: dict[str, Any] = {"true": True, "false": False, "null": None}
_MAX_DEPTH = 200
_MAX_DIGITS = 4_300  # Python reads no longer ones

# What comes next.
_VALUE, _FIRST_VALUE, _FIRST_KEY, _KEY, _COLON, _AFTER, _END = range(7)
_WANTED = {
    _VALUE: "a value",
    _FIRST_VALUE: "a value or ']'",
    _FIRST_KEY: "a key or '}'",
    _KEY: "a key",
    _COLON: "':'",
    _AFTER: "',' or the end of what is open",
    _END: "nothing more",
}


class PartialJson:
    """Feed it text; read `value` at any time."""

    __slots__ = ("_escape", "_high", "_key", "_open", "_pieces", "_position", "_state", "_token", "_value")

    def __init__(self) -> None:
        self._value: Any = MISSING
        self._open: list[Any] = []
        """The containers that are open, the outermost first."""
        self._state = _VALUE
        self._key: list[str | None] = []
        """For each open container the key whose value comes; None in lists and before a key."""
        self._pieces: list[str] | None = None
        """Of the string that is open."""
        self._escape = ""
        """An escape that is not complete."""
        self._high = 0
        """The first half of a surrogate pair."""
        self._token = ""
        """A number or a literal that is not complete."""
        self._position = 0

    @property
    def value(self) -> Any:
        """What there is so far; MISSING before anything is. The very object that grows: `snapshot()` is a copy."""
        pieces = self._pieces
        if pieces and self._state not in (_KEY, _FIRST_KEY):
            pieces[:] = ["".join(pieces)]
            self._replace(pieces[0])
        return self._value

    @property
    def complete(self) -> bool:
        """Whether the value is closed. A number at the top is complete only once something follows it, or `close()`."""
        return self._state == _END

    def feed(self, text: str) -> None:
        """Take in the next piece. Raises JsonError for a text that no JSON begins with."""
        start, end = 0, len(text)
        while start < end:
            if self._pieces is not None:
                start = self._in_string(text, start)
            elif self._token:
                start = self._in_scalar(text, start)
            else:
                found = _SPACE.match(text, start)
                start = found.end() if found else start
                if start < end:
                    start = self._at(text, start)
        self._position += end

    def close(self) -> None:
        """There is no more text. Raises JsonError where the value is not complete."""
        if self._token:
            self._end_scalar(0)
        if self._state != _END:
            raise self._error("the text ends too early", 0)

    def snapshot(self) -> Any:
        """The value so far as a copy of its own."""
        return _copied(self.value)

    def _error(self, problem: str, offset: int) -> JsonError:
        return JsonError(problem, self._position + offset)

    # Between values.

    def _at(self, text: str, start: int) -> int:
        character, state = text[start], self._state
        if character == '"' and state in (_VALUE, _FIRST_VALUE, _KEY, _FIRST_KEY):
            self._pieces = []
            if state in (_VALUE, _FIRST_VALUE):
                self._put("")
        elif character in "{[" and state in (_VALUE, _FIRST_VALUE):
            if len(self._open) >= _MAX_DEPTH:
                raise self._error(f"more than {_MAX_DEPTH} levels", start)
            container: Any = {} if character == "{" else []
            self._put(container)
            self._open.append(container)
            self._key.append(None)
            self._state = _FIRST_KEY if character == "{" else _FIRST_VALUE
        elif character == ":" and state == _COLON:
            self._state = _VALUE
        elif character == "," and state == _AFTER:
            self._state = _KEY if isinstance(self._open[-1], dict) else _VALUE
        elif self._closes(character):
            self._open.pop()
            self._key.pop()
            self._after_value()
        elif state in (_VALUE, _FIRST_VALUE) and (character in "-tfn" or character in "0123456789"):
            return self._in_scalar(text, start)
        else:
            raise self._error(f"{character!r} where {_WANTED[state]} is due", start)
        return start + 1

    def _closes(self, character: str) -> bool:
        if not self._open or character not in "}]":
            return False
        is_object = isinstance(self._open[-1], dict)
        first = _FIRST_KEY if is_object else _FIRST_VALUE
        return self._state in (_AFTER, first) and character == ("}" if is_object else "]")

    def _after_value(self) -> None:
        self._state = _AFTER if self._open else _END

    def _put(self, value: Any) -> None:
        """A value begins, or is there at once."""
        if not self._open:
            self._value = value
        elif isinstance(self._open[-1], dict):
            cast("dict[Any, Any]", self._open[-1])[self._key[-1]] = value
        else:
            self._open[-1].append(value)

    def _replace(self, value: Any) -> None:
        """The string that is open has grown."""
        if self._open and isinstance(self._open[-1], list):
            self._open[-1][-1] = value
        else:
            self._put(value)

    # Numbers and literals.

    def _in_scalar(self, text: str, start: int) -> int:
        found = _SCALAR.match(text, start)
        end = found.end() if found else start
        self._token += text[start:end]
        if end < len(text):
            self._end_scalar(end)
        elif len(self._token) > _MAX_DIGITS or not _may_become_scalar(self._token):
            raise self._error(f"{self._token[:40]!r} is no value", start)
        return end

    def _end_scalar(self, offset: int) -> None:
        token, self._token = self._token, ""
        if token in _LITERALS:
            self._put(_LITERALS[token])
        else:
            found = _NUMBER.fullmatch(token)
            if found is None or len(token) > _MAX_DIGITS:
                raise self._error(f"{token[:40]!r} is no value", offset)
            is_whole = found.group(1) is None and found.group(2) is None
            self._put(int(token) if is_whole else float(token))
        self._after_value()

    # Strings.

    def _in_string(self, text: str, start: int) -> int:
        pieces = cast("list[str]", self._pieces)
        if self._escape:
            return self._in_escape(text, start)
        found = _PLAIN.match(text, start)
        end = found.end() if found else start
        if end > start:
            self._flush_half()
            pieces.append(text[start:end])
        if end == len(text):
            return end
        character = text[end]
        if character == "\\":
            self._escape = "\\"
        elif character == '"':
            self._flush_half()
            self._end_string()
        else:
            raise self._error(f"the control character {character!r} in a string", end)
        return end + 1

    def _in_escape(self, text: str, start: int) -> int:
        pieces = cast("list[str]", self._pieces)
        if self._escape == "\\":
            character = text[start]
            if character == "u":
                self._escape = "\\u"
            elif character in _ESCAPES:
                self._escape = ""
                self._flush_half()
                pieces.append(_ESCAPES[character])
            else:
                raise self._error(f"the escape '\\{character}'", start)
            return start + 1
        found = _HEX.match(text, start, start + 6 - len(self._escape))
        end = found.end() if found else start
        self._escape += text[start:end]
        if len(self._escape) == 6:
            code, self._escape = int(self._escape[2:], 16), ""
            self._add_unit(code)
        elif end < len(text):
            raise self._error(f"the escape {self._escape + text[end]!r}", end)
        return end

    def _add_unit(self, code: int) -> None:
        """One unit of UTF-16: a character, or half of one."""
        pieces = cast("list[str]", self._pieces)
        if self._high and 0xDC00 <= code < 0xE000:
            pieces.append(chr(0x10000 + ((self._high - 0xD800) << 10) + code - 0xDC00))
            self._high = 0
            return
        self._flush_half()
        if 0xD800 <= code < 0xDC00:
            self._high = code
        else:
            pieces.append(chr(code))

    def _flush_half(self) -> None:
        """Half a character that stays alone, as the standard library keeps it."""
        if self._high:
            cast("list[str]", self._pieces).append(chr(self._high))
            self._high = 0

    def _end_string(self) -> None:
        text = "".join(cast("list[str]", self._pieces))
        if self._state in (_KEY, _FIRST_KEY):
            self._key[-1] = text
            self._state = _COLON
        else:
            self._replace(text)
            self._after_value()
        self._pieces = None


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_copied(entry) for entry in cast("list[Any]", value)]
    return value


def _may_become_scalar(token: str) -> bool:
    if token[0] in "tfn":
        return any(literal.startswith(token) for literal in _LITERALS)
    return re.fullmatch(r"-?(?:0|[1-9]\d*)?(?:(?<=\d)\.\d*)?(?:(?<=\d)[eE][-+]?\d*)?", token, re.ASCII) is not None
