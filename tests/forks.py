"""Processes of `taskctl` that are forked from one in which the libraries of others are imported already.

To import those is most of what a command takes to start. It still is a process with arguments, an environment, a folder, pipes
and an exit code of its own, and it imports all of taskctl itself, as `python -m taskctl` does. What the interpreter reads before
it runs a line is that of the process it is forked from; `may_fork` says for which environments that makes no difference, and all
others get an interpreter of their own. What is imported by which command is for `tests/test_startup.py`, which starts its own.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

LIBRARIES = (
    *("typer.main", "msgspec.json", "sqlite3", "asyncio", "ssl", "csv", "tomllib", "email.message", "platformdirs", "tzlocal"),
    *("aiohttp.web", "aiohttp_apispec", "aioprometheus", "alembic.command", "alembic.runtime.environment", "limits", "structlog"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "aiopg", "redis.asyncio", "tenacity", "rich.table", "yaml"),
)
"""What commands import of others. None of it looks at the environment, or starts a thread, while it is imported."""
LANGUAGE = {"LANG": "C.UTF-8"}
_HARMLESS = {"PATH", "HOME", "TZ", "TERM", "EDITOR", "VISUAL", "PYTHON_KEYRING_BACKEND", *LANGUAGE}


def may_fork(environment: Mapping[str, str]) -> bool:
    """Return whether there is nothing in an environment that is read while Python starts or a library is imported."""
    unknown = [name for name in environment if name not in _HARMLESS and not name.startswith(("TASKCTL_", "XDG_"))]
    return not unknown and LANGUAGE.items() <= environment.items()


# ------------------------------------------------------------------------------------------------- for whoever runs commands


class Forked:
    """A process of `taskctl` that runs, with as much of `subprocess.Popen` as tests use."""

    def __init__(
        self,
        arguments: Sequence[str | bytes],
        *,
        stdin: IO[bytes],
        stdout: IO[bytes],
        stderr: IO[bytes],
        cwd: Path,
        env: Mapping[str, str],
    ) -> None:
        self.returncode: int | None = None
        self._waiting = threading.Lock()
        self._told, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_first(), [b"."], [theirs.fileno(), *(file.fileno() for file in (stdin, stdout, stderr))])
        wanted = {"arguments": [os.fsdecode(word) for word in arguments], "cwd": str(cwd), "env": dict(env)}
        self._told.sendall(json.dumps(wanted).encode())
        self._told.shutdown(socket.SHUT_WR)
        self._lines = self._told.makefile("rb")
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        """Return the exit code if it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return the exit code once it has ended. Raises subprocess.TimeoutExpired if it has not in time."""
        if not self._waiting.acquire(timeout=timeout):
            raise subprocess.TimeoutExpired("taskctl", timeout)
        try:
            if self.returncode is None:
                with selectors.DefaultSelector() as selector:
                    selector.register(self._told, selectors.EVENT_READ)
                    if not selector.select(timeout):
                        raise subprocess.TimeoutExpired("taskctl", timeout)
                with self._told, self._lines:
                    self.returncode = int(self._lines.readline())
            return self.returncode
        finally:
            self._waiting.release()

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def pipe() -> tuple[IO[bytes], IO[bytes]]:
    """Return the end of a pipe that is read from, and the one that is written to."""
    read, write = os.pipe()
    return os.fdopen(read, "rb"), os.fdopen(write, "wb")


def run(
    arguments: Sequence[str | bytes], *, input: bytes, timeout: float, cwd: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end. Raises subprocess.TimeoutExpired, after it has killed it, if that does not come in time."""
    (stdin, given), (out, stdout), (err, stderr) = pipe(), pipe(), pipe()
    with stdin, stdout, stderr:
        process = Forked(arguments, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
    found: dict[IO[bytes], bytes] = {}

    def say() -> None:
        with suppress(BrokenPipeError), given:
            given.write(input)

    def hear(end: IO[bytes]) -> None:
        with end:
            found[end] = end.read()

    threads = [threading.Thread(target=say), *(threading.Thread(target=hear, args=[end]) for end in (out, err))]
    for thread in threads:
        thread.start()
    try:
        process.wait(timeout)
    finally:
        process.kill()
        for thread in threads:
            thread.join(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, found[out], found[err])


@functools.cache
def _first() -> socket.socket:
    """Start the process that all others are forked from, and return the way to it. It ends when that is closed, as by our end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
            stdin=subprocess.PIPE,  # what Python makes of pipes as it starts is what its children have
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            env={"PATH": os.environ["PATH"], **LANGUAGE},
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.communicate(timeout=10)

    atexit.register(end)
    return ours


# ------------------------------------------------------------------------------------------------- the process that they are from


def _fork_for_each(control: socket.socket) -> socket.socket:
    """Fork a process for each request, and tell there its pid and its exit code. Return in the forked one, with its request."""
    running: dict[int, socket.socket] = {}
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for whoever has started this, which then ends it
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if ended in ready:
                ended.recv(1024)
                while running and (found := os.waitpid(-1, os.WNOHANG))[0]:
                    with running.pop(found[0]) as request:
                        _tell(request, os.waitstatus_to_exitcode(found[1]))
            if control in ready:
                _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
                if not descriptors:
                    os._exit(0)
                request = socket.socket(fileno=descriptors[0])
                pid = os.fork()
                if pid == 0:
                    break
                running[pid] = request
                _tell(request, pid)
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, interrupted)
    for other in (control, ended, wake, *running.values()):
        other.close()
    for descriptor, wanted in enumerate(descriptors[1:]):
        os.dup2(wanted, descriptor)
        os.close(wanted)
    return request


def _tell(request: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know any more
        request.sendall(f"{number}\n".encode())


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with _fork_for_each(socket.socket(fileno=int(sys.argv[1]))) as request, request.makefile("rb") as lines:
        wanted = json.load(lines)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    time.tzset()
    sys.path[0] = str(Path.cwd())
    sys.argv[1:] = wanted["arguments"]
    code = 1
    try:
        runpy.run_module("taskctl", run_name="__main__", alter_sys=True)
    except SystemExit as e:
        assert isinstance(e.code, int)
        code = e.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    # As multiprocessing ends what it has forked: to take the whole interpreter apart would copy all memory that is shared so far.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
