"""Replicas of a server, clients that write and read, and failures of all kinds; afterwards no read may have been too old.

Three `taskctl serve` processes share a PostgreSQL and a Redis of the test's own. What the clients did and saw is judged by
tests/histories.py, once the log has told what became of the writes that nobody answered. `make test-faults` runs it for a minute;
TASKCTL_LIVE_SECONDS and TASKCTL_LIVE_SEED say how long otherwise, and which choices are made (not what they meet with).
"""

import asyncio
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from taskctl import open_tasks
from taskctl.fields import PRIORITIES
from tests import redis as redis_server
from tests.histories import ALL, Entry, History, Kind, Read, Write, judged, settled
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.support import Server, Shell

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("TASKCTL_LIVE_SECONDS", "60"))
SEED = int(os.environ.get("TASKCTL_LIVE_SEED") or random.SystemRandom().randrange(10**6))
REPLICAS = 3
CLIENTS = 12
TASKS = 30
THINK_SECONDS = 0.06
PATIENCE_SECONDS = (1.0, 10.0)
"""How long clients wait for an answer: some leave while a replica is stopped, others are answered when it goes on."""
READY_SECONDS = 10
GRACE_SECONDS = 0.5
"""How long after a replica was stopped or killed its clients may still find broken connections."""
FINE = {200, 201, 204, 304}
FORESEEN = FINE | {404, 409, 412, 503}


class Listing(NamedTuple):
    """A list that clients read: its parameters, what belongs to it, and its order, if that is the one of ids."""

    query: str
    has: Callable[[Mapping[str, Any]], bool] = lambda _: True
    order: str = ""


LISTS = {
    "red": Listing("label=red&limit=50", lambda task: "red" in task["labels"], "-id"),
    "blue": Listing("label=blue", lambda task: "blue" in task["labels"], "-id"),
    "work": Listing("project=work&limit=200", lambda task: task["project"] in ("work", "work.api"), "-id"),
    "started": Listing("status=in_progress&limit=100", lambda task: task["status"] == "in_progress", "-id"),
    "red and urgent": Listing(
        "filter=label:red%20priority:urgent", lambda task: "red" in task["labels"] and task["priority"] == "urgent", "-id"
    ),
    "newest": Listing("limit=8", order="-id"),
    "oldest": Listing("sort=id&limit=8", order="id"),
    "urgent first": Listing("sort=-priority&limit=200"),
    "urgent first, a page": Listing("sort=-priority,id&limit=10"),
}


def lists_of(task: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, listing in LISTS.items() if listing.has(task))


def free_port() -> int:
    """Return a port that no connection takes by chance while whoever listens there is away."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)):
                return port


class Replica:
    """A `taskctl serve` on a port of its own. Each start of it is another process, with a name of its own."""

    def __init__(self, number: int, shell: Shell, database: str) -> None:
        self._number = number
        self._shell = shell
        self._port = free_port()
        self._options = ("--port", str(self._port), "--database-url", database)
        self._stack = ExitStack()
        self._starting = threading.Lock()
        self._generation = 0
        self._trouble_until = 0.0
        self.start()

    @property
    def name(self) -> str:
        return f"{self._number}.{self._generation}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api/v1"

    def start(self) -> None:
        with self._starting:
            self._generation += 1
            self.server = self._stack.enter_context(Server(self._shell, *self._options))
            assert self.server.url

    def kill(self) -> None:
        with self._starting:  # one that a thread is just starting when the test fails is not left behind
            # It is another one from here on: whatever comes after this may be from either.
            self._generation += 1
            self.server.process.kill()
            self._stack.close()

    close = kill

    def in_trouble(self, since: float) -> bool:
        return since < self._trouble_until

    @contextmanager
    def trouble(self) -> Iterator[None]:
        self._trouble_until = float("inf")
        yield
        self._trouble_until = time.monotonic() + GRACE_SECONDS


class World:
    """What the clients share: the servers, the tasks that there are as far as they know, and what has been done and seen."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas
        self.writable = replicas
        self.there: set[int] = set()
        self.gone: deque[int] = deque(maxlen=20)
        self.history = History([], [])
        self.refused: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.over = False
        self._values: dict[tuple[int, int], dict[str, Any]] = {}

    async def shift(self) -> None:
        """Let writes go to all replicas for a while, then to one, then nowhere: what only own writes renew grows old."""
        rng = random.Random(f"{SEED} shift")
        while not self.over:
            self.writable = rng.choice((self.replicas, [rng.choice(self.replicas)], [rng.choice(self.replicas)], []))
            await asyncio.sleep(rng.uniform(1.0, 5.0) if self.writable else rng.uniform(1.0, 3.5))

    def learn(self, task: dict[str, Any], where: str) -> None:
        """Take in a task as an answer showed it: a version has one value, whoever shows it."""
        known = self._values.setdefault((task["id"], task["version"]), task)
        if known != task:
            self.wrong.append(f"{where}: {task} is {known} elsewhere")

    def missed(self, task: int) -> None:
        if task in self.there:
            self.there.remove(task)
            self.gone.append(task)


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Mapping[str, str]
    began: float
    ended: float
    process: str | None

    @property
    def at(self) -> int | None:
        said = self.headers.get("X-Taskctl-Seq")
        return int(said.rpartition(".")[2]) if said is not None else None

    @property
    def version(self) -> int:
        return int(self.headers["ETag"].strip('"'))


class Client:
    """Writes and reads, now at this replica and now at that one. With sessions, it sends the last `X-Taskctl-Seq` along."""

    def __init__(self, number: int, world: World, http: aiohttp.ClientSession, *, writes: float, sessions: bool) -> None:
        self._number = number
        self._world = world
        self._http = http
        self._rng = random.Random(f"{SEED} {number}")
        self._writes = writes
        self._sessions = sessions
        self._session: str | None = None
        self._last: str | None = None
        self._marks = 0
        self._replica = self._rng.choice(world.replicas)
        self._seen: dict[int, int] = {}
        self._touched: int | None = None

    async def go_on(self) -> None:
        rng = self._rng
        while not self._world.over:
            if self._sessions and (self._session is None or rng.random() < 0.02):
                self._session, self._last = f"{self._number}-{self._marks}-{len(self._world.history.reads)}", None
            if rng.random() < 0.3:
                self._replica = rng.choice(self._world.replicas)
            if self._touched is None and self._world.writable and rng.random() < self._writes:
                self._replica = rng.choice(self._world.writable)
                await self._write()
            elif rng.random() < 0.55 or (self._touched is not None and rng.random() < 0.5):
                await self._read_task()
            else:
                await self._read_list()
            await asyncio.sleep(rng.expovariate(1 / THINK_SECONDS))

    async def _call(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> Answer | None:
        """Send a request, and return the answer; None without one, and then the next goes to another replica."""
        replica, process = self._replica, self._replica.name
        patience = self._rng.choice(PATIENCE_SECONDS)
        headers = {**headers, **({"X-Taskctl-Seq": self._last} if self._last is not None else {})}
        began = time.monotonic()
        try:
            async with self._http.request(
                method, replica.url + path, headers=headers, json=body, timeout=aiohttp.ClientTimeout(patience)
            ) as got:
                said = await got.read()
        except (aiohttp.ClientError, OSError) as e:  # a TimeoutError is an OSError
            hasty = isinstance(e, TimeoutError) and patience == min(PATIENCE_SECONDS)
            if not hasty and not replica.in_trouble(began):
                self._world.wrong.append(f"{method} {path} of {replica.name}, began at {began:.3f}: {e!r}")
            self._world.counts["no answer"] += 1
            self._replica = self._rng.choice([other for other in self._world.replicas if other is not replica])
            return None
        # If the replica was killed meanwhile, aiohttp may have sent it again to the next one.
        same = process if process == replica.name else None
        answer = Answer(got.status, json.loads(said) if said else None, got.headers, began, time.monotonic(), same)
        if answer.status not in FORESEEN:
            self._world.wrong.append(f"{method} {path} of {process}: {answer}")
        self._world.counts[f"{method} {answer.status}"] += 1
        self._world.counts["hits"] += "; hit" in answer.headers.get("Cache-Status", "")
        if self._session is not None and (last := answer.headers.get("X-Taskctl-Seq")) is not None:
            self._last = last
        return answer

    def _asked(self) -> int | None:
        return int(self._last.rpartition(".")[2]) if self._last is not None else None

    # ---------------------------------------------------------------------------------------------------------------- reads

    def _task(self) -> int:
        """Return the id of a task that is there, one of those that are busy, or one that has gone or is yet to come."""
        rng, there = self._rng, sorted(self._world.there)
        kind = rng.random()
        if kind < 0.1 and self._world.gone:
            return rng.choice(self._world.gone)
        if kind < 0.2 or not there:
            return max(there, default=0) + rng.randint(1, 2)
        return rng.choice(there[:5] if kind < 0.5 else there)

    async def _read_task(self) -> None:
        task, self._touched = self._touched or self._task(), None
        known = self._seen.get(task)
        condition = {"If-None-Match": f'"{known}"'} if known is not None and self._rng.random() < 0.25 else {}
        asked = self._asked()
        answer = await self._call("GET", f"/tasks/{task}", condition)
        if answer is None or answer.status not in (200, 304, 404):
            return
        version = answer.version if answer.status != 404 else None
        if answer.status == 200:
            self._world.learn(answer.body, f"GET /tasks/{task} of {answer.process}")
            if (answer.body["id"], answer.body["version"]) != (task, version):
                self._world.wrong.append(f"asked for task {task}, got {answer}")
        if version is None:
            self._world.missed(task)
        else:
            self._seen[task] = version
        self._record(answer, {task: version}, asked)

    async def _read_list(self) -> None:
        self._touched = None
        name = self._rng.choice(list(LISTS))
        listing = LISTS[name]
        asked = self._asked()
        answer = await self._call("GET", f"/tasks?{listing.query}", {})
        if answer is None or answer.status != 200:
            return
        tasks = answer.body["items"]
        where = f"GET {listing.query} of {answer.process}"
        for task in tasks:
            self._world.learn(task, where)
            self._seen[task["id"]] = task["version"]
        ids = [task["id"] for task in tasks]
        ranks = {"-id": [-id for id in ids], "id": ids}.get(
            listing.order, [-PRIORITIES.index(task["priority"]) for task in tasks]
        )
        if ranks != sorted(ranks) or len(set(ids)) < len(ids) or not all(listing.has(task) for task in tasks):
            self._world.wrong.append(f"{where} is not such a list: {answer}")
        covers = ALL
        if answer.body["next_cursor"] is not None:
            covers = {"-id": range(min(ids), ALL.stop), "id": range(max(ids))}.get(listing.order, range(0))
        self._record(answer, {task["id"]: task["version"] for task in tasks}, asked, name, covers)

    def _record(
        self, answer: Answer, seen: dict[int, int | None], asked: int | None, name: str | None = None, covers: range = ALL
    ) -> None:
        began, ended, process = answer.began, answer.ended, answer.process
        self._world.history.reads.append(Read(seen, began, ended, name, covers, process, self._session, asked, answer.at))
        self._world.counts[name or ("304" if answer.status == 304 else "404" if answer.status == 404 else "task")] += 1

    # --------------------------------------------------------------------------------------------------------------- writes

    async def _write(self) -> None:
        rng, there = self._rng, sorted(self._world.there)
        kind: Kind = "edit"
        if rng.random() < 0.3 or not there:
            kind = "add" if len(there) < rng.randint(TASKS - 5, TASKS + 5) else "remove"
        task = None if kind == "add" else rng.choice(there[:5] if kind == "edit" and rng.random() < 0.5 else there)
        self._marks += 1
        mark = f"{self._number}-{self._marks}"
        # All that decides which lists it belongs to, so that this does not depend on what it was before.
        state = {
            "title": mark,
            "status": rng.choice(("todo", "in_progress")),
            "priority": rng.choice(PRIORITIES),
            "project": rng.choice((None, "home", "work", "work.api")),
            "labels": rng.choice(([], ["red"], ["blue"], ["blue", "red"])),
        }
        method = {"add": "POST", "edit": "PATCH", "remove": "DELETE"}[kind]
        path = "/tasks" if task is None else f"/tasks/{task}"
        headers = {"Idempotency-Key": f"{SEED}-{mark}"}
        if task is not None and (version := self._seen.get(task)) is not None and rng.random() < 0.2:
            headers["If-Match"] = f'"{version}"'
        began = time.monotonic()
        answer = await self._call(method, path, headers, None if kind == "remove" else state)
        doubt = answer is None or answer.status == 503
        if doubt and rng.random() < 0.5:
            answer = await self._again(method, path, headers, None if kind == "remove" else state)
        write = Write(kind, task, None, lists_of(state) if kind != "remove" else frozenset(), began, mark=mark)
        if answer is None or answer.status not in FINE:
            # A removal that finds nothing may be aiohttp's second try; all of these wait for what the log says.
            self._world.history.writes.append(write)
            self._world.counts[f"{kind} in doubt" if doubt else f"{kind} refused"] += 1
            if not doubt and kind != "remove":
                self._world.refused.add(mark)
            if answer is not None and answer.status == 404 and task is not None:
                self._world.missed(task)
            return
        self._acknowledged(write, answer)
        self._world.counts[kind] += 1
        self._world.counts["resolved"] += doubt

    async def _again(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer | None:
        """Send a write of unknown outcome again, with its key, to one replica after another, until one knows."""
        for _ in range(10):
            await asyncio.sleep(0.2)
            self._replica = self._rng.choice([one for one in self._world.replicas if one is not self._replica])
            answer = await self._call(method, path, headers, body)
            if answer is not None and answer.status != 503:
                return answer
        return None

    def _acknowledged(self, write: Write, answer: Answer) -> None:
        task = write.task
        if answer.body is not None:
            task = answer.body["id"]
            self._seen[task] = answer.version
            self._world.learn(answer.body, f"{write.kind} by {answer.process}")
        assert task is not None
        if write.kind == "add":
            self._world.there.add(task)
        elif write.kind == "remove":
            self._world.missed(task)
        version = answer.version if answer.body is not None else None
        self._world.history.writes.append(
            write._replace(
                task=task,
                version=version,
                acknowledged=answer.ended,
                process=answer.process,
                session=self._session,
                at=answer.at,
            )
        )
        # Where it was acknowledged nothing older may be shown from now on; that is soon asked for.
        if self._rng.random() < 0.6:
            self._touched = task


class Chaos:
    """Lets things fail, one or two at a time, and then leaves everything in peace for as long as that took."""

    def __init__(self, cluster: Cluster, redis: redis_server.Server, proxy: Proxy, world: World) -> None:
        self._cluster = cluster
        self._redis = redis
        self._proxy = proxy
        self._world = world
        self._rng = random.Random(f"{SEED} chaos")
        self._longest = min(4.0, max(0.6, SECONDS / 15))
        self.done: list[str] = []
        of_redis: list[Callable[[float], Awaitable[None]]] = [
            *(self._redis_cut, self._redis_refused, self._redis_slow, self._redis_silent),
            *(self._redis_flushed, self._redis_stopped, self._redis_killed),
        ]
        of_others: list[Callable[[float], Awaitable[None]]] = [
            *(self._replica_stopped, self._replica_killed, self._database_stopped)
        ]
        self._kinds = (of_redis, of_others)

    async def go_on(self, until: float) -> None:
        """Go on until the time is up, and everything has happened."""
        rng = self._rng
        waiting: list[tuple[int, Callable[[float], Awaitable[None]]]] = []
        rounds = 0
        while time.monotonic() < until or (rounds == 1 and waiting):
            if not waiting:
                waiting = [(kind, action) for kind, actions in enumerate(self._kinds) for action in actions]
                rng.shuffle(waiting)
                rounds += 1
            kind, first = waiting.pop()
            actions = [first]
            if rng.random() < 0.3:
                actions.append(rng.choice(self._kinds[1 - kind]))
            began = time.monotonic()
            await asyncio.gather(*(self._run(action) for action in actions))
            await asyncio.sleep((time.monotonic() - began) * rng.uniform(0.8, 1.2))

    async def _run(self, action: Callable[[float], Awaitable[None]]) -> None:
        began = time.monotonic()
        await action(self._rng.uniform(0.5, self._longest))
        name = getattr(action, "__name__", "").lstrip("_").replace("_", " ")
        self.done.append(name)
        print(f"{began:.3f}-{time.monotonic():.3f} {name}")  # noqa: T201  # shown if the test fails

    def names(self) -> set[str]:
        return {getattr(action, "__name__", "").lstrip("_").replace("_", " ") for kind in self._kinds for action in kind}

    async def _redis_cut(self, seconds: float) -> None:
        for _ in range(5):
            self._proxy.cut()
            await asyncio.sleep(seconds / 5)

    async def _redis_refused(self, seconds: float) -> None:
        self._proxy.refuse()
        await asyncio.sleep(seconds)
        self._proxy.accept()

    async def _redis_slow(self, seconds: float) -> None:
        self._proxy.delay(self._rng.choice((0.01, 0.1, 1.0)))
        await asyncio.sleep(seconds)
        self._proxy.delay(0)

    async def _redis_silent(self, seconds: float) -> None:
        self._proxy.hang()
        await asyncio.sleep(seconds)
        self._proxy.go_on()

    async def _redis_flushed(self, seconds: float) -> None:
        for _ in range(3):
            await asyncio.to_thread(self._redis.ask, "FLUSHALL")
            await asyncio.sleep(seconds / 3)

    async def _redis_stopped(self, seconds: float) -> None:
        assert self._redis.process is not None
        self._redis.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._redis.process.send_signal(signal.SIGCONT)

    async def _redis_killed(self, seconds: float) -> None:
        await asyncio.to_thread(self._redis.stop)
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(self._redis.start)

    def _victim(self) -> Replica:
        """Return the replica that is to fail; writes go there, so that some of them are in doubt."""
        self._world.writable = [self._rng.choice(self._world.replicas)]
        return self._world.writable[0]

    async def _replica_stopped(self, seconds: float) -> None:
        replica = self._victim()
        with replica.trouble():
            replica.server.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            replica.server.process.send_signal(signal.SIGCONT)

    async def _replica_killed(self, seconds: float) -> None:
        replica = self._victim()
        with replica.trouble():
            await asyncio.to_thread(replica.kill)
            await asyncio.sleep(seconds / 4)
            await asyncio.to_thread(replica.start)

    async def _database_stopped(self, seconds: float) -> None:
        with self._cluster.suspended():
            await asyncio.sleep(min(seconds, 1.0))


async def log_of(database: str) -> list[Entry]:
    """Return the log, by the titles that the writers gave."""
    entries: list[Entry] = []
    async with open_tasks(database) as tasks:
        while True:
            found = await tasks.changes(len(entries), limit=1000)
            entries += [Entry(e.seq, e.op, e.id, e.version, str((e.after or {}).get("title", ""))) for e in found.items]
            if not found.more:
                return entries


async def test_whatever_fails_nobody_reads_what_is_over(tmp_path: Path) -> None:
    print(f"TASKCTL_LIVE_SEED={SEED}")  # noqa: T201
    with ExitStack() as stack:
        cluster = Cluster()
        stack.callback(cluster.close)
        database = cluster.tasks()
        redis = stack.enter_context(redis_server.Server())
        proxy = stack.enter_context(Proxy(redis.port))
        shell = Shell(tmp_path, TASKCTL_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", TASKCTL_REDIS_TASKS="true")
        replicas = []
        for number in range(REPLICAS):
            replicas.append(Replica(number + 1, shell, database))
            stack.callback(replicas[-1].close)
        world = World(replicas)
        chaos = Chaos(cluster, redis, proxy, world)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            # A third writes much; every other one has sessions.
            clients = [Client(n, world, http, writes=0.1 if n % 3 else 0.7, sessions=n % 2 == 0) for n in range(CLIENTS)]
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.go_on())
                group.create_task(world.shift())
                await chaos.go_on(time.monotonic() + SECONDS)
                world.over = True
        codes = await asyncio.gather(*(asyncio.to_thread(replica.server.stop) for replica in replicas))
        assert codes == [0] * REPLICAS, f"seed {SEED}"
        log = await log_of(database)
    history, contradictions = settled(world.history, log)
    found, about = judged(history)
    print(world.counts, about, Counter(chaos.done), f"{len(log)} entries", sep="\n")  # noqa: T201
    failures = [*world.wrong, *contradictions, *found]
    failures += [f"refused, and in the log: {entry}" for entry in log if entry.kind != "remove" and entry.mark in world.refused]
    assert not failures, "\n".join([f"{len(failures)} failures with seed {SEED}:", *failures[:30]])
    assert set(chaos.done) == chaos.names()
    # What must at least have been looked at: a few of everything in each second.
    least = {"task": 5, "404": 1, "304": 1, "edit": 1, "add": 0.2, "remove": 0.2, **dict.fromkeys(LISTS, 0.5)}
    assert not {kind: world.counts[kind] for kind, rate in least.items() if world.counts[kind] < rate * SECONDS}, world.counts
    rules = {"bound": 10, "list": 5, "moment": 1, "replica": 1, "session": 1, "asked": 1}
    assert not {rule: about[rule] for rule, rate in rules.items() if about[rule] < rate * SECONDS}, about
    assert sum(world.counts[what] for what in ("resolved", "add in doubt", "edit in doubt", "remove in doubt"))
    assert world.counts["no answer"]
    assert world.counts["hits"] > SECONDS, "caches must have answered at times"
    assert proxy.taken
