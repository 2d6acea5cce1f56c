"""An environment of its own for every subject, under .venvs/, made on first use.

A subject's requirements stand in requirements/<subject>.txt; that of runstream is this repository, installed as users
install it (not editable), and again when its sources change. So no subject imports what only another one needs.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ROOT", "ensure", "python_of", "versions_of"]

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
_SHOWN = (
    "runstream",
    "openai-agents",
    "openai",
    "aiohttp",
    "httpx2",
    "pydantic",
    "msgspec",
    "redis",
    "uvicorn",
    "fastapi",
    "sse-starlette",
    "pydantic-ai-slim",
    "langgraph",
    "langchain",
    "langchain-openai",
)
_VERSIONS = """
import importlib.metadata as metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def python_of(subject: str) -> Path:
    """The interpreter of the subject's environment."""
    return ROOT / ".venvs" / subject / "bin" / "python"


def ensure(subject: str, report: Callable[[str], None]) -> None:
    """Make the subject's environment, or bring it up to date. Raises RuntimeError with pip's words if that fails."""
    wanted = _fingerprint(_sources(subject))
    stamp = ROOT / ".venvs" / subject / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    report(f"setting up .venvs/{subject} ...")
    if not python_of(subject).exists():
        venv.create(ROOT / ".venvs" / subject, with_pip=True)
    what = [f"{ROOT}[redis,server]"] if subject == "runstream" else ["-r", str(_REQUIREMENTS / f"{subject}.txt")]
    _pip(subject, "install", "--quiet", "--disable-pip-version-check", *what)
    if subject == "runstream":  # the version does not change with every change of the sources
        _pip(subject, "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", "--no-deps", *what)
    stamp.write_text(wanted)


def versions_of(subject: str) -> dict[str, str]:
    """The versions of the packages that matter, as installed in the subject's environment."""
    command = [str(python_of(subject)), "-c", _VERSIONS, *_SHOWN]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def _pip(subject: str, *arguments: str) -> None:
    done = subprocess.run([str(python_of(subject)), "-m", "pip", *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise RuntimeError("\n".join([f"pip could not set up .venvs/{subject}:", *(errors or [done.stderr.strip()])]))


def _sources(subject: str) -> Iterable[Path]:
    if subject != "runstream":
        return [_REQUIREMENTS / f"{subject}.txt"]
    files = (path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return [ROOT / "pyproject.toml", *sorted(files)]


def _fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
