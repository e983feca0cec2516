"""PostgreSQL, by aiopg: sessions made safe, a transaction in few round trips, and what to do when the database is away.

Decision 0007 says what is wrong with aiopg as it is, and how each of these is met here.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
import psycopg2
from aiopg.connection import Connection as AiopgConnection
from psycopg2 import errorcodes, errors, extensions
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random

from taskctl.errors import SchemaOutdated, StorageFull, Unavailable
from taskctl.observe import DatabaseAway, DatabaseBack, Observer, Statement, StatementDone
from taskctl.storage import driver, migrations
from taskctl.storage.driver import Doubtful, Overtaken, Row, Sql, Work
from taskctl.storage.libpq import Place
from taskctl.storage.pool import Pool
from taskctl.storage.rows import Head

T = TypeVar("T")

SILENCE_SECONDS = 0.5
"""A statement that takes longer is no reason for alarm, but for a look whether the database still answers others."""
PROBE_SECONDS = 0.4
"""How long that look may take; longer where connecting takes long."""
FIRST_SECONDS = 0.8
"""How long a caller waits for a connection while there is none at all, though there has been one; longer for the same reason."""
NEVER_SECONDS = 600.0
"""The same, before there ever was one."""
RETRY_SECONDS = 0.25
"""Reads whose connection broke are tried again for this long."""
IDLE_IN_TRANSACTION_SECONDS = 1
"""The server ends a transaction whose client says nothing: a process that was stopped must not hold a workspace."""
GRACE_SECONDS = 1.0
"""So much later than PostgreSQL should have ended a statement, its connection is given up."""
PREPARED_MAX = 100

_encode = msgspec.json.Encoder().encode


class Lost(Unavailable):
    """The connection broke, or the database is on its way down. Nothing was committed, unless it was on its way already."""


class Refused(Unavailable):
    """The server answers, and does not let us in."""


class TableMissing(SchemaOutdated):
    """A table is not there, whatever the revision says."""


# ---------------------------------------------------------------------------------------------------------- the connection


class _Connection(AiopgConnection):
    """aiopg's connection, with what makes it unsafe put right.

    The event loop watches a duplicate of libpq's descriptor: libpq closes and replaces its own while it tries hosts and when
    a connection breaks, and a loop that watches a closed number confuses it with whatever gets that number next. A cancelled
    statement (`statement_timeout`) stays an error of the database; aiopg makes a CancelledError of it, as if the caller had been
    cancelled.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._connecting = True
        super().__init__(None, 0, enable_json=False, enable_hstore=False, enable_uuid=False, **params)
        assert self._fileno is not None, "it has just been opened"
        self._loop.remove_reader(self._fileno)
        self._fileno = None
        self._watch(extensions.POLL_WRITE)

    def _watch(self, state: int) -> None:
        """Have the loop watch the socket that libpq uses now, for what it waits for."""
        self._unwatch()
        self._fileno = os.dup(self._conn.fileno())
        if state == extensions.POLL_WRITE:
            self._writing = True
            self._loop.add_writer(self._fileno, self._ready, self._weakref)
        else:
            self._loop.add_reader(self._fileno, self._ready, self._weakref)

    def _unwatch(self) -> None:
        descriptor, self._fileno = self._fileno, None
        if descriptor is None:
            return
        self._loop.remove_reader(descriptor)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(descriptor)
        os.close(descriptor)

    @staticmethod
    def _ready(weak_self: Any) -> None:
        # Not aiopg's own, which asks select() about the descriptor: that knows none above 1023.
        self = weak_self()
        if self is None:
            return
        waiter = self._waiter
        try:
            state = self._conn.poll()
        except psycopg2.Error as e:
            if self._connecting or self._conn.closed:
                self._unwatch()
            if waiter is not None and not waiter.done():
                waiter.set_exception(e)
            return
        if self._connecting or (state == extensions.POLL_WRITE) != self._writing:
            self._watch(state)
        if state == extensions.POLL_OK:
            self._connecting = False
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    async def _poll(self, waiter: "asyncio.Future[None]", timeout: float) -> None:  # noqa: ARG002  # the driver watches the time
        self._ready(self._weakref)
        try:
            await waiter
        except asyncio.CancelledError:
            self._close()
            raise
        finally:
            self._waiter = None

    def _close(self) -> None:
        self._unwatch()
        super()._close()


# -------------------------------------------------------------------------------------------------------------- the dialect


class Dialect:
    """How PostgreSQL says it."""

    lock = "SELECT 1 FROM workspaces WHERE name = ? FOR NO KEY UPDATE"
    blind = False
    history = "substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"  # the timeline
    filled = "ANALYZE workspaces, tasks, task_labels, log"
    now = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    alone = (
        "SET LOCAL idle_in_transaction_session_timeout = 0; "
        "LOCK TABLE workspaces, tasks, task_labels, log, meta, tokens IN EXCLUSIVE MODE"
    )

    def among(self, column: str, values: Iterable[int] | Iterable[str]) -> Sql:
        return f"{column} = ANY(?)", ["{" + ",".join(map(_element, values)) + "}"]

    def search(self, workspace: str, words: Sequence[str], *, prefix: bool) -> Sql:  # noqa: ARG002  # the rows are the workspace's
        *whole, last = [word[: migrations.LEXEME_MAX] for word in words]
        tokens = [f"'{word}'" for word in whole] + [f"'{last}':*" if prefix else f"'{last}'"]
        sql, params = f"{migrations.LEXEMES} @@ ?::tsquery", [" & ".join(tokens)]
        if len(words) > 1 or len(words[0]) > migrations.LEXEME_MAX:
            # The index knows no order and no more than the beginning of a very long word.
            sql += " AND ' ' || search || ' ' LIKE ?"
            params.append(f"% {' '.join(words)}{'' if prefix else ' '}%")
        return f"({sql})", params


def _element(value: int | str) -> str:
    """Return a value as it stands in a literal of an array. A text may be anything, and is quoted so that it is one element."""
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@lru_cache(512)
def _numbered(sql: str) -> tuple[str, int]:
    """Return a statement with $1, $2... for its parameters, and how many there are."""
    head, *tail = sql.split("?")
    return head + "".join(f"${n}{part}" for n, part in enumerate(tail, start=1)), len(tail)


@lru_cache(512)
def _formatted(sql: str) -> str:
    """Return a statement with psycopg2's %s for its parameters."""
    return sql.replace("%", "%%").replace("?", "%s")


# -------------------------------------------------------------------------------------------------------------- the session


class Session:
    """A connection as the statements see it. What gives no rows waits, and is sent with what comes after it."""

    dialect: driver.Dialect = Dialect()

    def __init__(self, postgres: "Postgres", connection: _Connection, cursor: Any) -> None:
        self._postgres = postgres
        self._connection = connection
        self._cursor = cursor
        self._prepared: dict[str, str] = {}
        self._unsent: list[bytes] = []
        self._if_taken = ""
        self._broken = False
        self.allowed = postgres.timeout
        """Seconds that a statement may take."""

    @property
    def usable(self) -> bool:
        return not (self._broken or self._connection.closed or self._unsent)

    def close(self) -> None:
        self._broken = True
        self._connection.close()

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        self._add(sql, params, fixed=fixed)
        return await self._send(sql, name)

    async def run(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False) -> None:
        self._add(sql + self._if_taken, params, fixed=fixed)

    async def allow(self, seconds: float) -> None:
        self.allowed = seconds
        self._add(f"SET LOCAL statement_timeout = {round(seconds * 1000)}", (), fixed=False)

    async def take(self, workspace: str, expected: Head) -> None:
        # Not by an error: the server would write the whole message, and with it everybody's tasks, into its log of errors.
        self._if_taken = " AND current_setting('taskctl.taken') = 'yes'"
        self._add(_TAKE, [expected.id, expected.next_id, expected.written_at, expected.seq, workspace], fixed=True)
        if expected.changeset is not None:
            self._add(_SAME_LOG, [expected.id, expected.seq, expected.changeset], fixed=True)

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        names = ", ".join(columns)
        sql = f"INSERT INTO {table} ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table}, ?) WHERE true"
        self._add(sql + self._if_taken, [_records(columns, rows)], fixed=True)

    async def update(self, table: str, key: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        values = ", ".join(f"{column} = new.{column}" for column in columns)
        sql = f"UPDATE {table} SET {values} FROM json_populate_recordset(NULL::{table}, ?) AS new WHERE {_same(table, key)}"
        self._add(sql + self._if_taken, [_records((*key, *columns), rows)], fixed=True)

    async def delete(self, table: str, key: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        sql = f"DELETE FROM {table} USING json_populate_recordset(NULL::{table}, ?) AS new WHERE {_same(table, key)}"
        self._add(sql + self._if_taken, [_records(key, rows)], fixed=True)

    async def transaction(self, work: Callable[["Session"], Awaitable[T]], begin: str) -> T:
        """Run the work in a transaction of its own. Raises Doubtful if the connection broke during the commit."""
        self._unsent = [begin.encode()]
        self._if_taken = ""
        try:
            value = await work(self)
        except BaseException:
            if self._unsent == [begin.encode()]:
                self._unsent.clear()
            elif self._unsent:  # what was to be prepared with it never will be
                self._broken = True
            elif self.usable:
                self._unsent.append(b"ROLLBACK")
                await self._send("ROLLBACK", "other")
            raise
        finally:
            self.allowed = self._postgres.timeout
        writes = bool(self._unsent)
        self._unsent.append(b"COMMIT")
        if self._if_taken:
            self._unsent.append(b"SHOW taskctl.taken")
        try:
            answer = await self._send("COMMIT", "commit")
        except Unavailable as e:
            # After a COMMIT that is followed by a question, even a cancellation may have come too late.
            late = self._if_taken and not isinstance(e.__cause__, errors.LockNotAvailable)
            if late or (writes and isinstance(e, Lost)):
                raise Doubtful(value) from None
            if not isinstance(e, Lost):
                raise
        else:
            if self._if_taken and answer != [("yes",)]:
                raise Overtaken
        return value

    def _add(self, sql: str, params: Sequence[Any], *, fixed: bool) -> None:
        if not fixed:
            self._unsent.append(self._bound(_formatted(sql), params))
            return
        if (name := self._prepared.get(sql)) is None:
            if len(self._prepared) >= PREPARED_MAX:
                self._unsent.append(b"DEALLOCATE ALL")
                self._prepared.clear()
            name = self._prepared[sql] = f"s{len(self._prepared)}"
            self._unsent.append(f"PREPARE {name} AS {_numbered(sql)[0]}".encode())
        count = _numbered(sql)[1]
        values = f"({', '.join(['%s'] * count)})" if count else ""
        self._unsent.append(self._bound(f"EXECUTE {name}{values}", params))

    def _bound(self, sql: str, params: Sequence[Any]) -> bytes:
        return cast(bytes, self._cursor.raw.mogrify(sql, tuple(params)))

    async def _send(self, sql: str, name: Statement) -> list[Row]:
        """Send what has gathered, in one round trip, and return the rows of the last statement.

        sql, name: what it is all for, for the observer.
        """
        started = time.perf_counter()
        statement = b";".join(self._unsent)
        self._unsent.clear()
        self._postgres.begun(self)
        answered = True
        try:
            await self._cursor.execute(statement)
        except BaseException as e:
            self._broken = True  # also because what was to be prepared may not be
            answered = not self._connection.closed
            if isinstance(e, psycopg2.Error):
                self._postgres.observer(StatementDone(sql, 0, time.perf_counter() - started, name, failed=True))
                raise self._postgres.told(e, closed=not answered) from e
            raise
        finally:
            self._postgres.ended(self, answered=answered)
        rows = cast("list[Row]", self._cursor.raw.fetchall()) if self._cursor.description else []
        self._postgres.observer(StatementDone(sql, len(rows), time.perf_counter() - started, name))
        return rows


def _records(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as the one JSON text that PostgreSQL makes rows of: far cheaper to write and to read than SQL literals.

    What is left out is null.
    """
    return _encode([{c: v for c, v in zip(columns, row, strict=True) if v is not None} for row in rows]).decode()


def _same(table: str, key: Sequence[str]) -> str:
    return " AND ".join(f"{table}.{column} = new.{column}" for column in key)


# --------------------------------------------------------------------------------------------------------------- the driver


class Postgres:
    """A PostgreSQL database. Reads and writes have connections of their own, so that neither keeps the other waiting.

    timeout: seconds for a statement, and for a free connection.

    While the database is known to be away everybody is told so at once, and one task tries to get in again.
    """

    dialect: driver.Dialect = Session.dialect

    def __init__(self, place: Place, *, readers: int, writers: int, timeout: float, observer: Observer) -> None:
        self.place = place
        self.observer = observer
        self.timeout = timeout
        self._readers: Pool[Session] = Pool(self._connect, self._known, self._silent, size=readers)
        self._writers: Pool[Session] = Pool(self._connect, self._known, self._silent, size=writers)
        self._last: dict[str, str] | None = None
        self._away: Unavailable | None = None
        self._running: dict[Session, float] = {}
        self._took = 0.0  # by the last connect
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        async def once() -> list[Row]:
            async with self._lent(self._readers) as session:
                return await session.fetch(sql, params, fixed=fixed, name=name)

        return await self._retried(once)

    async def read(self, work: Work[T]) -> T:
        async with self._lent(self._readers) as session:
            # Whoever reads for long may do something else in between.
            return await session.transaction(
                work, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0"
            )

    async def write(self, work: Callable[[Session], Awaitable[T]]) -> T:
        async def once() -> T:
            async with self._lent(self._writers) as session:
                return await session.transaction(work, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")

        # Lost means that nothing was committed; whatever may have been is Doubtful, and not for us to repeat.
        return await self._retried(once)

    @property
    def connections(self) -> Mapping[tuple[str, ...], int]:
        """How many connections there are, by what they are for (read, write) and their state (idle, busy, connecting)."""
        return {(name, state): count for name, pool in self._pools() for state, count in pool.states.items()}

    @property
    def waiters(self) -> Mapping[tuple[str, ...], int]:
        """How many wait for a connection, by what for."""
        return {(name,): pool.waiters for name, pool in self._pools()}

    def _pools(self) -> Sequence[tuple[str, Pool[Session]]]:
        return ("read", self._readers), ("write", self._writers)

    async def close(self) -> None:
        await self._writers.close()
        await self._readers.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _lent(self, pool: Pool[Session]) -> AbstractAsyncContextManager[Session]:
        # Before the first time nobody knows how long it takes; the attempt itself comes to an end.
        first = max(FIRST_SECONDS, min(8 * self._took, self.timeout)) if self._last else NEVER_SECONDS
        return pool.connection(first=first, next=self.timeout)

    async def _retried(self, once: Callable[[], Awaitable[T]]) -> T:
        try:
            return await once()
        except Lost:
            pass
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Lost),
            stop=stop_after_delay(RETRY_SECONDS) | stop_after_attempt(4),
            wait=wait_random(0.01, 0.06),
            reraise=True,
        )
        try:
            return await retrying(once)
        except Lost as e:
            raise Unavailable(e.detail) from e

    # ------------------------------------------------------------------------------------------------------ connecting

    async def _connect(self) -> Session:
        """Connect to the first server that lets us in, as a session is to be. Raises Unavailable."""
        try:
            targets = await self.place.targets()
        except Unavailable as e:
            targets, failure = [], e
        # The one that let us in the last time is asked first: another one may be silent, and cost its whole time.
        for target in sorted(targets, key=lambda target: target != self._last):
            began = time.monotonic()
            try:
                session = await self._session(target)
            except Unavailable as e:
                failure = e
            else:
                self._last, self._took = target, time.monotonic() - began
                return session
        self._silent(failure)
        raise failure

    async def _session(self, target: dict[str, str]) -> Session:
        try:
            async with asyncio.timeout(float(target.get("connect_timeout", "0")) or self.timeout):
                connection = _Connection(target)
                await connection
        except TimeoutError as e:
            raise Unavailable(f"the database {self.place.shown} has not answered in time") from e
        except psycopg2.Error as e:
            failure = Unavailable if not self.place.answered(e) else Refused
            raise failure(self.place.told(e)) from e
        except (OSError, ValueError) as e:  # no descriptor left, a name that can be no host's
            raise Unavailable(f"the database {self.place.shown} cannot be connected to from here: {e}") from e
        try:
            cursor = await connection.cursor()
            session = Session(self, connection, cursor)
            revision = None
            limits = {"milliseconds": round(self.timeout * 1000), "lock_milliseconds": round(self.timeout * 800)}
            [(encoding,)] = await session.fetch(_SETTINGS.format(**limits) + "SHOW server_encoding", name="session")
            if encoding == "UTF8":
                with suppress(TableMissing):
                    [(revision,)] = await session.fetch("SELECT (SELECT version_num FROM alembic_version)", name="session")
        except BaseException as e:
            connection.close()
            if isinstance(e, psycopg2.Error):
                raise Unavailable(f"the database {self.place.shown} does not take the settings of a session") from e
            raise
        if encoding != "UTF8":
            connection.close()
            raise Unavailable(self.place.wrong_encoding(encoding))
        if revision not in migrations.WORKING:
            connection.close()
            raise migrations.outdated(revision)
        return session

    # ---------------------------------------------------------------------------------------- when the database is away

    def _known(self) -> Unavailable | None:
        away = self._away  # a new one each time: one that is raised again and again would grow
        return None if away is None else type(away)(away.detail, **away.extra)

    def _silent(self, failure: Unavailable) -> None:
        if not (self._readers.connections or self._writers.connections):
            self._declare(failure)

    def begun(self, session: Session) -> None:
        """Take note that a session waits for an answer."""
        loop = asyncio.get_running_loop()
        self._running[session] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(SILENCE_SECONDS, self._look)

    def ended(self, session: Session, *, answered: bool) -> None:
        """Take note that a session has its answer, or never will."""
        self._running.pop(session, None)
        if answered:
            self._heard = asyncio.get_running_loop().time()

    def _look(self) -> None:
        self._timer = None
        if not self._running:
            return
        loop = asyncio.get_running_loop()
        for session, begun in list(self._running.items()):
            if loop.time() - begun > session.allowed + GRACE_SECONDS:
                session.close()
        silent = loop.time() - max(self._heard, min(self._running.values()))
        if silent < SILENCE_SECONDS - 0.01:
            self._timer = loop.call_later(SILENCE_SECONDS - silent, self._look)
        else:
            self._start(self._probe())

    async def _probe(self) -> None:
        """Find out whether a database that is silent on one connection lets us in on another."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(max(PROBE_SECONDS, min(4 * self._took, self.timeout))):
                (await self._connect()).close()
        except (Refused, SchemaOutdated):
            pass  # it does not let us in, but it is there to say so
        except (TimeoutError, Unavailable):
            if self._heard < began:
                self._declare(Unavailable(f"the database {self.place.shown} does not answer"))
                return
        self._heard = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(SILENCE_SECONDS, self._look)

    def _declare(self, failure: Unavailable) -> None:
        """Take the database for away: tell everybody, close what there is, and try to get in again."""
        if self._away is not None:
            return
        self._away = Unavailable(failure.detail) if isinstance(failure, Lost) else failure
        self.observer(DatabaseAway(failure.detail))
        for pool in (self._readers, self._writers):
            pool.fail(failure)
            pool.drop()
        self._start(self._come_back())

    async def _come_back(self) -> None:
        """Connect until it works. An attempt that hangs does not hold up the next one."""
        started = time.monotonic()
        attempts: set[asyncio.Task[Session]] = set()
        try:
            while True:
                attempts.add(asyncio.create_task(self._connect()))
                done, attempts = await asyncio.wait(attempts, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                sessions: list[Session] = []
                for task in done:
                    try:
                        sessions.append(task.result())
                    except Unavailable as e:
                        self._away = type(e)(e.detail, **e.extra)
                    except Exception:  # one that nobody foresaw: the next attempt may do better
                        self._away = Unavailable(f"the database {self.place.shown} cannot be connected to")
                for session in sessions[1:]:
                    session.close()
                if sessions:
                    self._away = None
                    self._readers.give(sessions[0], time.monotonic())
                    self.observer(DatabaseBack(time.monotonic() - started))
                    return
                if done:
                    await asyncio.sleep(0.2)
        finally:
            for task in attempts:
                task.cancel()
            if attempts:
                await asyncio.wait(attempts)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, context=Context())  # for all who will come, not for who happened to be here
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---------------------------------------------------------------------------------------------------------- errors

    def told(self, e: psycopg2.Error, *, closed: bool) -> Exception:
        """Return an error of PostgreSQL as one of taskctl; itself, if it is a mistake of ours."""
        shown = self.place.shown
        match e:
            case errors.UndefinedTable() | errors.UndefinedColumn():
                return TableMissing(f"the database {shown} lacks a table or a column that its schema should have")
            case errors.LockNotAvailable():
                return Unavailable("somebody else has kept what is needed locked for too long")
            case errors.QueryCanceled():
                return Unavailable(f"the database {shown} has not done a statement within {self.timeout:g} s")
            case errors.DiskFull():
                return StorageFull(f"the disk under the database {shown} is full")
            case errors.ReadOnlySqlTransaction() | errors.FeatureNotSupported():  # the latter of a standby
                return Lost(f"the database {shown} takes no writes now")
            case errors.DeadlockDetected() | errors.SerializationFailure():
                return Lost("somebody else's transaction was in the way")
            case errors.InsufficientPrivilege():
                return Unavailable(f"the user of the database {shown} may not do this")
            case errors.OutOfMemory() | errors.TooManyConnections() | errors.ConfigurationLimitExceeded():
                return Unavailable(f"the database {shown} is short of something: {errorcodes.lookup(e.pgcode or '').lower()}")
        if closed or isinstance(e, psycopg2.OperationalError | psycopg2.InterfaceError):
            return Lost(f"the connection to the database {shown} broke")
        return e


# The row is looked at again when the lock is held, so what is said of it is true then.
_TAKE = (
    "SELECT set_config('taskctl.taken', COALESCE(("
    "SELECT CASE WHEN id = ? AND next_id = ? AND written_at = ? AND seq = ? THEN 'yes' END "
    "FROM workspaces WHERE name = ? FOR NO KEY UPDATE), 'no'), false)"
)
# The numbers can be the same by chance. A statement of its own sees the log as it is when the lock is held.
_SAME_LOG = (
    "SELECT set_config('taskctl.taken', 'no', false) "
    "WHERE NOT EXISTS (SELECT 1 FROM log WHERE workspace_id = ? AND seq = ? AND changeset = ?)"
)
_SETTINGS = (
    "SET statement_timeout = {milliseconds}; SET lock_timeout = {lock_milliseconds}; "
    f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_SECONDS}s'; "
    "SET client_connection_check_interval = '100ms'; "
    # Whatever is asked is about one workspace, and its rows are found by an index; a plan made while the tables were
    # empty must not read them from end to end once they are full.
    "SET enable_seqscan = off; SET standard_conforming_strings = on; SET timezone = 'UTC'; SET jit = off; "
)
