"""All that contrib/ is for, as processes of our own: taskctl, HAProxy, PostgreSQL, Redis, exporters and Prometheus, under a load.

The programs are Debian's (haproxy, postgresql-15, redis-server, prometheus, prometheus-postgres-exporter,
prometheus-redis-exporter), each on a free port with a folder of its own; what a machine runs by itself is not touched.
"""

import asyncio
import itertools
import json
import os
import re
import shutil
import socket
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
PROXY = ROOT / "contrib/docker/haproxy.cfg"
HAPROXY = Path("/usr/sbin/haproxy")
"""Where Debian has it, and not everybody looks."""
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
    placed = {"haproxy": HAPROXY, "postgresql-15": POSTGRESQL / "postgres"}
    return [*found, *(package for package, program in placed.items() if not program.exists())]


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


class Proxy(NamedTuple):
    """A HAProxy that runs. names: of its servers, with their backends; told: the socket at which it does what it is told."""

    url: str
    metrics: str
    names: Sequence[str]
    told: Path
    process: subprocess.Popen[bytes]

    @contextmanager
    def without(self, backend: str = "") -> Iterator[None]:
        """Have it find no server meanwhile, in one backend or in both."""
        names = [name for name in self.names if name.startswith(backend)]
        self._tell(*(f"set server {name} state maint" for name in names))
        try:
            yield
        finally:
            self._tell(*(f"set server {name} state ready" for name in names))

    def _tell(self, *commands: str) -> None:
        with socket.socket(socket.AF_UNIX) as way:
            way.connect(str(self.told))
            way.sendall(f"{';'.join(commands)}\n".encode())
            said = b"".join(iter(lambda: way.recv(4096), b""))  # it closes when all is done
        assert not said.strip(), said


class Lab(NamedTuple):
    """Everything, after a load."""

    prometheus: Prometheus
    proxy: Proxy
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
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        proxy = stack.enter_context(_proxy(folder, addresses))
        metrics = {
            "taskctl": addresses,
            "proxy": [proxy.metrics],
            "postgres": [stack.enter_context(_postgres_exporter(cluster))],
            "redis": [stack.enter_context(_redis_exporter(redis))],
        }
        prometheus = stack.enter_context(_prometheus(folder, metrics))
        asyncio.run(_use([server.url for server in servers], proxy, token, seconds))
        yield Lab(prometheus, proxy, cluster, servers, token)


@contextmanager
def running(command: Sequence[str], ready: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
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
            yield process
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
def _proxy(folder: Path, servers: Sequence[str]) -> Iterator[Proxy]:
    """Run it with the repository's file: only with addresses of this machine in place of names, and a way to tell it things."""
    at, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    config = PROXY.read_text("utf-8")
    named = {f"api{number}": server for number, server in enumerate(servers, 1)}
    these = "".join(f"    server {name} {server}\n" for name, server in named.items())
    for old, new, times in (
        (r"^resolvers .*\n(?: .*\n)+", "", 1),
        (r" resolvers \S+ resolve-prefer \S+ init-addr none$", "", 2),
        (r"^    server-template .*\n", these, 2),
        (r"bind :8080$", f"bind {at}", 1),
        (r"bind :8405$", f"bind {metrics}", 1),
    ):
        config, found = re.subn(old, new, config, flags=re.MULTILINE)
        assert found == times, f"{PROXY} has not what is replaced here: {old}"
    told = folder / "proxy"
    files = {folder / "haproxy.cfg": config, folder / "told.cfg": f"global\n    stats socket {told} mode 600 level admin\n"}
    for file, text in files.items():
        file.write_text(text, "utf-8")
    names = [f"{backend}/{name}" for backend in ("ready", "alive") for name in named]
    with running([str(HAPROXY), "-db", "--", *map(str, files)], f"http://{metrics}/metrics") as process:
        yield Proxy(f"http://{at}", metrics, names, told, process)


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


async def _use(urls: Sequence[str], proxy: Proxy, token: str, seconds: float) -> None:
    """Do everything that a server can do, again and again."""
    deadline = time.monotonic() + seconds
    async with aiohttp.ClientSession(headers=bearing(token)) as session:
        for turn in itertools.count():
            if time.monotonic() > deadline:
                return
            here, there = (f"{urls[(turn + each) % len(urls)]}/api/v1" for each in (0, 1))
            await asyncio.gather(
                _work(session, here, there, turn),
                _look(session, here),
                _look(session, there),
                _look(session, f"{proxy.url}/api/v1"),
                _err(session, here),
            )
            await _turn_away(session, proxy)
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


async def _turn_away(session: aiohttp.ClientSession, proxy: Proxy) -> None:
    """Have the proxy answer by itself, while nobody else comes through it."""
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    reading, writing = await asyncio.open_connection(host, int(port))
    writing.write(b"no HTTP\r\n\r\n")
    assert (await reading.readline()).split()[1] == b"400"
    writing.close()
    with proxy.without():
        await _call(session, "GET", f"{proxy.url}/api/v1/me", 503)


async def _administer(session: aiohttp.ClientSession, base: str, turn: int) -> None:
    made = await _call(session, "POST", f"{base}/tokens", 201, json={"name": f"t{turn}", "scopes": ["tasks:read"]})
    await _call(session, "DELETE", f"{base}/tokens/{made['token']['id']}", 204)
    await _call(session, "GET", f"{base}/me", 401, 429, headers=bearing(made["secret"]))
    await _call(session, "GET", f"{base}/tokens", 200)
