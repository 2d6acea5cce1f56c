"""Programs that tests need besides Python, from Debian's packages, and what is said where they can not be had.

They are installed by apt-get where this user is root or may be, else unpacked beside the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

UNPACKED = Path(__file__).parents[1] / ".venv"
_INSTALLING_S = 600.0


def install(*packages: str, service: str | None = None) -> bool:
    """With apt-get; whether that was possible. Debian starts a `service` at once: it is stopped for good."""
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (prefix and shutil.which("sudo") is None):
        return False
    command = [*prefix, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if failure_of(command) is not None:
        failure_of([*prefix, "apt-get", "update", "-qq"])  # what is known of the packages may be old, or missing
        if failure_of(command) is not None:
            return False
    if service is not None and Path("/run/systemd/system").exists():
        failure_of([*prefix, "systemctl", "disable", "--now", service])
    elif service is not None:
        failure_of([*prefix, "service", service, "stop"])
    return True


def unpack(package: str, folder: Path) -> None:
    """What apt-get would install is downloaded and unpacked into that folder: needs no root."""
    if shutil.which("apt-get") is None:
        return
    plan = subprocess.run(
        ["apt-get", "install", "-s", "--no-install-recommends", package], capture_output=True, text=True
    )
    packages = [line.split()[1] for line in plan.stdout.splitlines() if line.startswith("Inst ")]
    if not packages:
        return
    with tempfile.TemporaryDirectory() as downloads:
        if failure_of(["apt-get", "download", "-qq", *packages], Path(downloads)) is not None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for archive in Path(downloads).glob("*.deb"):
            failure_of(["dpkg", "-x", str(archive), str(folder)])


def with_libraries(folder: Path) -> dict[str, str]:
    """The environment for a program that may have been unpacked there."""
    libraries = [*(str(path) for path in folder.glob("usr/lib/*")), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


def failure_of(command: list[str], folder: Path | None = None) -> str | None:
    """Runs it in that folder; why it failed, None if it has not."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_INSTALLING_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()[-1000:] or f"status {done.returncode}"


def skip(missing: str) -> NoReturn:
    """For fixtures whose program can not be had: skips their tests; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def tell(tests: str, found: str | None, missing: str) -> int:
    """For `make install`: says what those tests use, or loudly that they are skipped; the status to end with."""
    if found is not None:
        print(f"{tests} use {found}")
        return 0
    print(f"{missing}. {tests[:1].upper()}{tests[1:]} are SKIPPED. Install it to run them.", file=sys.stderr)
    return 1 if os.environ.get("CI") else 0
