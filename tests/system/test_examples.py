"""The examples run as a newcomer runs them, and print what their texts promise."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runstream.testing import Endpoint

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"
TOLD = "No OPENAI_API_KEY is set: a scripted model answers, over HTTP on this machine. No LLM."

# What stands in the output, line by line in this order; other lines may stand between. `#` is any figure.
LINES = {
    "01_basic_streaming.py": [
        "=== Runner.run ===",
        "Streaming shows an answer while it is still being written, .* the waiting feels much shorter.",
        r"\[all of it after # s\]",
        "=== Runner.run_streamed ===",
        r"\[RunResultStreaming, complete: False\]",
        "Streaming shows an answer while it is still being written, .* the waiting feels much shorter.",
        r"\[first text after # s, all of it after # s\]",
        r"\[complete: True, # characters of final output\]",
        " *# x agent_updated_stream_event",
        " *# x raw_response_event",
        " *# x run_item_stream_event",
    ],
    "02_raw_response_events.py": [
        r"A\| token\| is\| a\| small\| piece\| of\| text,.*\| text\.\|",
        "first token after +# s",
        "last token after +# s",
        "tokens +#, that is # per second",
        "between two tokens +# s on average, # s at most",
        " *# x response.created",
        " *# x response.output_text.delta",
        " *# x response.completed",
        "A token is a small piece of text, often a word or a part of one. .* and you have the text.",
        r"\[equals result.final_output: True\]",
    ],
    "03_run_item_events.py": [
        " *# s  agent    Weather Reporter",
        " *# s  message  I will look at both cities.",
        ' *# s  call     get_weather {"city":"Paris"}',
        ' *# s  call     get_weather {"city":"Tokyo"}',
        r" *# s  output   Tokyo: # degrees, clear  \[took # s\]",
        r" *# s  output   Paris: # degrees, cloudy  \[took # s\]",
        " *# s  message  Tokyo is warmer: .*",
        "tool_call_item +by Weather Reporter",
        "tool_call_output_item +by Weather Reporter",
        "message_output_item +by Weather Reporter",
        "Final output: Tokyo is warmer: .*",
    ],
    "04_streaming_with_handoffs.py": [
        "Customer: I think I have paid invoice # twice.",
        "Triage Agent:",
        r"  \[hands over to the Billing Agent\]",
        "Billing Agent:",
        r'  \[look_up_invoice {"number":"#"}\]',
        r"  \[Invoice #: # euros, paid on # March and again on # March.\]",
        r"  \[hands over to the Refund Agent\]",
        "Refund Agent:",
        r"  \[refund .*\]",
        "  You did pay twice. .* they arrive within two days.",
        r"Path: Triage Agent -> Billing Agent -> Refund Agent \(# model calls\)",
        "  Billing Agent +in control for # s",
        "The Refund Agent had the last word.",
        "Customer: Thank you! And the light of my router is red.",
        "Triage Agent:",
        "Technical Agent:",
        "  Red means no connection. .* plug it in again.",
        r"Path: Triage Agent -> Technical Agent \(# model calls\)",
        "The Technical Agent had the last word.",
    ],
    "05_streaming_patterns.py": [
        "=== user interface ===",
        r"  \[search_flights: running\]",
        r"  \[writing\]",
        r"  \[completed\]",
        "  There are two flights: .*",
        "=== buffered ===",
        "  #: Lisbon lies on seven hills.",
        "  #: It has trams.",
        "  #: Its tower has stood by the river since #.",
        "=== smoothed ===",
        "  as it comes +# pieces, longest pause # ms",
        "  smoothed +# pieces, longest pause # ms",
        "=== own operator ===",
        r"  shown here:  Write to \[address\], or ask at the desk.",
        "  in the log:  Write to anna@example.com, or ask at the desk.",
        "=== fallback to a plain call ===",
        r"  \[void since event #: retry\]",
        r"  \[void since event #: fallback\]",
        "  Because proxies cut them. A plain call gets through.",
        "=== what is left ===",
        r"  \[ModelStreamTruncated\]",
        r"  \[partial: True\] Once upon a time there was a king \.\.\.",
        r"  \.\.\. had three daughters.",
        "=== time limits ===",
        r"  \[idle: nothing for # s, after # characters\]",
        "=== circuit breaker ===",
        r"  #: gpt-4.1-mini after # s \[breakers: closed, closed\]",
        r"  #: gpt-4.1-mini after # s \[breakers: open, closed\]",
        r"  #: gpt-4.1-mini after # s \[breakers: open, closed\]",
        r"  #: gpt-5.* after # s \[breakers: closed, closed\]",
        "=== performance ===",
        "  time to first text # s, the whole run # s",
        "  # deltas, # a second, # tokens",
        "  pauses: half below # s, longest # s",
        "=== many streams ===",
        "  merge: {'Porto': 'Wine .*', 'Faro': 'A lagoon.*'}, side by side",
        r"  gather: \['completed', 'completed', 'failed'\]",
        "  race: Wine from the valley, and six bridges.",
        "=== cancelling ===",
        r"  cancel\(\): cancelled, and kept: 'Lisbon'",
        r"  cancel\(mode='after_turn'\): cancelled, \['tool_call_item', 'tool_call_output_item'\]",
        "  break: cancelled",
        r"  gather\(timeout_s=...\): cancelled, and kept: 'Let me think'",
        "=== monitoring ===",
        "  # runs: {'completed': #, 'failed': 3, 'cancelled': #}, 0 live",
        r"  errors: {'ModelStreamTruncated': 1, 'ModelTimeoutError': 1, 'BadRequestError': 1}, # fallbacks",
        "  time to first text: p50 # s, p95 # s",
        r"  alert: error rate: # \(threshold #\)",
    ],
    "06_durable_runs.py": [
        "=== run_[0-9a-f]+ begins in another process ===",
        r"\[the room is booked, by process #\]",
        "Your room is booked. It is room #, .*",
        r"\[kill -9 #\]",
        r"\[the process has ended with -9\]",
        "=== it goes on in process # ===",
        r"\[tool: Room #, for # people, at ten.\]",
        r"\[void since event #: the worker broke off in the middle of a response\]",
        "Your room is booked. .* from ten o'clock on.",
        "Final output: Your room is booked. .* from ten o'clock on.",
    ],
    "07_approvals_from_another_process.py": [
        r"\[process # waits for an approval\]",
        r"\[process # approves pay .*Ann.*\]",
        r"\[the answer has come: approved=True\]",
        r"\[# euros paid to Ann.\]",
        "Final output: Done: Ann has her # euros.",
    ],
    "08_fleet.py": [
        "=== run_[0-9a-f]+ ===",
        "I have counted everything twice. There is enough.*",
        r"\[its worker, worker-#, is killed\]",
        r"\[void since event #: another worker has taken the run over\]",
        "I have counted everything twice. .* for the rest of the year.",
        r"\[run_[0-9a-f]+ has ended; its worker was worker-#\]",
        "=== all of them ===",
        *["run_[0-9a-f]+  I have counted everything twice. .* for the rest of the year."] * 6,
        r"\[the workers have ended with \[-9, 0, 0\]\]",
    ],
}
# Those that show what the SDK has, too.
OF_THE_SDK = [name for name in LINES if name < "05"]


def run(*arguments: str, **environment: str) -> str:
    """What a Python process with these arguments prints; it must succeed, with no warning and nothing on stderr."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RUNSTREAM_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_lines(shown: str, patterns: list[str]) -> None:
    lines = iter(shown.splitlines())
    for pattern in patterns:
        matcher = re.compile(pattern.replace("#", r"\d+(?:\.\d+)?"))
        assert any(matcher.fullmatch(line) for line in lines), f"no line {pattern!r} where it is due in:\n{shown}"


def test_every_example_is_held_to_its_output_and_in_the_readme() -> None:
    """No example is forgotten here or in the README."""
    names = {path.name for path in EXAMPLES.glob("[0-9]*.py")}
    assert names == LINES.keys()
    linked = re.findall(r"\]\((\d\w+\.py)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(linked) == sorted(names)


def test_without_a_key_they_run_against_the_endpoint_and_say_so(tmp_path: Path) -> None:
    """Plain Python, no settings: one line tells that no LLM answers, then comes what the example is to show."""

    def check(name: str) -> None:
        shown = run(str(EXAMPLES / name), TMPDIR=str(tmp_path))
        assert shown.splitlines()[0] == TOLD
        assert shown.count(TOLD) == 1
        assert_lines(shown, LINES[name])

    side_by_side(check, LINES)


def test_they_are_programs_of_the_sdk_as_well(tmp_path: Path) -> None:
    """With `from agents import` they run under `runstream run`, as the README says, and print the same."""
    shutil.copy(EXAMPLES / "_service.py", tmp_path)

    def check(name: str) -> None:
        script, replaced = re.subn("(?m)^from runstream import", "from agents import", (EXAMPLES / name).read_text())
        assert replaced == 1
        (tmp_path / name).write_text(script)
        assert_lines(run("-m", "runstream.cli", "run", str(tmp_path / name)), [TOLD, *LINES[name]])

    side_by_side(check, OF_THE_SDK)


def side_by_side(check: Callable[[str], None], names: Iterable[str]) -> None:
    """Check them at once: the processes mostly wait for what streams."""
    with ThreadPoolExecutor(4) as threads:
        for name, checked in {name: threads.submit(check, name) for name in names}.items():
            try:
                checked.result()
            except AssertionError as error:
                error.add_note(f"that was {name}")
                raise


def test_with_a_key_it_talks_to_the_real_service() -> None:
    """The script is left aside: what the service answers is what is shown."""
    with Endpoint("What the service says.", api_key="a-real-key") as endpoint:
        shown = run(
            str(EXAMPLES / "02_raw_response_events.py"),
            OPENAI_API_KEY="a-real-key",
            OPENAI_BASE_URL=endpoint.url,
            OPENAI_DEFAULT_MODEL="the-model",
        )
    assert TOLD not in shown
    assert_lines(shown, [r"What\| the\| service\| says\.\|", "What the service says."])
    assert [request.model_name for request in endpoint.requests] == ["the-model"]
