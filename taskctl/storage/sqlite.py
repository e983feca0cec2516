"""SQLite: opening a file, who writes when, and its errors in the user's words.

Two drivers share what is here. `InlineSqlite` works in the caller's thread and never suspends, so that a command needs no
event loop; `ThreadedSqlite` is for programs with one: a thread that writes, and some that read, each with its connection.

docs/decisions/0003 says why writers queue at a gate, and who checkpoints.
"""

import errno
import os
import sqlite3
import sys
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from taskctl.errors import StorageFull, Unavailable
from taskctl.observe import Observer, Statement, StatementDone
from taskctl.storage import driver, migrations
from taskctl.storage.driver import Row, Sql, Work

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")

APPLICATION_ID = 0x7461736B  # "task", in the header of the file
CHECKPOINT_BYTES = 4 * 1024 * 1024
"""The log beside the database (-wal) is written back when it is longer than this."""
_WORKSPACE_SHIFT = 40
"""A row of the search table has the number workspace << 40 | task."""
_ID_MASK = (1 << _WORKSPACE_SHIFT) - 1


class Dialect:
    """How SQLite says it."""

    lock = "SELECT ?"  # whoever writes is alone
    history = "''"  # a file is replaced as a whole, by a restore, and that renews the epoch
    filled = "SELECT 1"
    blind = True  # there are statistics only where somebody says ANALYZE, and then only averages
    now = "micros()"
    alone = "SELECT 1"

    def among(self, column: str, values: Iterable[int] | Iterable[str]) -> Sql:
        from json import dumps

        return f"{column} IN (SELECT value FROM json_each(?))", [dumps(list(values))]

    def search(self, workspace: str, words: Sequence[str], *, prefix: bool) -> Sql:
        first = f"(SELECT id << {_WORKSPACE_SHIFT} FROM workspaces WHERE name = ?)"
        last = f"(SELECT (id << {_WORKSPACE_SHIFT}) + {_ID_MASK} FROM workspaces WHERE name = ?)"
        found = f"SELECT rowid & {_ID_MASK} FROM tasks_search WHERE tasks_search MATCH ? AND rowid BETWEEN {first} AND {last}"
        phrase = '"' + " ".join(words) + '"'
        return f"id IN ({found})", [f"{phrase} *" if prefix else phrase, workspace, workspace]


class File:
    """A database file: its path, and how it is to be opened."""

    def __init__(self, path: Path, *, synchronous: str, timeout: float, observer: Observer) -> None:
        self.path = path
        self.synchronous = synchronous
        self.timeout = timeout
        self.observer = observer

    def connect(self) -> "Connection":
        """Open the file, make its tables if it is new, and return the connection.

        Raises Unavailable if it cannot be used, SchemaOutdated if its tables are not those of this version.
        """
        with self.errors():
            self.look()
            raw = self.raw()
            try:
                self._prepare(raw)
            except BaseException:
                raw.close()
                raise
        return Connection(raw, self.observer)

    def look(self) -> None:
        """Raise Unavailable if there can be no database at the path. Nothing is created."""
        if self.path.is_dir():
            raise Unavailable(f"{self.path} is a folder; a file for the database was expected")
        if not self.path.parent.is_dir():
            raise Unavailable(f"there is no folder {self.path.parent} for the database")

    def _prepare(self, raw: sqlite3.Connection) -> None:
        raw.create_function("micros", 0, lambda: time.time_ns() // 1000)
        raw.execute(f"PRAGMA synchronous = {self.synchronous}")
        if (revision := self.revision(raw)) is None:
            with self.gate(time.monotonic() + self.timeout):
                if (revision := self.revision(raw)) is None:
                    raw.execute("PRAGMA journal_mode = WAL")
                    raw.executescript(f"BEGIN IMMEDIATE;{migrations.script()}COMMIT;")
                    revision = migrations.HEAD
        if revision not in migrations.WORKING:
            raise migrations.outdated(revision)

    def revision(self, raw: sqlite3.Connection) -> str | None:
        """Return the revision of the tables in the file: None if it is empty, "" if an upgrade ended before the first one."""
        # One look at what there is: another process may be making the tables at this moment, all of them at once.
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
        if not tables:
            return None
        [(application_id,)] = raw.execute("PRAGMA application_id")
        if application_id != APPLICATION_ID or "alembic_version" not in tables:
            raise Unavailable(f"{self.path} is the database of another program; nothing was changed in it")
        rows = raw.execute("SELECT version_num FROM alembic_version").fetchall()
        return cast(str, rows[0][0]) if rows else ""

    def raw(self, *, mode: str = "rwc") -> sqlite3.Connection:
        """Open the file as every connection of taskctl is to be: nothing begun, nothing checkpointed, by itself."""
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        raw = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=self.timeout)
        raw.execute("PRAGMA wal_autocheckpoint = 0")
        raw.execute("PRAGMA journal_size_limit = 0")  # a -wal that starts anew is cut, so that its length says what is in it
        return raw

    @contextmanager
    def gate(self, deadline: float) -> Iterator[None]:
        """Hold the gate file beside the database: whoever does knows that no other process begins to write."""
        if sys.platform == "win32":  # no such gate there: BEGIN IMMEDIATE alone keeps writers apart, only less fairly
            yield
            return
        gate = os.open(f"{self.path}-gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while True:
                try:
                    fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as e:
                    if e.errno in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks of this kind
                        break
                    if e.errno not in (errno.EAGAIN, errno.EINTR):
                        raise
                self._wait(deadline)
            yield
        finally:
            os.close(gate)

    def begin(self, raw: sqlite3.Connection, deadline: float) -> None:
        """Begin a transaction that writes, once all who came before have begun theirs."""
        with self.gate(deadline):
            raw.execute("PRAGMA busy_timeout = 0")
            while True:
                try:
                    raw.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as e:
                    if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                        raise
                else:
                    break
                self._wait(deadline)
        raw.execute(f"PRAGMA busy_timeout = {round(self.timeout * 1000)}")

    def _wait(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise Unavailable(f"another process has kept the database {self.path} busy for {self.timeout:g} s")
        time.sleep(0.001)

    def checkpoint(self, raw: sqlite3.Connection) -> None:
        """Write the log beside the database back into it, if it has grown long.

        While this holds the gate nobody begins to write, so no process starts the log anew under the one that copies it.
        """
        try:
            if Path(f"{self.path}-wal").stat().st_size < CHECKPOINT_BYTES:
                return
        except FileNotFoundError:
            return
        deadline = time.monotonic() + self.timeout
        # What was to be written is committed already, and stays so if this fails: whoever writes next tries again.
        with suppress(Unavailable, sqlite3.Error, OSError), self.gate(deadline):
            raw.execute("BEGIN IMMEDIATE")  # whoever was writing has ended
            raw.execute("ROLLBACK")
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into those of taskctl."""
        try:
            yield
        except sqlite3.Error as e:
            raise self._told(e) from e
        except OSError as e:
            raise Unavailable(f"the database {self.path} cannot be used: {e.strerror}") from e

    def _told(self, e: sqlite3.Error) -> Exception:
        match getattr(e, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return Unavailable(f"another process keeps the database {self.path} busy")
            case sqlite3.SQLITE_FULL:
                return StorageFull(f"the disk under {self.path} is full")
            case sqlite3.SQLITE_NOTADB:
                return Unavailable(f"{self.path} is not a SQLite database; nothing was changed in it")
            case sqlite3.SQLITE_CORRUPT:
                return Unavailable(f"the database {self.path} is damaged: {e}")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return Unavailable(f"the database {self.path} cannot be opened for writing")
            case sqlite3.SQLITE_IOERR:
                return Unavailable(f"the disk under {self.path} fails: {e}")
            case _:
                return e


class Connection:
    """A connection within a transaction. Nothing in it waits for anything but SQLite."""

    dialect: driver.Dialect = Dialect()

    def __init__(self, raw: sqlite3.Connection, observer: Observer) -> None:
        self.raw = raw
        self.observer = observer

    def execute(self, sql: str, params: Sequence[Any], name: Statement) -> list[Row]:
        """Run a statement and return its rows."""
        started = time.perf_counter()
        try:
            rows = self.raw.execute(sql, params).fetchall()
        except sqlite3.Error:
            self.observer(StatementDone(sql, 0, time.perf_counter() - started, name, failed=True))
            raise
        self.observer(StatementDone(sql, len(rows), time.perf_counter() - started, name))
        return rows

    def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        started = time.perf_counter()
        try:
            self.raw.executemany(sql, rows)
        except sqlite3.Error:
            self.observer(StatementDone(sql, 0, time.perf_counter() - started, "write", failed=True))
            raise
        self.observer(StatementDone(sql, len(rows), time.perf_counter() - started, "write"))

    async def fetch(
        self,
        sql: str,
        params: Sequence[Any] = (),
        *,
        fixed: bool = False,  # noqa: ARG002  # sqlite3 prepares all
        name: Statement = "other",
    ) -> list[Row]:
        return self.execute(sql, params, name)

    async def run(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False) -> None:  # noqa: ARG002
        self.execute(sql, params, "write")

    async def allow(self, seconds: float) -> None:
        pass  # a statement takes as long as it takes

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", rows)

    async def update(self, table: str, key: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        values = ", ".join(f"{column} = ?{n}" for n, column in enumerate(columns, start=len(key) + 1))
        where = " AND ".join(f"{column} = ?{n}" for n, column in enumerate(key, start=1))
        self._many(f"UPDATE {table} SET {values} WHERE {where}", rows)

    async def delete(self, table: str, key: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._many(f"DELETE FROM {table} WHERE {' AND '.join(f'{column} = ?' for column in key)}", rows)


class Unmoved:
    """Tells whether anybody has written to a file, without waiting for anybody: `PRAGMA data_version`.

    It is blind to what its own connection commits, so it has one on which nothing is ever written.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._raw: sqlite3.Connection | None = None

    def begin(self) -> int | None:
        """Return a number that stays the same until somebody commits; None if that cannot be told now."""
        try:
            if self._raw is None:
                self._raw = self._file.raw(mode="rw")
                self._raw.execute("PRAGMA busy_timeout = 0")
            [(number,)] = self._raw.execute("PRAGMA data_version")
        except sqlite3.Error:
            return None
        return cast(int, number)

    def holds(self, mark: int | None) -> bool:
        """Return whether nobody has committed since."""
        return mark is not None and self.begin() == mark

    def close(self) -> None:
        """Close the connection."""
        if self._raw is not None:
            self._raw.close()


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        return cast(T, e.value)
    coroutine.close()
    raise RuntimeError("a coroutine waited where nothing can be waited for")


class InlineSqlite:
    """A driver that works in the thread of its caller and never suspends."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._connection: Connection | None = None

    dialect: driver.Dialect = Connection.dialect

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = self._file.connect()
        return self._connection

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        connection = self._open()
        with self._file.errors():
            return await connection.fetch(sql, params, fixed=fixed, name=name)

    async def read(self, work: Work[T]) -> T:
        connection = self._open()
        with self._file.errors():
            connection.raw.execute("BEGIN")
            try:
                return await work(connection)
            finally:
                if connection.raw.in_transaction:
                    connection.raw.execute("ROLLBACK")

    async def write(self, work: Work[T]) -> T:
        connection = self._open()
        raw = connection.raw
        with self._file.errors():
            self._file.begin(raw, time.monotonic() + self._file.timeout)
            try:
                value = await work(connection)
                connection.execute("COMMIT", (), "commit")
            except BaseException:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
                raise
            self._file.checkpoint(raw)
        return value

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._file.errors():
                connection.raw.close()
