"""compose.yaml on a real engine: what it promises in docs/deployment.md.

It builds images and takes some minutes, so it runs only where somebody names the commands: `TASKCTL_COMPOSE="docker compose"` and
`TASKCTL_DOCKER=docker`, as root, because it kills processes of containers. Then it is a part of `make test-ops`.
"""

import json
import os
import re
import shlex
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from http.client import HTTPException
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parent.parent
COMPOSE, DOCKER = os.environ.get("TASKCTL_COMPOSE", ""), os.environ.get("TASKCTL_DOCKER", "")
API, PROMETHEUS = "http://127.0.0.1:8080", "http://127.0.0.1:9090"
LASTING = ("api", "proxy", "postgres", "redis", "prometheus", "grafana", "postgres-exporter", "redis-exporter")
ONCE = ("secrets", "migrate", "token")
FRONT = ip_network("10.213.87.0/24")
MINUTES = 5 * 60.0

pytestmark = [
    pytest.mark.ops,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (COMPOSE and DOCKER), reason="TASKCTL_COMPOSE and TASKCTL_DOCKER name no engine"),
]


def run(command: str, *arguments: str) -> str:
    ran = subprocess.run([*shlex.split(command), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout


def compose(*arguments: str) -> str:
    return run(COMPOSE, *arguments)


def ids(service: str) -> list[str]:
    return compose("ps", "-q", service).split()


def state(id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(DOCKER, "inspect", "-f", "{{json .State}}", id))
    return found


def until(what: Callable[[], Any], seconds: float = MINUTES) -> float:
    """Wait until something is so, which nobody tells, and return how long that took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, f"not so after {seconds:g} s: {what}"
        time.sleep(0.5)
    return time.monotonic() - began


def healthy(*services: str) -> bool:
    states = [state(id) for service in services for id in ids(service)]
    return len(states) >= len(services) and all(one.get("Health", {}).get("Status") == "healthy" for one in states)


def ready() -> bool:
    """Return whether everything is well, and the proxy has found a server."""
    try:
        with urlopen(f"{API}/readyz", timeout=10):
            return healthy(*LASTING)
    except OSError:
        return False


def asked(url: str, token: str = "", body: Any = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    said = {"Content-Type": "application/json", **headers, **({"Authorization": f"Bearer {token}"} if token else {})}
    with urlopen(Request(url, data, said), timeout=10) as answer:
        return json.loads(answer.read())


def queried(query: str) -> list[float]:
    """Return the values of an instant query of Prometheus."""
    found = asked(f"{PROMETHEUS}/api/v1/query?{urlencode({'query': query})}")
    return [float(one["value"][1]) for one in found["data"]["result"]]


def count(token: str, **filters: str) -> int:
    wanted = urlencode({"limit": 1, **filters})
    total = asked(f"{API}/api/v1/tasks?{wanted}", token, Prefer="count=exact", **{"Cache-Control": "no-cache"})["total"]
    assert isinstance(total, int)
    return total


class Writer:
    """Adds tasks all the time, in two ways by turns, each in a project of its own, and counts them.

    keyed: with an Idempotency-Key, again and again until it is acknowledged. plain: once, as users do that. unknown: how many of
    the plain ones failed in a way that does not say that nothing has happened.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self.project = f"written {uuid.uuid4().hex}"
        self.keyed = self.plain = self.unknown = self.failures = 0
        self._ended = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def _write(self) -> None:
        while not self._ended.is_set():
            key = uuid.uuid4().hex
            while self._failed("keyed", **{"Idempotency-Key": key}):
                self._ended.wait(0.2)
            self.keyed += 1
            failed = self._failed("plain")
            self.plain += not failed
            self.unknown += failed is not None and not failed["retryable"]
            self._ended.wait(0.05)

    def _failed(self, way: str, **headers: str) -> dict[str, Any] | None:
        """Add a task, and return the problem if that fails; where there was no answer, it says no more than that."""
        problem: dict[str, Any]
        try:
            asked(
                f"{API}/api/v1/tasks", self._token, {"title": "written meanwhile", "project": f"{self.project} {way}"}, **headers
            )
        except HTTPError as e:
            problem = json.loads(e.read())
            assert e.code in (502, 503, 504), problem
        except (OSError, HTTPException):
            problem = {"retryable": False}
        else:
            return None
        self.failures += 1
        return problem

    def writes(self, more: int) -> None:
        """Wait until it has added some more tasks in each way. Raises what has ended it."""
        assert self._written is not None
        written, keyed, plain = self._written, self.keyed + more, self.plain + more
        until(lambda: written.done() or (self.keyed > keyed and self.plain > plain))
        if written.done():
            written.result()

    def found(self) -> tuple[int, int]:
        """Return how many tasks there are of each kind."""
        return count(self._token, project=f"{self.project} keyed"), count(self._token, project=f"{self.project} plain")

    def __enter__(self) -> Self:
        self._written = self._thread.submit(self._write)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._written is not None
        self._ended.set()
        if kind is None:  # else something is wrong already, and it says more
            self._written.result(MINUTES)
        self._thread.shutdown()


@pytest.fixture(scope="module")
def token() -> Iterator[str]:
    """Start everything from nothing, and yield the first token."""
    compose("down", "-v")
    compose("build")
    compose("up", "-d")
    until(ready)
    assert {state(id)["ExitCode"] for service in ONCE for id in ids(service)} == {0}
    yield compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip()
    compose("down", "-v")


def test_it_comes_up_asks_for_a_token_and_prometheus_knows_of_a_task_within_30_seconds(token: str) -> None:
    with pytest.raises(HTTPError, match="401"):
        asked(f"{API}/api/v1/tasks")
    for path in ("/metrics", "/%6detrics", "/%6D%65trics"):
        with pytest.raises(HTTPError, match="404"):
            asked(f"{API}{path}")
    before = sum(queried("max by (status) (taskctl_tasks)") or [0])
    asked(f"{API}/api/v1/tasks", token, {"title": "seen by Prometheus"})
    took = until(lambda: sum(queried("max by (status) (taskctl_tasks)") or [0]) > before, 30)
    print(f"a task is in Prometheus after {took:.0f} s")  # noqa: T201  # a figure to look at
    until(lambda: queried("min(up)") == [1], 60)
    assert queried("count(up)") == [5]
    assert queried("redis_up") == [1]
    assert queried("pg_up") == [1]


def test_nobody_has_more_than_their_own_part(token: str) -> None:
    for service in LASTING:
        for id in ids(service):
            told = json.loads(run(DOCKER, "inspect", id))[0]
            host = told["HostConfig"]
            assert "no-new-privileges:true" in host["SecurityOpt"]
            assert host["CapDrop"] == ["ALL"]
            assert host["Memory"] > 0
            assert host["RestartPolicy"]["Name"] == "unless-stopped"
            assert {where["HostIp"] for ports in host["PortBindings"].values() for where in ports} <= {"127.0.0.1"}
            secrets = {mount["Name"].rpartition("secrets-")[2] for mount in told["Mounts"] if "secrets-" in mount.get("Name", "")}
            mine = {"api": {"taskctl", "token"}, "proxy": set(), "prometheus": set()}.get(service, {service})
            assert secrets == mine
            assert token not in json.dumps(told)
    [api] = ids("api")
    assert json.loads(run(DOCKER, "inspect", api))[0]["HostConfig"]["ReadonlyRootfs"]
    assert compose("exec", "-T", "api", "id", "-u").strip() == "10001"


def test_three_servers_are_three_targets(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compose("up", "-d", "--scale", "api=3")
    took = until(lambda: queried('count(up{job="taskctl"} == 1)') == [3], 90)
    print(f"three targets are up after {took:.0f} s")  # noqa: T201  # a figure to look at
    until(lambda: healthy("api"))
    found = compose("exec", "-T", "proxy", "getent", "ahostsv4", "servers").splitlines()
    addresses = {ip_address(line.split()[0]) for line in found}
    assert len(addresses) == 3
    assert all(address in FRONT for address in addresses), "elsewhere they do not believe the proxy"
    for number in range(30):
        asked(f"{API}/api/v1/tasks", token, {"title": f"task {number}"})
    served = 'count(sum by (instance) (http_server_request_duration_seconds_count{http_route="/api/v1/tasks"}) > 0)'
    until(lambda: (queried(served) or [0])[0] >= 2, 60)
    monkeypatch.setenv("TASKCTL_REPLICAS", "3")
    compose("up", "-d")
    assert len(ids("api")) == 3
    until(ready)


@pytest.mark.parametrize("service", ["postgres", "redis", "api"])
def test_whatever_is_killed_comes_back_by_itself_and_no_task_is_lost(token: str, service: str) -> None:
    with Writer(token) as writer:
        writer.writes(5)
        id = ids(service)[0]
        killed = state(id)
        os.kill(killed["Pid"], 9)
        until(lambda: state(id)["StartedAt"] != killed["StartedAt"] and state(id)["Running"])
        until(lambda: healthy(service))
        writer.writes(5)
    keyed, plain = writer.found()
    figures = (
        f"{writer.plain} without; {writer.failures} attempts failed, {writer.unknown} of them without a key nobody knows how"
    )
    print(f"{service}: {writer.keyed} tasks with a key, {figures}")  # noqa: T201  # a figure to look at
    assert keyed == writer.keyed
    assert writer.plain <= plain <= writer.plain + writer.unknown


def test_down_and_up_again_keeps_every_task_and_every_secret(token: str) -> None:
    before = count(token)
    compose("down")
    compose("up", "-d")
    until(ready)
    assert compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip() == token
    assert count(token) == before


def test_passwords_are_changed_while_it_runs(token: str) -> None:
    compose("run", "--rm", "secrets", "--renew", "database", "postgres-exporter", "redis", "redis-admin", "redis-exporter")
    compose("exec", "-T", "postgres", "bash", "/docker-entrypoint-initdb.d/init.sh")
    compose("restart", "postgres-exporter", "redis", "redis-exporter", "api")
    until(ready)
    asked(f"{API}/api/v1/tasks", token, {"title": "with new passwords"})
    until(lambda: queried("pg_up") == [1] and queried("redis_up") == [1], 60)
    assert queried("sum(taskctl_redis_breaker_open)") == [0]
    admin = 'redis-cli --user admin --pass "$(cat /run/secrets/redis/admin)" --no-auth-warning config get maxmemory'
    assert compose("exec", "-T", "redis", "sh", "-c", admin).split() == ["maxmemory", str(192 * 1024**2)]


def test_whoever_comes_while_there_is_no_server_is_told_so_as_by_taskctl(token: str) -> None:
    compose("stop", "api")
    until(lambda: not ready())
    failed = failed_for_users()
    stopped = datetime.now(UTC)
    [proxy] = ids("proxy")
    until(lambda: looked_at(proxy, stopped), 60)
    assert failed_for_users() == failed, "who looks whether the proxy lives is no user"
    with pytest.raises(HTTPError) as caught:
        asked(f"{API}/api/v1/tasks", token)
    assert (caught.value.code, json.loads(caught.value.read())["code"]) == (503, "unavailable")
    assert failed_for_users() == failed + 1
    until(lambda: (queried("taskctl:requests_failed:ratio_rate5m") or [0])[0] > 0, 90)
    compose("start", "api")
    until(ready)


def failed_for_users() -> int:
    """Return how many answers 5xx the proxy has given to all who came through it."""
    told = compose("exec", "-T", "proxy", "curl", "-sS", "http://127.0.0.1:8405/metrics")
    [number] = re.findall(r'^haproxy_frontend_http_responses_total{proxy="http",code="5xx"} (\d+)$', told, re.MULTILINE)
    return int(number)


def looked_at(id: str, since: datetime) -> bool:
    """Return whether the engine has asked a container how it is since a moment; it must have been well."""
    looks = [look for look in state(id)["Health"]["Log"] if datetime.fromisoformat(look["Start"]) > since]
    assert [look for look in looks if look["ExitCode"]] == []
    return bool(looks)


def test_a_first_token_can_be_had_again(token: str) -> None:
    """The last but one, for whoever has the first token has none after it."""
    listed = json.loads(compose("exec", "-T", "api", "taskctl", "token", "list", "-o", "json"))
    [old] = [one["id"] for one in listed if one["name"] == "first"]
    compose("exec", "-T", "api", "taskctl", "token", "revoke", old)
    compose("run", "--rm", "--no-deps", "--entrypoint", "rm", "token", "-f", "/run/secrets/token/first")
    compose("up", "-d")
    again = compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip()
    assert again != token
    assert asked(f"{API}/api/v1/me", again)["scopes"] == ["admin"]
    with pytest.raises(HTTPError, match="401"):
        asked(f"{API}/api/v1/me", token)


def test_all_tasks_go_into_a_new_database(token: str, tmp_path: Path) -> None:
    """As docs/deployment.md leads to another major version of PostgreSQL."""
    before = count(compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip())
    command = [*shlex.split(COMPOSE), "exec", "-T", "api", "taskctl", "db"]
    compose("stop", "proxy")
    with (tmp_path / "last.backup").open("wb") as file:
        subprocess.run([*command, "backup", "-"], cwd=ROOT, stdout=file, check=True)
    compose("run", "--rm", "--no-deps", "--entrypoint", "rm", "token", "-f", "/run/secrets/token/first")
    compose("down")
    [volume] = run(DOCKER, "volume", "ls", "-q", "--filter", "label=com.docker.compose.volume=postgres").split()
    run(DOCKER, "volume", "rm", volume)
    compose("up", "-d")
    with (tmp_path / "last.backup").open("rb") as file:
        subprocess.run([*command, "restore", "--force", "-"], cwd=ROOT, stdin=file, check=True)
    until(ready)
    again = compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip()
    until(lambda: count(again) == before, 60)  # for two seconds after a restore there may be the tasks of before
