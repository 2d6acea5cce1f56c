"""A real nginx for tests: found in PATH, installed by apt (Debian's), or unpacked beside the environment without root.

`python tests/nginx_server.py` makes sure that there is one (`make install` does that); where there can be none it says
so loudly, and fails if the environment variable CI is set.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from debian_tools import UNPACKED, install, tell, unpack, with_libraries

_UNPACKED = UNPACKED / "nginx"
_PLACES = (None, "/usr/sbin:/usr/local/sbin", str(_UNPACKED / "usr/sbin"))
_PACKAGE = "nginx-light"
_STARTING_S = 10.0
NO_NGINX = "NO NGINX: there is no nginx in PATH, and apt-get could not provide one"


def find_server() -> str | None:
    """The program's path, None if there is none."""
    for place in _PLACES:
        found = shutil.which("nginx", path=place)
        if found is not None:
            return found
    return None


def install_server() -> str | None:
    """The program's path, after installing it if need be; None where that is not possible."""
    if find_server() is None:
        install(_PACKAGE, service="nginx")
    if find_server() is None:
        unpack(_PACKAGE, _UNPACKED)
    return find_server()


class NginxServer:
    """One nginx with a folder of its own, all else as Debian ships it. `http`: what stands in its http block, where it
    listens on `port`."""

    def __init__(self, program: str, folder: Path, http: str, port: int) -> None:
        self._program = program
        self._folder = folder
        self.port = port
        folder.mkdir(parents=True, exist_ok=True)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"{'user root;' if os.geteuid() == 0 else ''}\n"
            f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
            f"events {{ worker_connections 256; }}\n"
            f"http {{\naccess_log off;\n{temporary}{http}\n}}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def errors(self) -> str:
        """What it has logged."""
        log = self._folder / "error.log"
        return log.read_text() if log.exists() else ""

    def start(self) -> None:
        """Returns once it listens."""
        self._process = subprocess.Popen(
            [self._program, "-p", str(self._folder), "-c", "nginx.conf", "-e", "error.log"],
            env=with_libraries(_UNPACKED),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + _STARTING_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(f"nginx did not start: {self.errors or 'it wrote no log'}") from None
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def main() -> int:
    return tell("tests of the server behind a proxy", install_server(), NO_NGINX)


if __name__ == "__main__":
    sys.exit(main())
