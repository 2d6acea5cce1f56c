"""What the README says that users of openai-agents struggle with, seen again: `python -m benchmarks claims`."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from benchmarks import environments
from benchmarks.claims_probe import CLAIMS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SUBJECTS", "observed", "table"]

SUBJECTS = ("runstream", "openai-agents")
_LIMIT_S = 300.0


def observed(subject: str, report: Callable[[str], None]) -> dict[str, str]:
    """What the subject does, by claim, in its own environment. Raises RuntimeError with its words if it fails."""
    environments.ensure(subject, report)
    report(f"trying {subject} ...")
    command = [str(environments.python_of(subject)), "-m", "benchmarks.claims_probe", subject]
    done = subprocess.run(command, capture_output=True, text=True, cwd=environments.ROOT, timeout=_LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"{subject} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def table(seen: Mapping[str, Mapping[str, str]], versions: Mapping[str, str]) -> str:
    """The rows as a Markdown table, one column for each subject."""
    names = [f"{subject} {versions.get(subject, '')}".strip() for subject in seen]
    lines = [f"| | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    lines += [f"| {claim} | {' | '.join(column[claim] for column in seen.values())} |" for claim in CLAIMS]
    return "\n".join(lines)
