"""What the tests of the server and of the command line share: answers, a user's shell, and a server's process."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

from taskctl.access import OWNER, Minted, NewToken, Scope
from taskctl.server.requests import OPENED
from tests import forks

SECONDS = 30.0
"""How long anything may take before a test gives it up; nothing here comes near it."""

Api = TestClient[web.Request, web.Application]
Json = Any


async def problem_of(answer: ClientResponse, status: int, code: str) -> dict[str, Any]:
    """Return the problem that an answer carries, after looking at all that every problem promises."""
    assert answer.content_type == "application/problem+json", await answer.text()
    problem: dict[str, Any] = await answer.json(content_type=None)
    assert (answer.status, problem["status"], problem["code"]) == (status, status, code), problem
    assert problem["type"] == f"urn:taskctl:problem:{code}"
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert isinstance(problem["retryable"], bool)
    assert problem["title"]
    assert problem["detail"]
    assert not re.search(r"Traceback|sqlite3\.|SELECT |\.py\b", json.dumps(problem))
    return problem


def pointers(problem: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return where a problem sees mistakes, and the code of each."""
    assert all(error["detail"] for error in problem["errors"])
    return [(error["pointer"], error["code"]) for error in problem["errors"]]


async def added(api: Api, title: str = "Buy milk", **fields: Json) -> dict[str, Any]:
    """Return a task that is added through the API."""
    answer = await api.post("/api/v1/tasks", json={"title": title, **fields})
    assert answer.status == 201, await answer.text()
    task: dict[str, Any] = await answer.json()
    return task


async def minted(api: Api, *scopes: Scope, workspace: str | None = None, expires_at: datetime | None = None) -> Minted:
    """Return a new token of an application in this process that asks for tokens. It is called like nothing before."""
    assert api.app is not None
    tokens = api.app[OPENED].tokens
    assert tokens is not None
    new = NewToken(name=f"t{next(_numbers)}", scopes=scopes, workspace=workspace, expires_at=expires_at)
    return await tokens.access(OWNER).mint(new)


_numbers = itertools.count()


def bearing(token: Minted | str) -> dict[str, str]:
    """Return the header that shows a token."""
    return {"Authorization": f"Bearer {token if isinstance(token, str) else token.secret}"}


class Ran(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Json:
        assert self.err == "", self.err
        return json.loads(self.out)

    @property
    def problems(self) -> list[dict[str, Any]]:
        """The problems that it printed, each on a line of stderr."""
        return [json.loads(line) for line in self.err.splitlines()]


class Shell:
    """A user's shell: an environment with a home of its own, and `taskctl` in it."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "TZ": "UTC",
            "LANG": "C.UTF-8",
            **environment,
        }

    @staticmethod
    def argv(*arguments: str | bytes) -> list[str | bytes]:
        return [sys.executable, "-m", "taskctl", *arguments]

    def __call__(
        self, *arguments: str | bytes, stdin: str = "", env: Mapping[str, str] | None = None, seconds: float = SECONDS
    ) -> Ran:
        """Run a command to its end."""
        environment = {**self.environment, **(env or {})}
        if forks.may_fork(environment):
            done = forks.run(arguments, input=stdin.encode(), timeout=seconds, cwd=self.home, env=environment)
        else:
            done = subprocess.run(
                self.argv(*arguments),
                input=stdin.encode(),
                capture_output=True,
                timeout=seconds,
                cwd=self.home,
                env=environment,
                check=False,
            )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(
        self, *arguments: str, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes] | forks.Forked:
        """Run a command, and return its process."""
        if forks.may_fork(self.environment):
            return forks.Forked(arguments, stdin=stdin, stdout=stdout, stderr=stderr, cwd=self.home, env=self.environment)
        return subprocess.Popen(
            self.argv(*arguments), stdin=stdin, stdout=stdout, stderr=stderr, cwd=self.home, env=self.environment
        )

    def fails(self, code: int, *arguments: str | bytes, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run a command that is to fail with this code and one line, and return the line."""
        ran = self(*arguments, stdin=stdin, env=env)
        assert (ran.code, ran.out) == (code, ""), ran
        assert re.fullmatch(r"taskctl: [^\n]+\n", ran.err), ran.err
        return ran.err.removeprefix("taskctl: ").rstrip("\n")


class Server:
    """A `taskctl serve` that runs. `log` grows by the lines of its stderr."""

    def __init__(self, shell: Shell, *options: str) -> None:
        lines, stderr = forks.pipe()
        with stderr, Path(os.devnull).open("r+b") as nothing:
            self.process = shell.start("serve", "--port", "0", *options, stdin=nothing, stdout=nothing, stderr=stderr)
        self.log: list[str] = []
        self._grown = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=[lines])
        self._reader.start()

    def _read(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                with self._grown:
                    self.log.append(line.decode())
                    self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def logged(self, pattern: str) -> re.Match[str]:
        """Wait until a line of the log fits, and return the match."""

        def look() -> re.Match[str] | None:
            return next((found for line in self.log if (found := re.search(pattern, line))), None)

        with self._grown:
            self._grown.wait_for(lambda: self._ended or look() is not None, SECONDS)
            found = look()
        assert found is not None, f"{pattern!r} is not in {self.log}"
        return found

    @property
    def url(self) -> str:
        """Where it serves, once it does: http://HOST:PORT, or https; as the log for people says it, or the one for programs."""
        return self.logged(r'(?:at |"url":")(https?://[^\s"]+?)(?:/api/v1;|")')[1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS)
        self._reader.join(SECONDS)


@contextmanager
def serving(shell: Shell, *options: str) -> Iterator[Server]:
    """Run `taskctl serve` and yield it when it listens; whatever is left of it is killed."""
    with Server(shell, *options) as server:
        assert server.url
        yield server
