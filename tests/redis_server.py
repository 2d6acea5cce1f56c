"""A real redis-server for tests: found in PATH, installed by apt, or unpacked beside the environment without root.

`python tests/redis_server.py` makes sure that there is one (`make install` does that); where there can be none it
says so loudly, and fails if the environment variable CI is set.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from debian_tools import UNPACKED, install, tell, unpack, with_libraries

_NAMES = ("redis-server", "valkey-server")
_UNPACKED = UNPACKED / "redis"
_STARTING_S = 10.0
NO_REDIS = "NO REDIS: there is no redis-server or valkey-server in PATH, and apt-get could not provide one"


def find_server() -> str | None:
    """The program's path, None if there is none."""
    for name in _NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
        unpacked = _UNPACKED / "usr/bin" / name
        if unpacked.exists():
            return str(unpacked)
    return None


def install_server() -> str | None:
    """The program's path, after installing it if need be; None where that is not possible."""
    if find_server() is None:
        install("redis-server", service="redis-server")
    if find_server() is None:
        unpack("redis-server", _UNPACKED)
    return find_server()


class RedisServer:
    """One server process with a folder of its own."""

    def __init__(self, program: str, folder: Path, *options: str, persistent: bool = True) -> None:
        self._program = program
        self._folder = folder
        self._options = options
        self._persistent = persistent
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "server.log"
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command += ["--save", "", "--logfile", str(log), "--daemonize", "no"]
        command += ["--appendonly", "yes", "--appendfsync", "everysec"] if self._persistent else []
        self._process = subprocess.Popen(
            [*command, *self._options],
            env=with_libraries(_UNPACKED),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + _STARTING_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            try:
                if not self.command("PING").startswith("-LOADING"):
                    return
            except OSError:
                pass
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"redis-server did not start: {log.read_text() if log.exists() else 'it wrote no log'}")

    def kill(self) -> None:
        """As a crash: kill -9."""
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Killed and started anew, at the same port, with what it had written."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """It goes on existing and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str | int) -> str:
        """One command over a connection of its own; the answer as it came, for set-up and for looking in."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = [str(word).encode() for word in words]
            request = b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)])
            connection.sendall(request)
            return connection.recv(1_000_000).decode(errors="replace")


class Proxy:
    """Stands between a store and its server: can lose replies, hang up, and lead to another server from now on."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.loses_replies = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.hang_up()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def lead_to(self, port: int) -> None:
        """Who is connected is cut off, and led there when it comes back."""
        self.target = port
        self.hang_up()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        ends = [writer]
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(other_writer)
            self._writers.add(other_writer)
            await asyncio.gather(self._carry(reader, other_writer), self._carry(other_reader, writer, is_reply=True))
        except OSError:
            pass  # either end hung up, or nobody is there
        finally:
            for end in ends:
                end.transport.abort()
                self._writers.discard(end)
            self._tasks.discard(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool = False
    ) -> None:
        while data := await reader.read(65_536):
            if is_reply and self.loses_replies:
                break
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool]) -> None:
    """For what another process does: polls, and fails after 10 s."""
    until = time.monotonic() + _STARTING_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.01)


def in_step(primary: RedisServer, replica: RedisServer) -> None:
    """Returns once the replica has all that the primary has."""

    def offset(server: RedisServer, name: str) -> str:
        return server.command("INFO", "replication").partition(f"{name}:")[2].partition("\r")[0]

    wait_until(lambda: offset(primary, "master_repl_offset") == offset(replica, "slave_repl_offset"))


def main() -> int:
    return tell("tests of the store on Redis", install_server(), NO_REDIS)


if __name__ == "__main__":
    sys.exit(main())
