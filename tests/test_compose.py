"""compose.yaml on a real engine: what it promises in docs/deployment.md.

It builds images and takes some minutes, so it runs only where somebody names the commands: `TASKCTL_COMPOSE="docker compose"` and
`TASKCTL_DOCKER=docker`, as root, because it kills processes of containers. Then it is a part of `make test-ops`.
"""

import json
import os
import shlex
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parent.parent
COMPOSE, DOCKER = os.environ.get("TASKCTL_COMPOSE", ""), os.environ.get("TASKCTL_DOCKER", "")
API, PROMETHEUS = "http://127.0.0.1:8080", "http://127.0.0.1:9090"
LASTING = ("api", "proxy", "postgres", "redis", "prometheus", "grafana", "postgres-exporter", "redis-exporter")
ONCE = ("secrets", "migrate", "token")
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


def asked(url: str, token: str = "", body: Any = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    said = {"Content-Type": "application/json", **headers, **({"Authorization": f"Bearer {token}"} if token else {})}
    with urlopen(Request(url, data, said), timeout=10) as answer:
        return json.loads(answer.read())


def queried(query: str) -> list[float]:
    """Return the values of an instant query of Prometheus."""
    found = asked(f"{PROMETHEUS}/api/v1/query?{urlencode({'query': query})}")
    return [float(one["value"][1]) for one in found["data"]["result"]]


def count(token: str) -> int:
    total = asked(f"{API}/api/v1/tasks?limit=1", token, Prefer="count=exact", **{"Cache-Control": "no-cache"})["total"]
    assert isinstance(total, int)
    return total


class Writer:
    """Adds tasks all the time, each until it is acknowledged, and counts them."""

    def __init__(self, token: str) -> None:
        self._token = token
        self.acknowledged = 0
        self.failures = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        while not self._ended.is_set():
            key = uuid.uuid4().hex
            while True:
                try:
                    asked(f"{API}/api/v1/tasks", self._token, {"title": "written meanwhile"}, **{"Idempotency-Key": key})
                except HTTPError as e:
                    assert e.code in (502, 503, 504), e.code
                except (URLError, OSError):
                    pass
                else:
                    self.acknowledged += 1
                    break
                self.failures += 1
                time.sleep(0.2)
            time.sleep(0.05)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(MINUTES)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def token() -> Iterator[str]:
    """Start everything from nothing, and yield the first token."""
    compose("down", "-v")
    compose("build")
    compose("up", "-d")
    until(lambda: healthy(*LASTING))
    assert {state(id)["ExitCode"] for service in ONCE for id in ids(service)} == {0}
    yield compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip()
    compose("down", "-v")


def test_it_comes_up_asks_for_a_token_and_prometheus_knows_of_a_task_within_30_seconds(token: str) -> None:
    with pytest.raises(HTTPError, match="401"):
        asked(f"{API}/api/v1/tasks")
    with pytest.raises(HTTPError, match="404"):
        asked(f"{API}/metrics")
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
    for number in range(30):
        asked(f"{API}/api/v1/tasks", token, {"title": f"task {number}"})
    served = 'count(sum by (instance) (http_server_request_duration_seconds_count{http_route="/api/v1/tasks"}) > 0)'
    until(lambda: (queried(served) or [0])[0] >= 2, 60)
    monkeypatch.setenv("TASKCTL_REPLICAS", "3")
    compose("up", "-d")
    assert len(ids("api")) == 3
    until(lambda: healthy(*LASTING))


@pytest.mark.parametrize("service", ["postgres", "redis", "api"])
def test_whatever_is_killed_comes_back_by_itself_and_no_task_is_lost(token: str, service: str) -> None:
    before = count(token)
    with Writer(token) as writer:
        until(lambda: writer.acknowledged > 5)
        id = ids(service)[0]
        killed = state(id)
        os.kill(killed["Pid"], 9)
        until(lambda: state(id)["StartedAt"] != killed["StartedAt"] and state(id)["Running"])
        until(lambda: healthy(service))
        seen = writer.acknowledged
        until(lambda: writer.acknowledged > seen + 5)
    assert count(token) - before == writer.acknowledged
    print(f"{service}: {writer.acknowledged} tasks, {writer.failures} attempts failed")  # noqa: T201  # a figure to look at


def test_down_and_up_again_keeps_every_task_and_every_secret(token: str) -> None:
    before = count(token)
    compose("down")
    compose("up", "-d")
    until(lambda: healthy(*LASTING))
    assert compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip() == token
    assert count(token) == before


def test_passwords_are_changed_while_it_runs(token: str) -> None:
    compose("run", "--rm", "secrets", "--renew", "database", "postgres-exporter", "redis", "redis-admin", "redis-exporter")
    compose("exec", "-T", "postgres", "bash", "/docker-entrypoint-initdb.d/init.sh")
    compose("restart", "postgres-exporter", "redis", "redis-exporter", "api")
    until(lambda: healthy(*LASTING))
    asked(f"{API}/api/v1/tasks", token, {"title": "with new passwords"})
    until(lambda: queried("pg_up") == [1] and queried("redis_up") == [1], 60)
    assert queried("sum(taskctl_redis_breaker_open)") == [0]
    admin = 'redis-cli --user admin --pass "$(cat /run/secrets/redis/admin)" --no-auth-warning config get maxmemory'
    assert compose("exec", "-T", "redis", "sh", "-c", admin).split() == ["maxmemory", str(192 * 1024**2)]


def test_a_first_token_can_be_had_again(token: str) -> None:
    compose("run", "--rm", "--entrypoint", "rm", "token", "-f", "/run/secrets/token/first")
    compose("up", "-d")
    again = compose("exec", "-T", "api", "cat", "/run/secrets/token/first").strip()
    assert again != token
    assert asked(f"{API}/api/v1/me", again)["scopes"] == ["admin"]


def test_whoever_comes_while_there_is_no_server_is_told_so_as_by_taskctl(token: str) -> None:
    compose("stop", "api")
    with pytest.raises(HTTPError) as caught:
        asked(f"{API}/api/v1/tasks", token)
    assert (caught.value.code, json.loads(caught.value.read())["code"]) == (503, "unavailable")
    until(lambda: (queried("taskctl:requests_failed:ratio_rate5m") or [0])[0] > 0, 90)
    compose("start", "api")
    until(lambda: healthy(*LASTING))
