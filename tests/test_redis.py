"""The second level of the cache, on real Redis servers that fail in every way we could think of."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskctl.cache import redis
from taskctl.cache.redis import Redis
from taskctl.errors import ConfigError, Unavailable
from taskctl.observe import Event, RedisAway, RedisBack, RedisDone, RedisRefuses
from tests.postgres import free_port
from tests.proxy import Proxy
from tests.redis import Server
from tests.simulation import run

SECRET = "s3cr3t-of-nobody"


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """A Redis that runs, with nothing in it."""
    shared.ask("FLUSHALL")
    shared.ask("CONFIG", "RESETSTAT")
    return shared


class Seen:
    """What an observer sees, and a way to wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._grown = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._grown.set()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def trips(self, *commands: str) -> list[RedisDone]:
        return [event for event in self.of(RedisDone) if event.command in commands]

    async def until(self, true: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                self._grown.clear()
                await self._grown.wait()


class Used(NamedTuple):
    """A cache in use."""

    cache: Redis
    seen: Seen

    async def put(self, *puts: tuple[str, int, bytes]) -> None:
        """Put, and wait until it has travelled."""
        before = len(self.seen.trips("EVALSHA", "SCRIPT"))
        for key, seq, body in puts:
            self.cache.put(key, seq, body)
        await self.seen.until(lambda: len(self.seen.trips("EVALSHA", "SCRIPT")) > before and not self.cache._writing)

    async def opens(self) -> str:
        """Ask until the breaker is open, and return what was told of it."""
        for number in range(redis.FAILURES):
            assert not self.cache.open
            began = time.monotonic()
            assert await self.cache.get(f"nothing-{number}") is None
            assert time.monotonic() - began < 0.3
        assert self.cache.open
        began = time.monotonic()
        assert await self.cache.get("a") is None
        assert time.monotonic() - began < 0.05
        [away] = self.seen.of(RedisAway)
        return str(away.detail)

    async def closes(self) -> None:
        """Wait until the breaker is closed, which may take three seconds."""
        began = time.monotonic()
        await self.seen.until(lambda: not self.cache.open, 3.0)
        assert time.monotonic() - began < 3.0
        assert self.seen.of(RedisBack)[-1].seconds > 0


def _sockets() -> int:
    links = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_socket()]
    return len(links)


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """See that a test leaves no task and no socket."""
    tasks, sockets = asyncio.all_tasks(), _sockets()
    yield
    assert asyncio.all_tasks() <= {*tasks, asyncio.current_task()}
    assert _sockets() == sockets


def _connected(port: int) -> int:
    """Return how many connections to a port there are, seen from the side that made them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


@contextlib.asynccontextmanager
async def use(url: str, **options: Any) -> AsyncIterator[Used]:
    """Make a cache, and close it."""
    seen = Seen()
    cache = Redis(url, observer=seen, **options)
    try:
        yield Used(cache, seen)
    finally:
        await cache.close()
    assert not cache._pool._in_use_connections
    assert SECRET not in repr(seen.events)


# What it is for


async def test_what_was_put_is_got(server: Server) -> None:
    async with use(server.url) as it:
        assert await it.cache.get("a") is None
        await it.put(
            ("a", 7, b"milk"), ("empty", 8, b""), ("bytes", 10**16 - 1, bytes(range(256)) * 40), ("ключ \udcff", 1, b"x")
        )
        assert await it.cache.get("a") == (7, b"milk")
        assert await it.cache.get("empty") == (8, b"")
        assert await it.cache.get("bytes") == (10**16 - 1, bytes(range(256)) * 40)
        assert await it.cache.get("ключ \udcff") == (1, b"x")
        assert server.ask("GET", "taskctl:a") == b"0000000000000007milk"
        assert 0 < server.ask("PTTL", "taskctl:a") <= redis.LIFE
        assert {type(event) for event in it.seen.events} == {RedisDone}
    async with use(server.url) as other:
        assert await other.cache.get("a") == (7, b"milk")


async def test_what_is_asked_together_travels_together(server: Server) -> None:
    async with use(server.url) as it:
        for number in range(500):
            it.cache.put(f"k{number}", number, b"body")
        await it.seen.until(lambda: not it.cache._writing)
        assert server.calls("evalsha") <= 2  # the first finds no script
        answers = await asyncio.gather(*(it.cache.get(f"k{number}") for number in range(500)), it.cache.get("k0"))
        assert answers == [*((number, b"body") for number in range(500)), (0, b"body")]
        assert server.calls("mget") == 1
        assert [trip.keys for trip in it.seen.trips("MGET")] == [500]


async def test_any_number_of_callers_at_any_time(server: Server) -> None:
    async with use(server.url) as it:
        await it.put(*((f"k{number}", number, b"body") for number in range(50)))

        async def caller(number: int) -> None:
            for turn in range(5):
                await asyncio.sleep(number % 7 / 10_000)
                wanted = (number + turn) % 50
                assert await it.cache.get(f"k{wanted}") == (wanted, b"body")

        await asyncio.gather(*(caller(number) for number in range(500)))
        assert server.clients() <= redis.CONNECTIONS
        assert server.calls("mget") < 500


@pytest.mark.parametrize("together", [True, False])
async def test_the_newest_stays_whatever_the_order(server: Server, together: bool) -> None:
    async with use(server.url) as it:
        for number, order in enumerate(itertools.permutations([(9, b"old"), (10, b"new"), (10, b"again"), (2, b"first")])):
            key = f"k{number}"
            if together:
                await it.put(*((key, *one) for one in order))
            else:
                for one in order:
                    await it.put((key, *one))
            last = max(order, key=lambda one: (one[0], order.index(one)))
            assert await it.cache.get(key) == last


@pytest.mark.parametrize("stored", [b"", b"123", b"000000000000000x", b"-000000000000001body", "٠".encode() * 16])
async def test_what_is_not_ours_is_a_miss_and_is_replaced(server: Server, stored: bytes) -> None:
    server.ask("SET", "taskctl:a", stored)
    server.ask("RPUSH", "taskctl:b", "not", "a", "text")
    async with use(server.url) as it:
        assert [await it.cache.get("a"), await it.cache.get("b")] == [None, None]
        await it.put(("a", 1, b"one"), ("b", 2, b"two"))
        assert [await it.cache.get("a"), await it.cache.get("b")] == [(1, b"one"), (2, b"two")]


async def test_an_emptied_redis(server: Server) -> None:
    async with use(server.url) as it:
        await it.put(("a", 5, b"five"))
        server.ask("FLUSHALL")
        assert await it.cache.get("a") is None
        await it.put(("a", 4, b"four"))
        assert await it.cache.get("a") == (4, b"four")
        server.ask("SCRIPT", "FLUSH")
        await it.put(("a", 6, b"six"), ("b", 6, b"six"))
        assert [await it.cache.get("a"), await it.cache.get("b")] == [(6, b"six")] * 2
        assert it.cache.dropped == 0


async def test_clear_removes_what_is_ours(server: Server) -> None:
    async with use(server.url) as it:
        server.ask("SET", "other:1", "stays")
        await it.put(*((f"k{number}", 1, b"") for number in range(2_500)))
        assert await it.cache.clear() == 2_500
        assert server.ask("KEYS", "*") == [b"other:1"]
        assert await it.cache.clear() == 0
    async with use(f"redis://127.0.0.1:{free_port()}") as it:
        with pytest.raises(Unavailable, match="Connection refused"):
            await it.cache.clear()


async def test_what_waits_is_bounded(server: Server) -> None:
    async with use(server.url) as it:
        it.cache.put("long", 1, bytes(redis.TRIP_BYTES_MAX))
        it.cache.put("negative", -1, b"")
        it.cache.put("beyond", 10**16, b"")
        assert it.cache.dropped == 3
        for number in range(redis.PUTS_MAX + 10):
            it.cache.put(f"k{number}", 1, b"")
        assert it.cache.dropped == 13
        await it.seen.until(lambda: not it.cache._writing)
        assert await it.cache.get("k9") is None
        assert await it.cache.get("k10") == (1, b"")
        for number in range(20):
            it.cache.put(f"big{number}", 1, bytes(redis.TRIP_BYTES_MAX // 2))
            assert it.cache._put_bytes <= redis.PUT_BYTES_MAX
        assert it.cache.dropped == 13 + 5
        for number in range(redis.NAMES_MAX + 1):
            it.cache.publish(f"w{number}")
        assert len(it.cache._news) == redis.NAMES_MAX
        await it.seen.until(lambda: not it.cache._writing)
        assert it.cache._put_bytes == 0


# Telling others


async def test_others_hear_what_is_published(server: Server) -> None:
    async with use(server.url) as one, use(server.url) as other:
        heard: asyncio.Queue[str] = asyncio.Queue()
        own: list[str] = []
        other.cache.listen(heard.put_nowait)
        one.cache.listen(own.append)
        await _subscribed(server, 2)
        for _ in range(3):
            one.cache.publish("default")
        one.cache.publish("küche")
        assert [await heard.get(), await heard.get()] == ["default", "küche"]
        assert server.calls("publish") == 2
        one.cache.put("a", 1, b"body")
        one.cache.publish("default")
        assert await heard.get() == "default"
        assert await other.cache.get("a") == (1, b"body")
        server.ask("PUBLISH", "taskctl:changed", "by hand")
        assert await heard.get() == "by hand"
        assert heard.empty()
        assert own in ([], ["by hand"])


async def test_listening_goes_on_after_a_restart_and_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "QUIET", 0.1)
    with Server() as server, Proxy(server.port) as proxy:
        async with use(server.url) as one, use(f"redis://127.0.0.1:{proxy.port}") as other:
            heard: asyncio.Queue[str] = asyncio.Queue()
            other.cache.listen(heard.put_nowait)
            await _subscribed(server, 1)
            server.stop()
            server.start()
            await _subscribed(server, 1)
            one.cache.publish("after the restart")
            assert await heard.get() == "after the restart"
            proxy.hang()
            subscribers = server.ask("CLIENT", "LIST", "TYPE", "pubsub")
            await asyncio.sleep(3 * redis.QUIET)  # nothing tells that it has given the connection up
            proxy.go_on()
            async with asyncio.timeout(5):
                while server.ask("CLIENT", "LIST", "TYPE", "pubsub").split()[:1] in (subscribers.split()[:1], []):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            one.cache.publish("after the silence")
            assert await heard.get() == "after the silence"


async def _subscribed(server: Server, number: int) -> None:
    async with asyncio.timeout(5):
        while server.ask("PUBSUB", "NUMSUB", "taskctl:changed") != [b"taskctl:changed", number]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# Everything that goes wrong


async def test_down_from_the_start() -> None:
    with Server(started=False) as server:
        async with use(server.url) as it:
            it.cache.listen(lambda _: None)
            await it.seen.until(lambda: it.cache.open)  # and not only after some requests
            assert [away.detail for away in it.seen.of(RedisAway)] == [f"redis://127.0.0.1:{server.port}/0: Connection refused"]
            it.cache.put("a", 1, b"body")
            it.cache.publish("default")
            assert it.cache.dropped == 1
            server.start()
            await it.closes()
            await it.put(("a", 1, b"body"))
            assert await it.cache.get("a") == (1, b"body")


async def test_killed_and_started_again() -> None:
    with Server() as server:
        async with use(server.url) as it:
            await it.put(("a", 1, b"body"))
            server.stop()
            server.start()
            await asyncio.sleep(0.01)  # until the loop has seen that the connections have gone
            assert await it.cache.get("a") is None  # one that was away unnoticed is no failure
            assert not [trip for trip in it.seen.of(RedisDone) if trip.failed]
            await it.put(("a", 1, b"body"))
            server.stop()
            await it.opens()
            server.start()
            await it.closes()
            await it.put(("a", 2, b"body"))
            assert await it.cache.get("a") == (2, b"body")


async def test_a_redis_that_hangs(server: Server) -> None:
    async with use(server.url) as it:
        await it.put(("a", 1, b"body"))
        with server.suspended():
            assert (await it.opens()).endswith(": no answer within 0.1 s")
        await it.closes()
        assert await it.cache.get("a") == (1, b"body")
        # Many at once wait no longer than one, and what they waited for is one failure.
        with server.suspended():
            before = len(it.seen.trips("MGET"))
            assert await asyncio.gather(*(it.cache.get(f"k{number}") for number in range(2_000))) == [None] * 2_000
            assert len(it.seen.trips("MGET")) - before <= redis.READS
            for number in range(3):  # more than the sockets take
                it.cache.put(f"late{number}", 1, bytes(redis.TRIP_BYTES_MAX - 100))
            await it.seen.until(lambda: it.cache.dropped == 3)
            await it.cache.close()
            assert not it.cache._tasks


@pytest.mark.parametrize("number", [4, 2 * redis.KEYS_MAX])
def test_a_slow_redis_takes_no_more_time_of_those_who_wait_for_their_turn(tmp_path: Path, number: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(1 << 20):
            await asyncio.sleep(0.07)
            keys = asked.count(b"taskctl:")
            writer.write(b"*%d\r\n" % keys + b"$17\r\n0000000000000007x\r\n" * keys)
        writer.close()

    async def work() -> None:
        loop = asyncio.get_running_loop()

        async def get(key: int) -> tuple[float, object]:
            began = loop.time()
            found = await it.cache.get(f"{key}")
            return loop.time() - began, found

        async with await asyncio.start_unix_server(serve, tmp_path / "redis"), use(f"unix://{tmp_path}/redis") as it:
            asking = []
            for keys in (range(1), range(1, 2), range(2, number)):  # two round trips, and those who wait for them
                asking += [asyncio.create_task(get(key)) for key in keys]
                await asyncio.sleep(0.01)
            answers = await asyncio.gather(*asking)
            assert {found for _, found in answers} == {(7, b"x"), None}
            assert max(seconds for seconds, _ in answers) == pytest.approx(redis.DEADLINE)
            # That others were before them is no failure of Redis.
            assert not [trip for trip in it.seen.of(RedisDone) if trip.failed]
            assert (await get(1))[1] == (7, b"x")

    run(work)


async def test_a_network_that_swallows(server: Server) -> None:
    with Proxy(server.port) as proxy:
        async with use(f"redis://127.0.0.1:{proxy.port}") as it:
            await it.put(*((f"k{number}", number, b"body") for number in range(10)))
            proxy.hang()
            await it.opens()
            proxy.go_on()
            await it.closes()
            for number in range(10):
                assert await it.cache.get(f"k{number}") == (number, b"body")


async def test_an_answer_that_comes_late_is_nobody_elses(server: Server) -> None:
    with Proxy(server.port) as proxy:
        async with use(f"redis://127.0.0.1:{proxy.port}") as it:
            await it.put(*((f"k{number}", number, b"body") for number in range(50)))
            for number in range(0, 50, 2):
                (proxy.hang if number % 10 == 0 else proxy.cut)()
                first = asyncio.create_task(it.cache.get(f"k{number}"))
                await (it.seen.until(lambda: not it.cache._lanes) if number % 10 == 0 else asyncio.sleep(0.001))
                proxy.go_on()
                assert await first in (None, (number, b"body"))
                assert await it.cache.get(f"k{number + 1}") in (None, (number + 1, b"body"))
            assert not it.cache._pool._in_use_connections
            assert len(it.cache._pool._available_connections) <= redis.CONNECTIONS


async def test_one_that_leaves_takes_nothing_from_the_others(server: Server) -> None:
    async with use(server.url) as it:
        await it.put(("a", 1, b"body"), ("b", 2, b"body"))
        for turns in range(6):  # at every moment of the round trip
            leaving = [asyncio.create_task(it.cache.get(key)) for key in ("a", "b", "a")]
            staying = [asyncio.create_task(it.cache.get(key)) for key in ("a", "b")]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            assert await asyncio.gather(*staying) == [(1, b"body"), (2, b"body")]
            await asyncio.gather(*leaving, return_exceptions=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await it.cache.get("a")
        assert await it.cache.get("a") == (1, b"body")


async def test_a_full_redis_can_still_be_read(server: Server) -> None:
    async with use(server.url) as it, use(server.url) as other:
        heard: asyncio.Queue[str] = asyncio.Queue()
        other.cache.listen(heard.put_nowait)
        await _subscribed(server, 1)
        await it.put(("a", 1, b"body"))
        server.ask("CONFIG", "SET", "maxmemory", 1)
        try:
            for number in range(20):
                it.cache.put(f"k{number}", 1, b"body")
                it.cache.publish(f"w{number}")
                assert await heard.get() == f"w{number}"
                assert await it.cache.get("a") == (1, b"body")
            assert it.cache.dropped == 20
            assert [refused.detail for refused in it.seen.of(RedisRefuses)] == [f"{server.url}: it is full"]
            assert [trip.failed for trip in it.seen.trips("EVALSHA")][-1]
            assert len(it.seen.trips("EVALSHA")) <= 3  # it is not asked again and again
        finally:
            server.ask("CONFIG", "SET", "maxmemory", 0)
        assert not it.seen.of(RedisAway)
        it.cache._refused_until = 0.0
        await it.put(("b", 1, b"body"))
        assert await it.cache.get("b") == (1, b"body")


async def test_a_replica_is_read_only() -> None:
    with Server() as server:
        async with use(server.url) as it:
            await it.put(("a", 1, b"body"))
            server.ask("REPLICAOF", "127.0.0.1", free_port())
            it.cache.put("b", 1, b"body")
            it.cache.publish("default")
            await it.seen.until(lambda: it.cache.dropped == 1)
            assert await it.cache.get("a") == (1, b"body")
            with pytest.raises(Unavailable, match="it is a replica, which only its master may write to"):
                await it.cache.clear()
            assert not it.seen.of(RedisAway)
            # One that may not be read answers PING, and is no help all the same.
            server.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
            it.cache._failures = 0
            assert (await it.opens()).endswith(": it is a replica that has lost its master")
            await it.seen.until(lambda: len(it.seen.trips("PING")) == 1)
            assert it.cache.open
            server.ask("REPLICAOF", "NO", "ONE")
            await it.closes()


async def test_passwords(tmp_path: Path) -> None:
    file = tmp_path / "password"
    with Server(f"requirepass {SECRET}") as server:
        address = f"127.0.0.1:{server.port}/0"
        async with use(f"redis://:{SECRET}@{address}") as it:
            await it.put(("a", 1, b"body"))
            assert await it.cache.get("a") == (1, b"body")
        for wrong in (f"redis://:{SECRET}%20@{address}", f"redis://nobody:{SECRET}@{address}", f"redis://{address}"):
            async with use(wrong) as it:
                assert await it.opens() == f"redis://{address}: it does not accept the user or the password"
        async with use(f"redis://default:wrong@{address}", password_file=str(file)) as it:
            told = await it.opens()
            assert told == f"redis://{address}: the password cannot be read from {file}: No such file or directory"
            file.write_text(f"{SECRET}\n")
            await it.closes()
            assert await it.cache.get("a") == (1, b"body")
            # It is read at every connect, so it may change.
            server.ask("CONFIG", "SET", "requirepass", "another")
            server.password = "another"
            file.write_text("another")
            server.ask("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.01)
            assert await it.cache.get("a") == (1, b"body")
        async with use(f"unix://:another@{server.socket}?db=0") as it:
            assert await it.cache.get("a") == (1, b"body")
            assert server.calls("auth") > 0
        async with use(f"unix://{server.socket}", password_file=str(tmp_path / "nothing")) as it:
            assert "cannot be read" in await it.opens()
        async with use(f"unix://{server.socket}") as it:
            assert await it.opens() == f"unix://{server.socket}: it does not accept the user or the password"
    async with use(f"unix://{tmp_path}/none") as it:
        assert await it.opens() == f"unix://{tmp_path}/none: No such file or directory"


async def test_what_is_no_redis() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with use(f"redis://127.0.0.1:{port}") as it:
            assert (await it.opens()).endswith("does not answer as a Redis does")
    async with use("redis://nowhere.invalid") as it:
        assert (await it.opens()).startswith("redis://nowhere.invalid/0: ")
    async with use("redis://127.0.0.1:1/99") as it:
        assert await it.cache.get("a") is None


async def test_a_database_that_is_not_there(server: Server) -> None:
    async with use(f"{server.url}9999") as it:
        assert (await it.opens()).endswith(": it has no database of this number")
    async with use(f"redis://127.0.0.1:{server.port}/1") as it:
        await it.put(("a", 1, b"body"))
        assert await it.cache.get("a") == (1, b"body")
        assert server.ask("EXISTS", "taskctl:a") == 0


async def test_what_redis_refuses_is_told_in_our_words(server: Server) -> None:
    async def told(url: str = server.url) -> tuple[str, str]:
        """Return why Redis takes nothing, if it does not, and why it cannot be cleared, if it cannot."""
        async with use(url) as it:
            it.cache.put("a", 1, b"body")
            await it.seen.until(lambda: it.seen.trips("EVALSHA", "SCRIPT") != [] and not it.cache._writing)
            try:
                await it.cache.clear()
            except Unavailable as e:
                cleared = e.detail
            else:
                cleared = ""
            return "".join(refused.detail for refused in it.seen.of(RedisRefuses)), cleared

    shown, cannot = f"{server.url}: ", "the Redis that it shares cannot be emptied: "
    assert await told() == ("", "")
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    assert await told() == (f"{shown}it has too few replicas to take anything", "")
    server.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    for user, rights in (("nobody", "-@all"), ("reader", "+@all -set -scan"), ("stranger", "+@all -evalsha -scan")):
        server.ask("ACL", "SETUSER", user, "on", ">none", "~*", "&*", *rights.split())
        may_not = f"{shown}its user may not do all that is needed here"
        assert await told(f"redis://{user}:none@127.0.0.1:{server.port}/0") == (may_not, cannot + may_not)
        server.ask("ACL", "DELUSER", user)
    with Server("rename-command MGET nothing") as lacking:
        async with use(lacking.url) as it:
            assert (await it.opens()).endswith("/0: it does not know a command that is needed here")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("LOADING Redis is loading the dataset in memory", "it is still reading its own data"),
        ("BUSY Redis is busy running a script.", "it is busy with a script of somebody's"),
        ("MISCONF Redis is configured to save RDB snapshots", "it cannot write to its own disk, and takes nothing until it can"),
        ("MOVED 3999 127.0.0.1:6381", "it is a Redis Cluster, and that is not supported"),
        ("CLUSTERDOWN Hash slot not served", "it is a Redis Cluster, and that is not supported"),
        ("ERR max number of clients reached", "it has no connection left for us"),
        ("NEWWORD about taskctl:a", "it answers with an error (NEWWORD)"),
        ("ERR OOM READONLY taskctl:a", "it answers with an error"),
    ],
)
async def test_what_redis_answers_instead_is_told_in_our_words(said: str, told: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            writer.write(f"-{said}\r\n".encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with use(f"redis://127.0.0.1:{port}") as it:
            assert await it.opens() == f"redis://127.0.0.1:{port}/0: {told}"


async def test_closing_leaves_nothing(server: Server) -> None:
    async with use(server.url) as it:
        it.cache.listen(lambda _: None)
        await _subscribed(server, 1)
        with server.suspended():
            waiting = [asyncio.create_task(it.cache.get(f"k{number}")) for number in range(5)]
            it.cache.put("a", 1, b"body")
            await asyncio.sleep(0.01)
            await it.cache.close()
            assert await asyncio.gather(*waiting) == [None] * 5
        it.cache.put("a", 1, b"body")
        it.cache.publish("default")
        it.cache.listen(lambda _: None)
        assert await it.cache.get("a") is None
        with pytest.raises(Unavailable):
            await it.cache.clear()
    cache = Redis(server.url)  # one that nobody has used
    await cache.close()


async def test_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    answers = threading.Event()

    def hang(*question: object, **_: object) -> list[Any]:
        asked.append(question)
        answers.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)  # nothing here could make the real one hang
    try:
        async with use("redis://redis.example") as it:
            assert await it.opens() == "redis://redis.example/0: no answer within 0.1 s"
            it.cache.listen(lambda _: None)
            await it.seen.until(lambda: len(it.seen.trips("PING")) == 1)
            assert len(asked) == 1
            answers.set()
            await it.seen.until(lambda: len(it.seen.trips("PING")) == 2)
            assert it.cache.open
    finally:
        answers.set()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://:{SECRET}@localhost",
        f"redis://:{SECRET}@",
        f"redis://:{SECRET}/@localhost",
        f"redis://:{SECRET}@localhost:{SECRET}",
        f"redis://:{SECRET}@localhost:99999",
        f"redis://localhost/{SECRET}",
        "redis://localhost/-1",
        "redis://one,two",
        f"redis://localhost?socket_timeout=60&password={SECRET}",
        f"redis://localhost?{SECRET}",
        f"redis://localhost#{SECRET}",
        f"redis://[{SECRET}",
        f"unix://{SECRET}",
        f"unix://:{SECRET}@",
        f"redis+sentinel://:{SECRET}@one,two",
        "redis+sentinel://one,/service",
        "redis+sentinel://one/service/x",
        f"rediss://:{SECRET}@localhost?ssl_ca_certs=/does/not/exist",
        f"rediss://:{SECRET}@localhost?ssl_cert_reqs=perhaps",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Redis(url)
    assert SECRET not in repr(caught.value)
    assert caught.value.__suppress_context__ or SECRET not in repr(caught.value.__context__)


@pytest.mark.parametrize("url", ["redis://localhost/1?db=2", "rediss://localhost/1?db=1", "redis://localhost?db=1&db=2"])
def test_an_address_names_one_database(url: str) -> None:
    with pytest.raises(ConfigError, match="twice"):
        Redis(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p%40@localhost", "redis://localhost/0"),
        ("redis://[::1]:7000/3", "redis://[::1]:7000/3"),
        ("redis://localhost?db=4", "redis://localhost/4"),
        ("rediss://:p@redis.example:6380/", "rediss://redis.example:6380/0"),
        ("unix://:p@/run/a%20b?db=2", "unix:///run/a b"),
        ("redis+sentinel://u:p@one,two:1/main/2", "redis+sentinel://one,two:1/main/2"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    place = redis._Place.at(url)
    assert place.shown == shown
    assert repr(place) == f"_Place({shown!r})"


# Other ways to a Redis


async def test_tls(server: Server, tmp_path: Path) -> None:
    """The server in the wheel has no TLS: something in front of it has."""
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"), "-days", "2"]
    subprocess.run(  # noqa: ASYNC221  # nothing else runs yet
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *names, *files],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, to_there), pump(there, writer))
        done.set()

    done = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        port = listening.sockets[0].getsockname()[1]
        address = f"127.0.0.1:{port}"
        cache = Redis(f"rediss://{address}?ssl_ca_certs={tmp_path}/cert", observer=(seen := Seen()))
        it = Used(cache, seen)
        await it.put(("a", 1, b"body"))
        assert await cache.get("a") == (1, b"body")
        done.clear()
        await cache.close()
        await done.wait()
        with Proxy(port) as proxy:  # TLS says goodbye, and would wait long for one that does not answer
            done.clear()
            async with use(f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={tmp_path}/cert") as it:
                assert await it.cache.get("a") == (1, b"body")
                proxy.hang()
                assert _connected(proxy.port) == 1
                await it.cache.close()
                assert _connected(proxy.port) == 0
        await done.wait()
        async with use(f"rediss://{address}") as it:
            assert await it.opens() == f"rediss://{address}/0: TLS fails: certificate verify failed"


async def test_sentinels_name_the_master() -> None:
    with Server() as one, Server(f"replicaof 127.0.0.1 {one.port}") as two:
        settings = [
            f"sentinel monitor main 127.0.0.1 {one.port} 1",
            "sentinel down-after-milliseconds main 300",
            "sentinel failover-timeout main 2000",
        ]
        with Server(*settings, sentinel=True) as sentinel, Proxy(sentinel.port) as hangs:
            hangs.hang()
            hosts = f"127.0.0.1:{free_port()},127.0.0.1:{hangs.port},127.0.0.1:{sentinel.port}"
            async with use(f"redis+sentinel://{hosts}/main/0") as it:
                await it.put(("a", 1, b"body"))
                assert await it.cache.get("a") == (1, b"body")
                assert one.ask("EXISTS", "taskctl:a") == 1
                async with asyncio.timeout(10):
                    while two.ask("EXISTS", "taskctl:a") == 0 or not sentinel.ask("SENTINEL", "replicas", "main"):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                one.stop()
                async with asyncio.timeout(15):
                    while await it.cache.get("a") is None:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                it.cache._refused_until = 0.0
                await it.put(("b", 2, b"body"))
                assert two.ask("GET", "taskctl:b") == b"0000000000000002body"
    async with use(f"redis+sentinel://127.0.0.1:{free_port()}/main") as it:
        assert (await it.opens()).endswith("/main/0: no Sentinel names a master that is up")
