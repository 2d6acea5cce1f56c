"""Events as JSON lines."""

import json

from runstream.events.codec import decode
from runstream.events.event import Event, RunStart
from runstream.render.json_lines import encode_line


def test_one_event_is_one_line_that_can_be_read_back() -> None:
    """A line holds no line end but its own, whatever the event holds."""
    line = encode_line(Event("run_1", 1, 2.5, "run.start", "Desk", 0, (), RunStart("two\nlines \x1b[31m")))
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert b"\x1b" not in line
    assert json.loads(line)["kind"] == "run.start"
    assert decode(line).data == RunStart("two\nlines \x1b[31m")
