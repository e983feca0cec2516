"""The second level of the cache: a Redis that several processes share.

It is an aid and never a need. Whatever is wrong with it, a read is a miss after a tenth of a second at most, and a write is
forgotten; when it fails again and again it is left alone until it answers. A value is stored as 16 digits, the `seq` that it was
true at, and the body. One Redis, or one that Sentinels choose; a Redis Cluster is not supported, because a round trip here is
about many keys at once.
"""

import asyncio
import hashlib
import ipaddress
import logging
import math
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut

from taskctl.errors import ConfigError, Unavailable
from taskctl.observe import Observer, RedisAway, RedisBack, RedisDone, RedisRefuses, ignore, on_behalf_of

_log = logging.getLogger("taskctl.cache")

PREFIX = b"taskctl:"
CHANNEL = b"taskctl:changed"

DEADLINE = 0.1
"""Seconds that a round trip may take, with connecting and everything."""
LIFE = 3_600_000
"""Milliseconds after which Redis forgets a value that nobody put again."""
FAILURES = 5
"""Round trips in a row that fail before Redis is left alone."""
PAUSE = (0.5, 1.0)
"""Seconds between two looks at a Redis that is left alone, or two attempts to listen: between these, so that processes spread."""
REFUSED_PAUSE = 1.0
"""Seconds for which nothing is put into a Redis that is full or read-only; what it has can still be read."""
QUIET = 2.0
"""Seconds of silence after which the connection that listens is tried; as long again without an answer, and it is replaced."""

READS = 2
"""MGETs under way at a time; what is asked meanwhile travels together in the next one."""
CONNECTIONS = READS + 2
"""The reads, the writes, and whoever looks or clears: so nobody ever waits for a connection."""
KEYS_MAX = 512
"""Keys in one round trip."""
ASKED_MAX = 2 * KEYS_MAX
"""Keys that wait to be asked for; who asks for more has a miss at once."""
PUTS_MAX = 4_096
PUT_BYTES_MAX = 8 << 20
"""What may wait to be put; beyond that the oldest is dropped."""
TRIP_BYTES_MAX = 1 << 20
"""Bytes to be put in one round trip, and so the longest value: more would not arrive in time on a slow network."""
GATHER = 0.005
"""Seconds that what is to be put and published waits for more: a trip costs as much as a request."""
NAMES_MAX = 1_000
"""Names that may wait to be published."""

_SEQ_DIGITS = 16
# GETRANGE, because a value may be long and only its seq matters. What is no value of ours is overwritten: a key of another type
# makes an error table of pcall. Digits compare as text exactly, where Lua's numbers (doubles) would not.
_PUT_IF_NEWER = """
for i, key in ipairs(KEYS) do
  local new = ARGV[i + 1]
  local old = redis.pcall('GETRANGE', key, 0, 15)
  if type(old) ~= 'string' or #old < 16 or string.find(old, '%D') or old <= string.sub(new, 1, 16) then
    redis.call('SET', key, new, 'PX', ARGV[1])
  end
end
"""
_PUT_IF_NEWER_SHA = hashlib.sha1(_PUT_IF_NEWER.encode(), usedforsecurity=False).hexdigest()

_Command = tuple[bytes | str | int, ...]


class _Asked(NamedTuple):
    """Those who wait for what is stored under one key."""

    contexts: list[Context]
    futures: list[asyncio.Future[tuple[int, bytes] | None]]


class Redis:
    """A cache that several processes share. It may be down, slow, full, read-only, emptied or old: then it is a miss.

    url: redis://, rediss:// (TLS), unix:// or redis+sentinel://HOST,HOST/SERVICE/DB. password_file: read at every connect, wins
    over the address. Raises ConfigError for an address that is none; connects to nothing yet. All methods are for the one event
    loop that it is used in.
    """

    dropped: int
    """How many puts were given up: too many waited, one was too long, or Redis was away or refused them."""

    def __init__(self, url: str, *, password_file: str = "", observer: Observer = ignore) -> None:
        place = _Place.at(url)
        self._shown = place.shown
        self._names = _Names()
        self._pool, self._sentinel = place.pool(password_file, self._names)
        self._observer = observer
        self.dropped = 0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[bytes, _Asked] = {}
        self._lanes = 0
        self._lane_starts = False
        self._puts: dict[bytes, bytes] = {}
        self._put_bytes = 0
        self._news: dict[bytes, None] = {}
        self._writing = False
        self._refused_until = -math.inf
        self._refuses = False
        self._failures = 0
        self._open_since: float | None = None
        self._me = os.urandom(6).hex().encode()

    @property
    def open(self) -> bool:
        """Whether the breaker is open: Redis is left alone."""
        return self._open_since is not None

    # Reading

    async def get(self, key: str) -> tuple[int, bytes] | None:
        """Return (seq, body) of the newest that was put, or None: a miss. Never raises; calls made together travel as one MGET.

        It takes DEADLINE at most, waiting for its turn included. What this process has put is there once it has travelled, and
        no sooner.
        """
        if self._closed or self._open_since is not None or len(self._asked) >= ASKED_MAX:
            return None
        # Each caller waits on a future of its own: one that leaves takes nothing from the others, and the task goes on.
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[int, bytes] | None] = loop.create_future()
        if (asked := self._asked.get(name := _name(key))) is None:
            asked = self._asked[name] = _Asked([], [])
        asked.contexts.append(copy_context())
        asked.futures.append(future)
        if self._lanes < READS and not self._lane_starts:
            self._lanes += 1
            self._lane_starts = True
            self._start(self._read())
        if self._lane_starts and len(self._asked) <= KEYS_MAX:
            return await future  # it travels now, and the round trip has the same deadline
        # Others are under way first. Their time is this caller's, but not the round trip's: one that ends later has not failed.
        timer = loop.call_later(DEADLINE, _tell, [future], None)
        try:
            return await future
        finally:
            timer.cancel()

    async def _read(self) -> None:
        """Ask for what has been asked for, until there is nothing left."""
        self._lane_starts = False
        try:
            while self._asked:
                names = list(islice(self._asked, KEYS_MAX))
                asked = [self._asked.pop(name) for name in names]
                contexts = [context for one in asked for context in one.contexts]
                found: list[tuple[int, bytes] | None] = [None] * len(names)
                try:
                    [values] = await self._trip("MGET", len(names), ("MGET", *names), contexts=contexts)
                    found = [_value(stored) for stored in values]
                except Exception:
                    self._miss()  # those who wait would wait as long again, and most likely in vain
                finally:
                    for one, value in zip(asked, found, strict=False):  # a Redis that answers too little has not got the rest
                        _tell(one.futures, value)
                    for one in asked[len(found) :]:
                        _tell(one.futures, None)
        finally:
            self._lanes -= 1

    def _miss(self) -> None:
        """Answer all who wait that there is nothing."""
        for asked in self._asked.values():
            _tell(asked.futures, None)
        self._asked.clear()

    # Writing

    def put(self, key: str, seq: int, body: bytes) -> None:
        """Store a body that was true at `seq`, unless a newer one is there. Returns at once; it travels in the background."""
        name = _name(key)
        size = len(name) + _SEQ_DIGITS + len(body)
        fits = size <= TRIP_BYTES_MAX and 0 <= seq < 10**_SEQ_DIGITS
        if self._closed or self._open_since is not None or not fits or time.monotonic() < self._refused_until:
            self.dropped += 1
            return
        value = b"%0*d%b" % (_SEQ_DIGITS, seq, body)
        if (waiting := self._puts.get(name)) is not None:
            if value[:_SEQ_DIGITS] < waiting[:_SEQ_DIGITS]:
                return
            self._unqueue(name)
        self._puts[name] = value
        self._put_bytes += size
        while len(self._puts) > PUTS_MAX or self._put_bytes > PUT_BYTES_MAX:
            self._unqueue(next(iter(self._puts)))
            self.dropped += 1
        self._write_soon()

    def _unqueue(self, name: bytes) -> bytes:
        value = self._puts.pop(name)
        self._put_bytes -= len(name) + len(value)
        return value

    def publish(self, workspace: str) -> None:
        """Tell the other processes that this workspace has changed. Returns at once; a name that waits already waits once."""
        if self._closed or self._open_since is not None or len(self._news) >= NAMES_MAX:
            return
        self._news[workspace.encode("utf-8", "surrogatepass")] = None
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._writing:
            self._writing = True
            self._start(self._write())

    async def _write(self) -> None:
        """Send what has gathered, until nothing is left."""
        try:
            while self._puts or self._news:
                await asyncio.sleep(GATHER)
                puts: dict[bytes, bytes] = {}
                size = 0
                for name, value in self._puts.items():
                    size += len(name) + len(value)
                    if len(puts) == KEYS_MAX or size > TRIP_BYTES_MAX:
                        break
                    puts[name] = value
                for name in puts:
                    self._unqueue(name)
                names = list(islice(self._news, KEYS_MAX))
                for name in names:
                    del self._news[name]
                try:
                    await self._send(puts, names)
                except Exception:
                    self.dropped += len(puts)
        finally:
            self._writing = False

    async def _send(self, puts: dict[bytes, bytes], names: list[bytes]) -> None:
        """Send puts, and after them, in the same round trip, the news: whoever is woken finds the values."""
        news: list[_Command] = [("PUBLISH", CHANNEL, b"%b\n%b" % (name, self._me)) for name in names]
        if not puts:
            await self._trip("PUBLISH", len(news), *news)
            return
        put: _Command = ("EVALSHA", _PUT_IF_NEWER_SHA, len(puts), *puts, LIFE, *puts.values())
        answer, *_ = await self._trip("EVALSHA", len(puts), put, *news, refusable=True)
        if isinstance(answer, NoScriptError):  # a Redis that is new, or was told to forget its scripts
            _, answer = await self._trip("SCRIPT", len(puts), ("SCRIPT", "LOAD", _PUT_IF_NEWER), put, refusable=True)
        if not isinstance(answer, ResponseError):
            self._refuses = False
        else:
            # Full, or read-only, and so it will be for the next put. That says nothing about reads: the breaker is theirs.
            self.dropped += len(puts)
            self._refused_until = time.monotonic() + REFUSED_PAUSE
            if not self._refuses:
                self._refuses = True
                self._observer(RedisRefuses(self._told(answer)))
            if self._sentinel is not None and "READONLY" in _said(answer):
                # Another one is the master now: ask again who. redis-py knows the error only where no script is around it.
                await self._pool.disconnect(inuse_connections=False)

    async def clear(self) -> int:
        """Remove all keys of ours, and return how many there were. Raises Unavailable if it cannot.

        What is being put meanwhile, here or elsewhere, may stay.
        """
        for name in list(self._puts):
            self._unqueue(name)
        removed, cursor, contexts = 0, b"0", [copy_context()]
        try:
            while True:
                scan: _Command = ("SCAN", cursor, "MATCH", PREFIX + b"*", "COUNT", 1000)
                [[cursor, keys]] = await self._trip("SCAN", 0, scan, contexts=contexts)
                if keys:
                    [number] = await self._trip("UNLINK", len(keys), ("UNLINK", *keys), contexts=contexts)
                    removed += number
                if cursor == b"0":
                    return removed
        except Exception as e:
            raise Unavailable(f"the Redis that it shares cannot be emptied: {self._told(e)}") from None

    # Listening

    def listen(self, heard: Callable[[str], None]) -> None:
        """Begin to call heard(workspace) for what other processes publish. It returns at once and never raises.

        What is published while the connection is away is never heard: whoever must know asks the database as well.
        """
        if not self._closed:
            self._start(self._greet())
            self._start(self._listen(heard))

    async def _greet(self) -> None:
        """Look whether there is a Redis at all, so that a wrong address is told at once and not after some requests."""
        try:
            await self._trip("PING", 1, ("PING",), ("MGET", PREFIX))
        except Exception as e:
            self._failures = FAILURES - 1
            self._count(e)

    async def _listen(self, heard: Callable[[str], None]) -> None:
        while True:
            # Not one of the pool's: it is never given back. redis-py's PubSub would reconnect without a pause, and wait for ever
            # on a connection that is dead without a word.
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                async with asyncio.timeout(DEADLINE):
                    await connection.connect()
                    await connection.send_command("SUBSCRIBE", CHANNEL)
                    await connection.read_response()
                asked = False
                while True:
                    message = await connection.read_response(timeout=QUIET)
                    if message is None and asked:
                        break
                    if message is None:
                        await connection.send_command("PING")
                    asked = message is None
                    match message:
                        case [b"message", _, bytes(news)]:
                            name, _, origin = news.partition(b"\n")
                            if origin != self._me:
                                heard(name.decode("utf-8", "replace"))
            except Exception as e:  # whatever it was, a new connection is all that can help
                if not isinstance(e, RedisError | OSError):
                    _log.exception("listening to Redis has failed")
            finally:
                await connection.disconnect(nowait=True)
            await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311  # nosec B311  # to spread, not to hide

    # What every round trip goes through

    async def _trip(
        self, command: str, keys: int, *commands: _Command, refusable: bool = False, contexts: Sequence[Context] = ()
    ) -> list[Any]:
        """Send commands at once and return their answers. Raises whatever went wrong, within DEADLINE.

        refusable: an answer that is an error is returned like any other. contexts: of those who wait for it.
        """
        if self._closed:
            raise Disconnected
        started = time.monotonic()
        connection: AbstractConnection | None = None
        failure: Exception | None = None
        refused = False
        answers: list[Any] = []
        try:
            # One deadline around everything, and none of redis-py's own inside of it: those begin anew with every send and
            # every read, and cost a task each.
            async with asyncio.timeout(DEADLINE):
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                for _ in commands:
                    answers.append(await _answer(connection))  # noqa: PERF401  # the first failure ends it
            errors = [answer for answer in answers if isinstance(answer, ResponseError)]
            refused = any(not isinstance(error, NoScriptError) for error in errors)
            failure = errors[0] if errors and not refusable else None
        except BaseException as e:
            if connection is not None:
                await connection.disconnect(nowait=True)  # an answer may still come, and must not be read as the next one's
            if isinstance(e, Exception):
                failure = e
            raise
        finally:
            if connection is not None:
                await self._pool.release(connection)
            if not self._closed:
                seconds, failed = time.monotonic() - started, refused or failure is not None
                on_behalf_of(contexts).run(self._observer, RedisDone(command, keys, seconds, failed, contexts))
                self._count(failure)
        if failure is not None:
            raise failure
        return answers

    def _count(self, failure: Exception | None) -> None:
        """Open the breaker after the last of several failures in a row. While it is open, only `_look` closes it."""
        if self._open_since is not None:
            return
        self._failures = 0 if failure is None else self._failures + 1
        if failure is None or self._failures < FAILURES:
            return
        self._open_since = time.monotonic()
        self._miss()
        self.dropped += len(self._puts)
        self._puts.clear()
        self._put_bytes = 0
        self._news.clear()
        self._observer(RedisAway(self._told(failure)))
        self._start(self._look())

    async def _look(self) -> None:
        """Look whether Redis answers again, until it does."""
        assert self._open_since is not None
        with suppress(Exception):
            await self._pool.disconnect(inuse_connections=False)  # those that are idle may be dead without a word
        while True:
            await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311  # nosec B311  # to spread, not to hide
            try:
                # What reads ask, because a Redis that must not be read (a replica without its master, say) answers PING.
                await self._trip("PING", 1, ("PING",), ("MGET", PREFIX))
            except Exception:  # noqa: S112  # nosec B112  # away it has been told to be; this looks whether it still is
                continue
            break
        seconds = time.monotonic() - self._open_since
        self._open_since = None
        self._failures = 0
        self._observer(RedisBack(seconds))

    def _told(self, failure: Exception) -> str:
        """Return what went wrong in our words: what redis-py and Redis say may repeat what they were sent."""
        cause = failure.__cause__ or failure.__context__
        said = _said(failure)
        match failure:
            case _Unreadable():
                why = str(failure)
            case AuthenticationError():
                why = "it does not accept the user or the password"
            case MasterNotFoundError():
                why = "no Sentinel names a master that is up"
            case TimeoutError() | TimedOut():
                why = f"no answer within {DEADLINE:g} s"
            case _ if said:
                word = re.match("(?!ERR )[A-Z]{3,}(?= )", said)
                other = f"it answers with an error ({word[0]})" if word else "it answers with an error"
                why = next((told for pattern, told in _REFUSALS if re.search(pattern, said)), other)
            case _ if isinstance(cause, ssl.SSLError):
                why = f"TLS fails: {(cause.reason or 'for no known reason').replace('_', ' ').lower()}"
            case _ if isinstance(cause, socket.gaierror):
                why = str(cause.strerror)
            case _ if isinstance(cause, OSError) and cause.errno:
                why = os.strerror(cause.errno)
            case Disconnected():
                why = "no connection can be made, or it broke"
            case _:
                why = "it does not answer as a Redis does"
        return f"{self._shown}: {why}"

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        # Begun for nobody: what runs here works for one after the other.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End everything that runs, and close every connection. Who still waits has a miss; what waits to be put is forgotten."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._miss()
        self._puts.clear()
        self._news.clear()
        await self._names.close()
        await self._pool.aclose()
        if self._sentinel is not None:
            with suppress(RedisError):
                await self._sentinel.aclose()
        await asyncio.sleep(0)  # the loop closes a socket in its next turn


def _name(key: str) -> bytes:
    return PREFIX + key.encode("utf-8", "surrogatepass")


def _value(stored: object) -> tuple[int, bytes] | None:
    """Return (seq, body) of a stored value, None if there is none or it is none of ours."""
    if not isinstance(stored, bytes) or len(stored) < _SEQ_DIGITS or not stored[:_SEQ_DIGITS].isdigit():
        return None
    return int(stored[:_SEQ_DIGITS]), stored[_SEQ_DIGITS:]


def _tell(futures: list[asyncio.Future[tuple[int, bytes] | None]], value: tuple[int, bytes] | None) -> None:
    for future in futures:
        if not future.done():
            future.set_result(value)


def _said(failure: Exception) -> str:
    """Return an error as Redis has put it; nothing if it was not Redis that has said something."""
    code = getattr(failure, "status_code", None)  # redis-py takes the word off that it makes a class of
    return f"{code} {failure}" if code else str(failure) if isinstance(failure, ResponseError) else ""


_REFUSALS: Sequence[tuple[str, str]] = (
    ("(^|-)OOM ", "it is full"),
    ("(^|-)READONLY ", "it is a replica, which only its master may write to"),
    ("(^|-)MISCONF ", "it cannot write to its own disk, and takes nothing until it can"),
    ("(^|-)NOREPLICAS ", "it has too few replicas to take anything"),
    ("^MASTERDOWN ", "it is a replica that has lost its master"),
    ("^LOADING ", "it is still reading its own data"),
    ("^BUSY ", "it is busy with a script of somebody's"),
    ("^NOPERM |can't run this command", "its user may not do all that is needed here"),
    ("^(MOVED|ASK|CROSSSLOT|CLUSTERDOWN|TRYAGAIN) |in cluster mode", "it is a Redis Cluster, and that is not supported"),
    ("^ERR DB index is out of range", "it has no database of this number"),
    ("^ERR max number of clients", "it has no connection left for us"),
    ("^ERR unknown command", "it does not know a command that is needed here"),
)
"""What Redis says, with a - before it if it says so of a script, and what that means."""


async def _answer(connection: AbstractConnection) -> Any:
    """Read one answer; one that is an error is returned, because those of other commands come after it."""
    try:
        return await connection.read_response()
    except ResponseError as e:
        return e


class _Abrupt(AbstractConnection):
    """A connection that is closed at once.

    redis-py's waits until what was written has been taken, or TLS has said goodbye: a Redis that hangs would keep its sockets.
    """

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*args, **{**kwargs, "nowait": True})


class _Names:
    """Waits until the address of a host can be found.

    A lookup holds a thread of the loop's few until it ends, however soon its caller is gone. One at a time, or a name server that
    hangs would leave none for anybody else: the database's address is looked up in the same threads.
    """

    def __init__(self) -> None:
        self._lookup: asyncio.Task[Any] | None = None

    async def found(self, host: str, port: int) -> None:
        """Return once the host's address is known. Raises OSError."""
        with suppress(ValueError):
            ipaddress.ip_address(host)
            return
        if self._lookup is None or self._lookup.done():
            loop = asyncio.get_running_loop()
            self._lookup = loop.create_task(loop.getaddrinfo(host, port))
        await asyncio.shield(self._lookup)

    async def close(self) -> None:
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.gather(self._lookup, return_exceptions=True)


class _Tcp(_Abrupt, Connection):
    """A connection by TCP."""

    def __init__(self, *, names: _Names, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._names = names

    async def _connect(self) -> None:
        await self._names.found(self.host, self.port)
        await super()._connect()  # type: ignore[no-untyped-call]


class _Tls(_Tcp, SSLConnection):
    """A connection by TLS. All share one context: it takes tens of milliseconds to make, and that is when a connection is due."""

    def __init__(self, *, tls: RedisSSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ssl_context = tls


class _Unix(_Abrupt, UnixDomainSocketConnection):
    """A connection by a socket in the file system."""

    async def _connect(self) -> None:
        # redis-py's own goes on to log in, which its caller does, too: twice the round trips, and a wrong password is told as if
        # there were no connection.
        self._reader, self._writer = await asyncio.open_unix_connection(self.path)


class _Chosen(_Abrupt, SentinelManagedConnection):
    """A connection to the master that the Sentinels name."""


class _ChosenPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master that the Sentinels name, no more than so many."""


class _Unreadable(AuthenticationError):
    """The password's file cannot be read.

    It is a failure of redis-py's kind, because after others redis-py would keep the connection, as one that has logged in.
    """


class _PasswordFile(CredentialProvider):
    """Reads the password at every connect, so that it may change."""

    def __init__(self, user: str, path: str) -> None:
        self._user = user
        self._path = path

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = Path(self._path).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            why = getattr(e, "strerror", None) or "it is not text"
            raise _Unreadable(f"the password cannot be read from {self._path}: {why}") from e
        return (self._user, password) if self._user else (password,)


class _Place(NamedTuple):
    """Where Redis is."""

    shown: str
    """The address as it may be shown: no user, no password, no parameters."""
    scheme: str
    user: str
    password: str
    hosts: list[tuple[str, int]]
    path: str
    service: str
    db: int
    tls: dict[str, str]

    def __repr__(self) -> str:
        return f"_Place({self.shown!r})"

    @classmethod
    def at(cls, url: str) -> "_Place":
        """Take an address apart. Raises ConfigError, which repeats nothing that could be a password."""
        try:
            parts = urlsplit(url)
            parameters = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
        except ValueError:
            raise ConfigError("the address of Redis cannot be understood") from None
        query = dict(parameters)
        scheme = parts.scheme
        if scheme not in ("redis", "rediss", "unix", "redis+sentinel"):
            raise ConfigError("the address of Redis begins with redis://, rediss://, unix:// or redis+sentinel://")
        # Others are none of the address's business: redis-py would let them override our limits.
        known = {"db"} if scheme != "redis+sentinel" else set()
        if scheme == "rediss":
            known |= {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
        if query.keys() - known or parts.fragment:
            raise ConfigError(f"the address of Redis takes no parameters here but {', '.join(sorted(known)) or 'none'}")
        if len(parameters) > len(query):
            raise ConfigError("the address of Redis has a parameter twice")
        login, _, netloc = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        path, service, db = unquote(parts.path), "", parts.path.strip("/")
        hosts: list[tuple[str, int]] = []
        if scheme == "unix":
            if netloc or not path.startswith("/") or path == "/":
                raise ConfigError("the address of a Redis on a socket is unix:///PATH")
            db = ""
        else:
            default = 26379 if scheme == "redis+sentinel" else 6379
            for text in netloc.split(","):
                found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::([0-9]{1,5}))?", text)
                if found is None or not 0 < (port := int(found[3] or default)) < 1 << 16:
                    raise ConfigError("the address of Redis names no host, or a port that is none")
                hosts.append((found[1] or found[2], port))
            if scheme == "redis+sentinel":
                service, _, db = parts.path.removeprefix("/").partition("/")
                service = unquote(service)
                if not service:
                    raise ConfigError("the address of Sentinels names a service: redis+sentinel://HOST,HOST/SERVICE/DB")
            elif len(hosts) > 1:
                raise ConfigError("the address of Redis names one host; Sentinels are redis+sentinel://HOST,HOST/SERVICE/DB")
        if db and "db" in query:
            raise ConfigError("the address of Redis names a database twice, in its path and as ?db=")
        db = db or query.pop("db", "0")
        if not re.fullmatch("[0-9]{1,5}", db):
            raise ConfigError("the address of Redis names a database that is no number")
        where = path if scheme == "unix" else netloc + (f"/{service}" if service else "")
        return cls(
            f"{scheme}://{where}" if scheme == "unix" else f"{scheme}://{where}/{int(db)}",
            scheme,
            unquote(user),
            unquote(password),
            hosts,
            path,
            service,
            int(db),
            {name: value for name, value in query.items() if name != "db"},
        )

    def pool(self, password_file: str, names: _Names) -> tuple[BlockingConnectionPool, Sentinel | None]:
        """Make the pool of connections, and what asks the Sentinels, if there are any. Raises ConfigError."""
        # RESP2 and no introduction: whatever a new connection has to say costs a round trip of its hundred milliseconds.
        plain = {
            "protocol": 2,
            "driver_info": None,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": None,
        }
        one: dict[str, Any] = {**plain, "db": self.db, "max_connections": CONNECTIONS, "timeout": None}
        if password_file:
            one["credential_provider"] = _PasswordFile(self.user, password_file)
        elif self.user or self.password:
            one |= {"username": self.user or None, "password": self.password}
        if self.scheme == "unix":
            return BlockingConnectionPool(connection_class=_Unix, path=self.path, **one), None
        if self.scheme == "redis+sentinel":
            # A Sentinel that hangs leaves the others their time.
            share = DEADLINE / (len(self.hosts) + 1)
            asking = {**plain, "socket_timeout": share, "socket_connect_timeout": share}
            sentinel = Sentinel(self.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
            client = sentinel.master_for(self.service, connection_pool_class=_ChosenPool, connection_class=_Chosen, **one)
            return client.connection_pool, sentinel
        [(host, port)] = self.hosts
        if self.scheme == "redis":
            return BlockingConnectionPool(connection_class=_Tcp, host=host, port=port, names=names, **one), None
        one |= {"names": names, "tls": self._context()}
        return BlockingConnectionPool(connection_class=_Tls, host=host, port=port, **one), None

    def _context(self) -> RedisSSLContext:
        try:
            context = RedisSSLContext(
                keyfile=self.tls.get("ssl_keyfile"),
                certfile=self.tls.get("ssl_certfile"),
                cert_reqs=self.tls.get("ssl_cert_reqs", "required"),
                ca_certs=self.tls.get("ssl_ca_certs"),
                check_hostname=self.tls.get("ssl_check_hostname", "true").lower() not in ("0", "false", "no"),
            )
            context.get()
        except (OSError, RedisError) as e:
            why = getattr(e, "strerror", None) or "a parameter is not what it should be"
            raise ConfigError(f"the TLS of Redis cannot be set up: {why}") from e
        return context
