"""What a server on PostgreSQL does when the database, the network or the server itself fails. `make test-faults` runs it.

Every server is a `taskctl serve` process of its own, every PostgreSQL one that the test may stop and kill.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psycopg2
import pytest

from taskctl import Settings
from taskctl.wiring import check
from tests.postgres import Cluster, ask
from tests.proxy import Proxy
from tests.support import Server, Shell, serving

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

KNOWN_SECONDS, SILENT_SECONDS, BACK_SECONDS = 0.3, 1.0, 2.0
"""How soon an answer has to come while the database is known to be away, when it has just fallen silent, and after it is back."""
SHUT_OUT = {"unavailable", "overloaded"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    try:
        found.tasks()
        yield found
    finally:
        found.close()


@pytest.fixture
def url(cluster: Cluster) -> str:
    """Return the address of an empty database on a server that runs."""
    if cluster.process is None:
        cluster.start()
    found = cluster.url("tasks")
    ask(found, "TRUNCATE tasks, task_labels, log, idempotency_keys", "UPDATE workspaces SET seq = 0, next_id = 1, written_at = 0")
    return found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@contextmanager
def serving_through(shell: Shell, cluster: Cluster, *options: str) -> Iterator[tuple[Server, Proxy]]:
    """Run a server whose way to the database goes through a proxy."""
    with Proxy(cluster.port) as proxy:
        url = f"postgresql://taskctl@127.0.0.1:{proxy.port}/tasks"
        with serving(shell, "--database-url", url, *options) as server:
            yield server, proxy


class Api:
    """The API of a server, and how long it took to answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = f"{url}/api/v1"
        self.root = url

    async def __call__(self, method: str, path: str, **more: Any) -> tuple[int, Any, float]:
        started = time.perf_counter()
        headers = {"Cache-Control": "no-cache", **more.pop("headers", {})}  # it is the database that is looked at here
        async with self.session.request(method, self.url + path, headers=headers, **more) as answer:
            body = await answer.json(content_type=None)
            return answer.status, body, time.perf_counter() - started

    async def asked(self, path: str) -> str:
        """Return where an answer comes from if nothing else is wanted."""
        async with self.session.get(self.url + path) as answer:
            return answer.headers["Cache-Status"]

    async def add(self, title: str) -> int:
        """Add a task and return its id. Raises AssertionError with the answer if it was not added."""
        status, body, _ = await self("POST", "/tasks", json={"title": title})
        assert status == 201, body
        return int(body["id"])

    async def some(self) -> list[tuple[int, Any, float]]:
        """Ask for different things, one after another."""
        return [
            await self("GET", "/tasks/1"),
            await self("GET", "/tasks"),
            await self("POST", "/tasks", json={"title": "t"}),
            await self("GET", "/stats"),
            await self("PATCH", "/tasks/1", json={"priority": "high"}),
        ]

    async def back(self) -> float:
        """Return how long it takes until reads and writes work again."""
        started = time.perf_counter()
        while True:
            answers = [await self("GET", "/tasks/1"), await self("PATCH", "/tasks/1", json={"title": str(started)})]
            if all(status == 200 for status, _, _ in answers):
                return time.perf_counter() - started
            assert all(status == 503 for status, _, _ in answers if status != 200), answers
            assert time.perf_counter() - started < 30
            await asyncio.sleep(0.02)

    async def probe(self, path: str) -> int:
        async with self.session.get(self.root + path) as answer:
            return answer.status


@asynccontextmanager
async def api_of(server: Server) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield Api(session, server.url)


def told(answers: list[tuple[int, Any, float]], within: float) -> None:
    """See that all answers say that the database is away, in time, and in our words."""
    for status, body, seconds in answers:
        assert (status, body["code"] in SHUT_OUT, body["retryable"]) == (503, True, True), body
        assert "psycopg2" not in str(body)
        assert seconds < within, (seconds, body)


QUIET = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'tasks' AND application_name = 'taskctl' AND state <> 'idle'"


def became_true(url: str, question: str) -> bool:
    """Return whether the answer is true, within five seconds."""
    deadline = time.monotonic() + 5
    while ask(url, question) != [(True,)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def test_what_is_remembered_is_given_for_two_seconds_of_an_outage(cluster: Cluster, shell: Shell) -> None:
    with serving_through(shell, cluster) as (server, proxy):
        async with api_of(server) as api:
            await api.add("first")
            remembered = {"headers": {"Cache-Control": "max-stale"}}
            while "hit" not in (await api.asked("/tasks/1")):
                pass
            proxy.refuse()
            began = time.perf_counter()
            while (await api("GET", "/tasks/1", **remembered))[0] == 200:
                assert time.perf_counter() - began < 2.5
            given = time.perf_counter() - began
            assert given > 0.5  # it was of use
            status, body, _ = await api("GET", "/tasks/1", **remembered)
            assert (status, body["code"]) == (503, "unavailable")
            proxy.accept()
            await api.back()


Fault = Callable[[Cluster, Proxy], None]
FAULTS: dict[str, tuple[Fault, Fault]] = {
    "restart": (lambda cluster, _: cluster.stop(), lambda cluster, _: cluster.start()),
    "kill -9": (lambda cluster, _: cluster.stop(signal.SIGKILL), lambda cluster, _: cluster.start()),
    "refused": (lambda _, proxy: proxy.refuse(), lambda _, proxy: proxy.accept()),
    "black hole": (lambda _, proxy: proxy.hang(), lambda _, proxy: proxy.go_on()),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_outage_is_told_at_once_and_is_over_soon_after(url: str, cluster: Cluster, shell: Shell, fault: str) -> None:
    fail, mend = FAULTS[fault]
    with serving_through(shell, cluster) as (server, proxy):
        async with api_of(server) as api:
            await api.add("first")
            first, files = [], 0
            for number in range(5):
                await asyncio.to_thread(fail, cluster, proxy)
                status, body, seconds = await api("GET", "/tasks/1")
                assert (status, body["code"]) == (503, "unavailable"), body
                first.append(seconds)
                told(await api.some(), KNOWN_SECONDS)
                assert (await api.probe("/livez"), await api.probe("/readyz")) == (200, 503)
                await asyncio.to_thread(mend, cluster, proxy)
                assert await api.back() < BACK_SECONDS
                assert await api.probe("/readyz") == 200
                open_files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
                files = files if number else open_files
                assert open_files <= files + 12  # connections come and go; descriptors do not pile up
            assert median(first) < SILENT_SECONDS, first
    await whole(url)


async def test_a_database_that_is_stopped_is_told_in_a_second(url: str, cluster: Cluster, shell: Shell) -> None:
    with serving(shell, "--database-url", url) as server:
        async with api_of(server) as api:
            await api.add("first")
            first = []
            for _ in range(5):
                with cluster.suspended():
                    found = await asyncio.gather(*(api("GET", f"/tasks?limit={n + 1}") for n in range(20)))
                    first.append(max(seconds for _, _, seconds in found))
                    told(found, SILENT_SECONDS * 1.5)
                    told(await api.some(), KNOWN_SECONDS)
                assert await api.back() < BACK_SECONDS
            assert median(first) < SILENT_SECONDS, first
    await whole(url)


async def test_an_honest_slow_statement_is_not_taken_for_an_outage(url: str, shell: Shell) -> None:
    with serving(shell, "--database-url", url) as server:
        async with api_of(server) as api:
            await api.add("first")
            with psycopg2.connect(url) as held:
                held.cursor().execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
                slow = asyncio.ensure_future(api("GET", "/tasks"))
                await asyncio.sleep(2.5)
                assert not slow.done()
                assert (await api("GET", "/changes"))[0] == 200
                held.rollback()
            held.close()
            assert (await slow)[0] == 200


async def test_a_full_pool_is_told_and_serves_again(url: str, shell: Shell) -> None:
    with serving(shell, "--database-url", url, "--database-connections", "4", "--database-timeout", "1") as server:
        async with api_of(server) as api:
            await api.add("first")
            with psycopg2.connect(url) as held:
                held.cursor().execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
                found = await asyncio.gather(*(api("GET", f"/tasks?limit={n + 1}") for n in range(40)))
                told(found, 4.0)
                held.rollback()
            held.close()
            assert await api.back() < BACK_SECONDS


async def test_ended_backends_and_slow_statements_leave_nothing_behind(url: str, shell: Shell) -> None:
    mine = "SELECT {} FROM pg_stat_activity WHERE datname = 'tasks' AND application_name = 'taskctl'"
    with serving(shell, "--database-url", url, "--database-connections", "6", "--database-timeout", "1") as server:
        async with api_of(server) as api:
            await api.add("first")
            codes: Counter[str] = Counter()

            async def caller(number: int) -> None:
                rng = random.Random(number)
                for _ in range(25):
                    call = rng.choice((("GET", "/tasks/1"), ("GET", "/tasks"), ("PATCH", "/tasks/1")))
                    body: Any = {"json": {"title": str(rng.random())}} if call[0] == "PATCH" else {}
                    try:
                        async with asyncio.timeout(rng.choice((0.005, 0.02, 10.0))):
                            status, answer, _ = await api(*call, **body)
                    except TimeoutError:
                        codes["left"] += 1
                    else:
                        codes[answer["code"] if status != 200 else "ok"] += 1

            async def chaos() -> None:
                for number in range(12):
                    await asyncio.sleep(0.1)
                    sql = mine.format("pg_terminate_backend(pid)" if number % 2 else "pg_cancel_backend(pid)")
                    await asyncio.to_thread(ask, url, sql)

            await asyncio.gather(chaos(), *(caller(n) for n in range(64)))
            assert codes.keys() <= {"ok", "left", "unavailable", "overloaded"}, codes
            assert codes["ok"] > 100
            assert codes["left"] > 50
            assert await api.back() < BACK_SECONDS
            assert ask(url, mine.format("count(*)"))[0][0] <= 6
            assert await asyncio.to_thread(became_true, url, QUIET)
        assert server.stop() == 0
    await whole(url)


# ------------------------------------------------------------------------------------------------------ kills during writes


async def whole(url: str) -> list[str]:
    """Return the titles of the tasks, after seeing that the log has no gap and the tasks are what it says."""
    found = await asyncio.to_thread(check, Settings(database_url=url))
    assert set(found.values()) == {"ok"}, found
    return [title for (title,) in ask(url, "SELECT title FROM tasks")]


class Writers:
    """Callers who add tasks with titles of their own, and what became of each title."""

    def __init__(self) -> None:
        self.added: set[str] = set()
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        self._numbers = iter(range(10**9))

    async def go_on(self, api: Api, until: asyncio.Event) -> None:
        while not until.is_set():
            title = f"task {next(self._numbers)}"
            try:
                status, body, _ = await api("POST", "/tasks", json={"title": title})
            except (aiohttp.ClientError, TimeoutError):
                self.unknown.add(title)
                await asyncio.sleep(0.01)
                continue
            if status == 201:
                self.added.add(title)
            else:
                assert status == 503, body
                (self.unknown if body["code"] == "outcome_unknown" else self.refused).add(title)
                await asyncio.sleep(0.01)

    def judge(self, titles: list[str]) -> None:
        found = Counter(titles)
        assert not self.added - found.keys(), "acknowledged writes are lost"
        assert max(found.values()) == 1, "writes were done twice"
        assert not self.refused & found.keys(), "a write that was refused has happened"
        assert found.keys() <= self.added | self.unknown


async def test_twenty_kills_of_postgresql_lose_nothing(url: str, cluster: Cluster, shell: Shell) -> None:
    writers = Writers()
    with serving(shell, "--database-url", url) as server:
        async with api_of(server) as api:
            rng = random.Random(3)
            for _ in range(20):
                stop = asyncio.Event()
                callers = [asyncio.ensure_future(writers.go_on(api, stop)) for _ in range(16)]
                await asyncio.sleep(0.1 + rng.random() * 0.2)
                await asyncio.to_thread(cluster.stop, signal.SIGKILL)
                await asyncio.to_thread(cluster.start)
                await asyncio.sleep(0.3)
                stop.set()
                await asyncio.gather(*callers)
            assert len(writers.added) > 500
            assert await asyncio.to_thread(became_true, url, QUIET)
    writers.judge(await whole(url))


async def test_twenty_kills_of_the_server_lose_nothing(url: str, shell: Shell) -> None:
    writers = Writers()
    rng = random.Random(4)
    for _ in range(20):
        with serving(shell, "--database-url", url) as server:
            async with api_of(server) as api:
                stop = asyncio.Event()
                callers = [asyncio.ensure_future(writers.go_on(api, stop)) for _ in range(16)]
                await asyncio.sleep(0.1 + rng.random() * 0.3)
                server.process.kill()
                stop.set()
                await asyncio.gather(*callers)
    assert len(writers.added) > 500
    assert await asyncio.to_thread(became_true, url, QUIET)  # what a killed server had on its way may still be ending there
    writers.judge(await whole(url))


async def test_a_stopped_server_does_not_hold_a_workspace(url: str, shell: Shell) -> None:
    with serving(shell, "--database-url", url) as stopped, serving(shell, "--database-url", url) as other:
        async with api_of(stopped) as first, api_of(other) as second:
            await first.add("first")
            rng = random.Random(5)
            for _ in range(5):
                stop = asyncio.Event()
                writers = Writers()
                callers = [asyncio.ensure_future(writers.go_on(first, stop)) for _ in range(16)]
                await asyncio.sleep(0.05 + rng.random() * 0.1)
                stopped.process.send_signal(signal.SIGSTOP)
                try:
                    started = time.perf_counter()
                    status, body, _ = await second("POST", "/tasks", json={"title": "second"})
                    assert status == 201, body
                    assert time.perf_counter() - started < 3
                finally:
                    stopped.process.send_signal(signal.SIGCONT)
                    stop.set()
                await asyncio.gather(*callers)
    await whole(url)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_is_sent_three_times_to_a_server_that_is_killed_happens_once(kind: str, url: str, shell: Shell) -> None:
    rng = random.Random(6)
    waiting = [f"key-{n}" for n in range(500)] * 3
    rng.shuffle(waiting)
    answers: dict[str, set[int]] = {}
    kills = 0
    options = ["--database-url", url] if kind == "postgres" else []

    async def send(session: aiohttp.ClientSession, server: Server) -> None:
        while waiting and server.process.poll() is None:
            key = waiting.pop()
            try:
                async with session.post(
                    f"{server.url}/api/v1/tasks", json={"title": key}, headers={"Idempotency-Key": key}
                ) as answer:
                    task = await answer.json(content_type=None)
                    if answer.status == 201:
                        assert task["title"] == key
                        answers.setdefault(key, set()).add(task["id"])
                        continue
                    assert answer.status == 503, task
            except aiohttp.ClientError:
                pass
            waiting.append(key)

    while waiting:
        until = len(waiting) - rng.randint(40, 160)
        with serving(shell, *options) as server:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
                callers = [asyncio.ensure_future(send(session, server)) for _ in range(16)]
                while len(waiting) > max(until, 0) and not all(caller.done() for caller in callers):
                    await asyncio.wait(callers, timeout=0.005)
                if waiting:
                    server.process.kill()
                    kills += 1
                await asyncio.gather(*callers)
    assert kills >= 8
    assert len(answers) == 500
    assert all(len(ids) == 1 for ids in answers.values())
    with serving(shell, *options) as server:
        async with api_of(server) as api:
            _, page, _ = await api("GET", "/tasks?limit=1", headers={"Prefer": "count=exact"})
    assert page["total"] == 500
