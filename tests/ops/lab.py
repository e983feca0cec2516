"""All that contrib/ is for, as processes of our own: taskctl, PostgreSQL, Redis, both exporters and Prometheus, under a load.

The programs are Debian's (postgresql-15, redis-server, prometheus, prometheus-postgres-exporter, prometheus-redis-exporter), each
on a free port with a folder of its own; what a machine runs by itself is not touched.
"""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import aiohttp
import yaml

from tests.postgres import OPTIONS, Cluster, free_port
from tests.redis import Server as Redis
from tests.support import Server, Shell, bearing

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "contrib/prometheus"
POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
PROGRAMS = ("promtool", "prometheus", "prometheus-postgres-exporter", "prometheus-redis-exporter", "redis-server")
READY_SECONDS = 30
SCRAPE_SECONDS = 1
"""In the repository's file it is ten times that."""
REPLICAS = 2
LIMITS = {"TASKCTL_RATE_LIMIT_ADDRESS": "1000000/minute", "TASKCTL_RATE_LIMIT_TOKEN": "1000000/minute"}
PACE_SECONDS = 0.2
"""Between the rounds of the load: it is to be everything, not much."""


def missing() -> list[str]:
    """Return what of Debian's packages is not here."""
    found = [program for program in PROGRAMS if shutil.which(program) is None]
    return [*found, *(["postgresql-15"] if not (POSTGRESQL / "postgres").exists() else [])]


class Prometheus(NamedTuple):
    """A Prometheus that runs."""

    url: str

    def ask(self, path: str, **parameters: str | float) -> Any:
        """Return the data of an answer of the API; what it refuses is an AssertionError."""
        try:
            with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except HTTPError as e:
            raise AssertionError(f"{parameters}: {e.read().decode()}") from None

    def samples(self, query: str) -> list[Any]:
        """Return what a query says of now, without what is not a number."""
        found: list[Any] = self.ask("query", query=query)["result"]
        return [each for each in found if each["value"][1] != "NaN"]

    def lines(self, query: str, seconds: float) -> list[Any]:
        """Return what a query says of the last seconds, second by second."""
        now = time.time()
        found: list[Any] = self.ask("query_range", query=query, start=now - seconds, end=now, step=1)["result"]
        return found


class Lab(NamedTuple):
    """Everything, after a load."""

    prometheus: Prometheus
    cluster: Cluster
    servers: Sequence[Server]
    token: str


@contextmanager
def lab(seconds: float) -> Iterator[Lab]:
    """Start everything, put a load on it for some seconds that uses all of it, and yield it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="taskctl-ops-")))
        cluster = Cluster(*OPTIONS, "shared_preload_libraries=pg_stat_statements", programs=POSTGRESQL)
        stack.callback(cluster.close)
        database = cluster.tasks()
        cluster.ask("CREATE EXTENSION pg_stat_statements", "tasks")
        cluster.ask("SELECT pg_create_physical_replication_slot('standby', true)")
        redis = stack.enter_context(Redis("maxmemory 64mb", "maxmemory-policy allkeys-lru", program="redis-server"))
        shell = Shell(folder, TASKCTL_DATABASE_URL=database, TASKCTL_REDIS_URL=redis.url, TASKCTL_AUTH="tokens", **LIMITS)
        assert shell("db", "seed", "--count", "300").code == 0
        token = shell("token", "create", "ops", "--scope", "admin").out.strip()
        servers = [stack.enter_context(Server(shell)) for _ in range(REPLICAS)]
        metrics = {
            "taskctl": [f"127.0.0.1:{server.port}" for server in servers],
            "postgres": [stack.enter_context(_postgres_exporter(cluster))],
            "redis": [stack.enter_context(_redis_exporter(redis))],
        }
        prometheus = stack.enter_context(_prometheus(folder, metrics))
        asyncio.run(_use([server.url for server in servers], token, seconds))
        yield Lab(prometheus, cluster, servers, token)


@contextmanager
def running(command: Sequence[str], ready: str, **environment: str) -> Iterator[None]:
    """Run a program, from when an address answers until it is not needed any more."""
    with TemporaryDirectory(prefix="taskctl-ops-") as folder, Path(folder, "log").open("w+b") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], **environment}
        )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not _answers(ready):  # they do not tell when they are ready
                assert process.poll() is None, Path(log.name).read_text("utf-8")
                assert time.monotonic() < deadline, Path(log.name).read_text("utf-8")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(READY_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def _postgres_exporter(cluster: Cluster) -> Iterator[str]:
    at = f"127.0.0.1:{free_port()}"
    queries = f"--extend.query-path={PROMETHEUS / 'postgres-exporter-0.11.yml'}"
    source = f"{cluster.url('tasks')}?sslmode=disable"
    with running(
        ["prometheus-postgres-exporter", f"--web.listen-address={at}", queries], f"http://{at}/", DATA_SOURCE_NAME=source
    ):
        yield at


@contextmanager
def _redis_exporter(redis: Redis) -> Iterator[str]:
    at = f"127.0.0.1:{free_port()}"
    with running(["prometheus-redis-exporter", "-redis.addr", redis.url, "-web.listen-address", at], f"http://{at}/health"):
        yield at


@contextmanager
def _prometheus(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """Run it with the repository's file: only quicker, and with addresses of this machine in place of names."""
    at = f"127.0.0.1:{free_port()}"
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    each = f"{SCRAPE_SECONDS}s"
    config["global"] = {"scrape_interval": each, "scrape_timeout": each, "evaluation_interval": each}
    config["rule_files"] = [str(PROMETHEUS / file) for file in config["rule_files"]]
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": targets.get(job["job_name"], [at])}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), "utf-8")
    options = (f"--config.file={file}", f"--storage.tsdb.path={folder / 'prometheus'}", f"--web.listen-address={at}")
    with running(["prometheus", *options], f"http://{at}/-/ready"):
        yield Prometheus(f"http://{at}")


# -------------------------------------------------------------------------------------------------------------- the load


async def _use(urls: Sequence[str], token: str, seconds: float) -> None:
    """Do everything that a server can do, again and again."""
    deadline = time.monotonic() + seconds
    async with aiohttp.ClientSession(headers=bearing(token)) as session:
        for turn in itertools.count():
            if time.monotonic() > deadline:
                return
            here, there = (f"{urls[(turn + each) % len(urls)]}/api/v1" for each in (0, 1))
            await asyncio.gather(
                _work(session, here, there, turn), _look(session, here), _look(session, there), _err(session, here)
            )
            if turn % 10 == 0:
                await _administer(session, here, turn)
            await asyncio.sleep(PACE_SECONDS)


async def _call(session: aiohttp.ClientSession, method: str, url: str, *fine: int, **options: Any) -> Any:
    async with session.request(method, url, **options) as answer:
        assert answer.status in fine, (method, url, answer.status, await answer.text())
        return await answer.json(content_type=None) if answer.status in (200, 201) else None


async def _work(session: aiohttp.ClientSession, here: str, there: str, turn: int) -> None:
    tasks = [{"title": f"Task {turn}.{each}", "project": "ops", "due": "2020-01-01" if each else None} for each in range(4)]
    made = await asyncio.gather(*(_call(session, "POST", f"{here}/tasks", 201, json=task) for task in tasks))
    first, second, third, last = (f"/tasks/{task['id']}" for task in made)
    await _call(session, "GET", f"{here}{first}", 200)
    await _call(session, "GET", f"{here}{first}", 304, headers={"If-None-Match": '"1"'})
    await _call(session, "GET", f"{there}{first}", 200)
    await _call(session, "PATCH", f"{there}{first}", 200, json={"status": "done"})
    await _call(session, "PATCH", f"{here}{second}", 200, json={"status": "in_progress"}, headers={"Idempotency-Key": f"k{turn}"})
    await _call(session, "PUT", f"{here}{third}", 200, json={**dict.fromkeys(_WRITABLE), **_PLAIN, "title": "Put"})
    await _call(session, "DELETE", f"{here}{last}", 204)
    operations = [
        {"op": "add", "task": {"title": "In a batch"}},
        {"op": "edit", "id": made[1]["id"], "patch": {"status": "done"}},
    ]
    await _call(session, "POST", f"{there}/batch", 200, json={"operations": operations})
    await _call(session, "GET", f"{here}{first}/history", 200)


_WRITABLE = ("description", "project", "due")
_PLAIN = {"status": "todo", "priority": "low", "labels": ["put"]}


async def _look(session: aiohttp.ClientSession, base: str) -> None:
    for path in ("/tasks", "/tasks?project=ops&limit=20", "/tasks?overdue=true", "/tasks?q=milk", "/changes?limit=5"):
        await _call(session, "GET", f"{base}{path}", 200)
    for path in ("/projects", "/labels", "/stats", "/me", "/cache", "/tasks/1"):
        await _call(session, "GET", f"{base}{path}", 200)
    await _call(session, "HEAD", f"{base}/tasks/2", 200)


async def _err(session: aiohttp.ClientSession, base: str) -> None:
    await _call(session, "GET", f"{base}/tasks/999999", 404)
    await _call(session, "GET", f"{base}/nothing", 404)
    await _call(session, "POST", f"{base}/tasks", 422, json={"title": ""})
    await _call(session, "POST", f"{base}/tasks", 400, data=b"{", headers={"Content-Type": "application/json"})
    await _call(session, "PATCH", f"{base}/tasks/1", 412, json={"title": "late"}, headers={"If-Match": '"999"'})
    await _call(session, "PUT", f"{base}/tasks", 405)
    await _call(session, "GET", f"{base}/me", 401, 429, headers={"Authorization": "Bearer nothing"})


async def _administer(session: aiohttp.ClientSession, base: str, turn: int) -> None:
    made = await _call(session, "POST", f"{base}/tokens", 201, json={"name": f"t{turn}", "scopes": ["tasks:read"]})
    await _call(session, "DELETE", f"{base}/tokens/{made['token']['id']}", 204)
    await _call(session, "GET", f"{base}/me", 401, 429, headers=bearing(made["secret"]))
    await _call(session, "GET", f"{base}/tokens", 200)
