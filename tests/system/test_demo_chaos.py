"""`runstream demo --chaos`: faults as they happen, and what becomes of them."""

import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

DEMO = [sys.executable, "-m", "runstream.cli", "demo", "--chaos", "--fast"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "PYTHONWARNINGS": "error"}
    return subprocess.run([*DEMO, *arguments], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_it_ends_well_whatever_fails(api: str) -> None:
    """Two texts are taken back, the breaker opens, another model answers; then the first one has recovered."""
    shown = demo("--api", api)
    assert (shown.returncode, shown.stderr) == (0, "")
    labels = re.findall(r"^(void|breaker|model) +(.*)$", shown.stdout, re.MULTILINE)
    assert [label for label, _ in labels] == ["void", "breaker", "void", "model", "breaker", "breaker", "model"]
    texts = [text for _, text in labels]
    assert [text for text in texts if text.startswith("scripted: ")] == [
        "scripted: open",
        "scripted: half_open",
        "scripted: closed",
    ]
    assert texts[2].endswith("spare takes over")
    assert texts[-1] == "scripted has answered: it has recovered"


def test_as_json_it_is_two_runs() -> None:
    """Events and nothing else."""
    kinds = [json.loads(line)["kind"] for line in demo("--json").stdout.splitlines()]
    assert [kinds.count(kind) for kind in ("run.start", "run.end", "attempt.discarded")] == [2, 2, 2]


def test_a_real_model_is_not_made_to_fail() -> None:
    """The faults are the script's."""
    refused = demo("--model", "gpt")
    assert refused.returncode == 2
    assert "--chaos is played by the scripted model" in refused.stderr
