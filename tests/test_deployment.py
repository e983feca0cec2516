"""What compose.yaml is made of, without an engine: the secrets, the roles in PostgreSQL, the proxy, and how it fits together."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg2
import pytest
import yaml
from redis import Redis as Client
from redis.exceptions import NoPermissionError

from taskctl import Settings, wiring
from taskctl.errors import by_code
from taskctl.server.serve import LINGER_SECONDS, STOP_SECONDS
from taskctl.tracing import FLUSH_SECONDS
from tests.ops.lab import HAPROXY, POSTGRESQL, missing, running
from tests.postgres import OPTIONS, Cluster, free_port
from tests.redis import Server as Redis
from tests.support import SECONDS, Shell, serving

ROOT: Final = Path(__file__).parent.parent
DOCKER: Final = ROOT / "contrib" / "docker"
require = pytest.mark.skipif(bool(missing()) and not os.environ.get("CI"), reason=f"not here: {', '.join(missing())}")
COMPOSE: Final = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
API: Final = COMPOSE["services"]["api"]


# --------------------------------------------------------------------------------------------------------------- secrets


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """The volumes that compose.yaml mounts for the secrets, empty."""
    root = tmp_path / "secrets"
    for volume in COMPOSE["services"]["secrets"]["volumes"]:
        if found := re.fullmatch(r"secrets-[\w-]+:/run/secrets/([\w-]+)", volume):
            (root / found[1]).mkdir(parents=True)
    return root


def made(volumes: Path, mounted: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(DOCKER / "secrets.py"), str(volumes), str(mounted), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def within(volumes: Path) -> dict[str, str]:
    return {str(path.relative_to(volumes)): path.read_text("utf-8") for path in volumes.rglob("*") if path.is_file()}


@pytest.fixture
def readable(tmp_path: Path) -> Path:
    """A clone's contrib, as its services want it."""
    folder = tmp_path / "contrib"
    shutil.copytree(ROOT / "contrib", folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def test_secrets_are_made_once_and_each_anew_when_that_is_wanted(volumes: Path, readable: Path) -> None:
    assert made(volumes, readable).returncode == 0
    first = within(volumes)
    assert made(volumes, readable).returncode == 0
    assert within(volumes) == first
    assert made(volumes, readable, "--renew", "database", "redis").returncode == 0
    second = within(volumes)
    changed = {"postgres/taskctl", "taskctl/database", "taskctl/redis", "redis/redis.conf"}
    assert {name for name in second if second[name] != first[name]} == changed
    assert second["postgres/taskctl"] == second["taskctl/database"]
    assert "admin" in made(volumes, readable, "--renew", "nothing").stderr  # it says what there is


def test_secrets_have_nothing_of_one_another(volumes: Path, readable: Path) -> None:
    made(volumes, readable)
    found = within(volumes)
    passwords = [text for name, text in found.items() if name in ("grafana/admin", "postgres/superuser", "postgres/taskctl")]
    assert len(set(passwords)) == 3
    assert all(len(password) > 40 for password in passwords)
    assert not [name for name in found if name.startswith("redis-exporter") and found["taskctl/redis"] in found[name]]
    assert {path.stat().st_mode & 0o777 for path in volumes.rglob("*") if path.is_file()} == {0o444}


@pytest.mark.parametrize("kept", ["prometheus", "docker/postgres-init.sh", "grafana/dashboards/service.json"])
def test_a_clone_that_its_owner_keeps_from_others_is_told_of_before_anything_is_set_up(
    volumes: Path, readable: Path, kept: str
) -> None:
    (readable / kept).chmod(0o700 if (readable / kept).is_dir() else 0o600)
    told = made(volumes, readable)
    assert told.returncode == 1
    why = "can be read by its owner only, and services run as other users: chmod -R go+rX contrib"
    assert told.stderr == f"contrib/{kept} {why}\n"
    assert within(volumes) == {}


def test_all_that_services_mount_of_the_clone_is_looked_at() -> None:
    services = COMPOSE["services"].items()
    mounted = {name: [one for one in service.get("volumes", ()) if one.startswith(".")] for name, service in services}
    assert all(one.startswith("./contrib") for volumes in mounted.values() for one in volumes)
    waiting = [name for name, volumes in mounted.items() if volumes and name != "secrets"]
    assert waiting
    for name in waiting:
        assert COMPOSE["services"][name]["depends_on"]["secrets"] == {"condition": "service_completed_successfully"}


@pytest.mark.ops
@require
def test_redis_takes_its_rules_and_lets_each_do_their_own(volumes: Path, readable: Path) -> None:
    made(volumes, readable)
    found = within(volumes)
    rules = [line for line in found["redis/redis.conf"].splitlines() if not line.startswith("bind")]
    with Redis(*rules, program="redis-server") as server:
        for user, password, may, may_not in (
            ("taskctl", found["taskctl/redis"], ("MGET", "taskctl:x"), ("CONFIG", "GET", "maxmemory")),
            ("exporter", found["redis/exporter"], ("INFO", "memory"), ("GET", "taskctl:x")),
            ("admin", found["redis/admin"], ("CONFIG", "GET", "maxmemory"), None),
            (None, None, ("PING",), ("INFO",)),
        ):
            with Client(port=server.port, username=user, password=password, protocol=2) as client:
                client.execute_command(*may)
                if may_not is not None:
                    with pytest.raises(NoPermissionError):
                        client.execute_command(*may_not)


# ------------------------------------------------------------------------------------------------------------- the roles


def asked(cluster: Cluster, user: str, *sql: str, database: str = "postgres") -> list[Any]:
    with closing(psycopg2.connect(host="127.0.0.1", port=cluster.port, user=user, dbname=database)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in sql:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.mark.ops
@require
def test_the_roles_are_made_once_and_take_new_passwords_whenever_it_is_run(tmp_path: Path) -> None:
    cluster = Cluster(*OPTIONS, "shared_preload_libraries=pg_stat_statements", programs=POSTGRESQL)
    try:
        asked(cluster, "taskctl", "CREATE ROLE postgres SUPERUSER LOGIN")
        asked(cluster, "postgres", "ALTER ROLE taskctl RENAME TO whoever_made_the_cluster")
        script = (DOCKER / "postgres-init.sh").read_text("utf-8").replace("/run/secrets/postgres", str(tmp_path))
        at = {"PGHOST": "127.0.0.1", "PGPORT": str(cluster.port), "POSTGRES_USER": "postgres", "POSTGRES_DB": "postgres"}

        def run(app: str) -> dict[str, str]:
            (tmp_path / "taskctl").write_text(app)
            (tmp_path / "exporter").write_text("of the exporter")
            subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"], **at}, check=True, timeout=SECONDS)
            told = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('taskctl', 'exporter')"
            return dict(asked(cluster, "postgres", told))

        first, second = run("one"), run("another")
        assert first["taskctl"] != second["taskctl"]
        assert all(password.startswith("SCRAM-SHA-256$") for password in second.values())
        asked(cluster, "postgres", "DROP DATABASE taskctl")  # as if it had ended half way
        run("another")
        owner = (
            "SELECT rolname, rolsuper, datcollate FROM pg_database JOIN pg_roles r ON r.oid = datdba WHERE datname = 'taskctl'"
        )
        assert asked(cluster, "taskctl", owner, database="taskctl") == [("taskctl", False, "C")]
        wiring.upgrade(Settings(database_url=f"postgresql://taskctl@127.0.0.1:{cluster.port}/taskctl"))
        assert asked(cluster, "exporter", "SELECT count(*) >= 0 FROM pg_stat_statements", database="taskctl") == [(True,)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            asked(cluster, "exporter", "SELECT * FROM tasks", database="taskctl")
    finally:
        cluster.close()


@pytest.mark.ops
@require
@pytest.mark.parametrize("lacking", ["taskctl", "exporter"])
@pytest.mark.parametrize("left", [None, ""], ids=["not there", "empty"])
def test_no_role_is_made_without_its_password(tmp_path: Path, lacking: str, left: str | None) -> None:
    cluster = Cluster(programs=POSTGRESQL)
    try:
        asked(cluster, "taskctl", "CREATE ROLE postgres SUPERUSER LOGIN", "CREATE DATABASE whatever")
        for name in ("taskctl", "exporter"):
            (tmp_path / name).write_text("a password")
        (tmp_path / lacking).unlink()
        if left is not None:
            (tmp_path / lacking).write_text(left)
        script = (DOCKER / "postgres-init.sh").read_text("utf-8").replace("/run/secrets/postgres", str(tmp_path))
        at = {"PGHOST": "127.0.0.1", "PGPORT": str(cluster.port), "POSTGRES_USER": "postgres", "POSTGRES_DB": "postgres"}
        environment = {"PATH": os.environ["PATH"], **at}
        ran = subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert ran.returncode == 1
        assert ran.stderr == (
            f"{tmp_path}/{lacking} cannot be read, or is empty, so nothing was done. When that is mended: "
            "docker compose exec postgres bash /docker-entrypoint-initdb.d/init.sh\n"
        )
        assert asked(cluster, "postgres", "SELECT rolname FROM pg_roles WHERE rolname = 'exporter'") == []
    finally:
        cluster.close()


# ------------------------------------------------------------------------------------------------------------- the proxy


class Proxied(NamedTuple):
    """A proxy that runs. users: the address for them; own: that of what it tells of itself."""

    users: str
    own: str

    def answered(self, code: str) -> int:
        """Return how many answers users have got, by the first digit of their status: 5xx."""
        told = urlopen(f"{self.own}/metrics", timeout=SECONDS).read().decode()
        [number] = re.findall(rf'^haproxy_frontend_http_responses_total{{proxy="http",code="{code}"}} (\d+)$', told, re.MULTILINE)
        return int(number)


@contextmanager
def proxied(folder: Path, *servers: str, **environment: str) -> Iterator[Proxied]:
    """Run the proxy of compose.yaml in front of servers, and yield where it is."""
    text = (DOCKER / "haproxy.cfg").read_text("utf-8")
    text = re.sub(r"^resolvers .*?\n\n", "", text, flags=re.MULTILINE | re.DOTALL)
    text = text.replace(" resolvers engine resolve-prefer ipv4 init-addr none", "")
    lines = "\n    ".join(f"server api{number} {server}" for number, server in enumerate(servers))
    text = text.replace("server-template api 10 servers:8080", lines)
    port, metrics = free_port(), free_port()
    text = text.replace("bind :8080", f"bind 127.0.0.1:{port}").replace("bind :8405", f"bind 127.0.0.1:{metrics}")
    assert not re.search(r"engine|server-template", text.split("global", 1)[1])
    (folder / "haproxy.cfg").write_text(text)
    own = f"http://127.0.0.1:{metrics}"
    with running([str(HAPROXY), "-db", "-f", str(folder / "haproxy.cfg")], f"{own}/metrics", **environment):
        yield Proxied(f"http://127.0.0.1:{port}", own)


@pytest.mark.ops
@require
@pytest.mark.parametrize("servers", [[], ["127.0.0.1:9"]], ids=["none", "one that is away"])
def test_what_the_proxy_says_by_itself_has_the_form_of_taskctls_own_answers(tmp_path: Path, servers: list[str]) -> None:
    with proxied(tmp_path, *servers) as proxy:
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(f"{proxy.users}/api/v1/tasks", headers={"X-Request-Id": 'a"b'}), timeout=SECONDS)
        told = caught.value
        problem = json.loads(told.read())
        assert (told.code, told.headers["Content-Type"]) == (503, "application/problem+json")
        assert (told.headers["Retry-After"], told.headers["X-Request-Id"]) == ("2", 'a"b')
        assert problem["request_id"] == 'a"b'
        with pytest.raises(HTTPError) as caught:
            urlopen(proxy.own, timeout=SECONDS)
        assert (caught.value.code, json.loads(caught.value.read())["code"]) == (404, "not_found")
        said = Shell(tmp_path).fails(7, "--server", proxy.users, "task", "list")
        assert said == "there is no server that could answer now"


def test_its_problems_are_those_of_taskctl() -> None:
    found = re.findall(r"http-error status (\d+) .* lf-string '(.*?)'", (DOCKER / "haproxy.cfg").read_text("utf-8"))
    assert {int(status) for status, _ in found} == {404, 502, 503, 504}
    for status, text in found:
        problem = json.loads(text)
        kind = by_code(problem["code"])
        assert problem["status"] == int(status)
        assert problem["type"] == f"urn:taskctl:problem:{kind.code}"
        assert (problem["title"], problem["retryable"]) == (kind.title, kind.retryable)
        assert problem["detail"]


@pytest.mark.ops
@require
def test_the_proxy_and_the_server_tell_of_a_request_by_the_same_id(tmp_path: Path) -> None:
    with serving(Shell(tmp_path, TASKCTL_MIGRATE="auto"), "--log-format", "json") as server:
        with proxied(tmp_path, f"127.0.0.1:{server.port}") as proxy:
            with urlopen(f"{proxy.users}/api/v1/tasks", timeout=SECONDS) as answer:
                given = answer.headers["X-Request-Id"]
            with urlopen(Request(f"{proxy.users}/api/v1/tasks", headers={"X-Request-Id": "mine"}), timeout=SECONDS) as answer:
                assert answer.headers["X-Request-Id"] == "mine"
        assert re.fullmatch(r"[0-9a-f-]{36}", given)
        server.logged(f'"id":"{given}"')


@pytest.mark.ops
@require
def test_metrics_are_where_prometheus_asks_and_not_where_the_proxy_leads(tmp_path: Path) -> None:
    host, _, port = API["environment"].get("TASKCTL_METRICS_ADDRESS", "").partition(":")
    jobs = yaml.safe_load((ROOT / "contrib/prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    [asked] = [job["dns_sd_configs"][0] for job in jobs if job["job_name"] == "taskctl"]
    assert (host, port) == ("0.0.0.0", str(asked["port"]))  # of a container: for others
    at = f"127.0.0.1:{free_port()}"
    with serving(Shell(tmp_path, TASKCTL_MIGRATE="auto", TASKCTL_METRICS_ADDRESS=at)) as server:
        with proxied(tmp_path, f"127.0.0.1:{server.port}") as proxy:
            for path in ("/metrics", "/%6detrics", "/metrics?x", "//metrics", "/./metrics"):
                with pytest.raises(HTTPError) as caught:
                    urlopen(f"{proxy.users}{path}", timeout=SECONDS)
                assert caught.value.code in (400, 404), path
                assert b"taskctl_" not in caught.value.read(), path
        assert b"taskctl_build_info" in urlopen(f"http://{at}/metrics", timeout=SECONDS).read()


@pytest.mark.ops
@require
def test_who_looks_whether_the_proxy_lives_is_no_user_of_it(tmp_path: Path) -> None:
    """The goals count what users get: 503 to a health check, while there is no server, would use up their budget."""
    check = re.search(
        r"^HEALTHCHECK .*http://127\.0\.0\.1:(\d+)(/\w+)", (DOCKER / "proxy.Dockerfile").read_text("utf-8"), re.MULTILINE
    )
    assert check is not None
    with proxied(tmp_path) as proxy:
        asked = {"8080": proxy.users, "8405": proxy.own}[check[1]] + check[2]
        with urlopen(asked, timeout=SECONDS) as answer:
            assert answer.status == 200
        assert proxy.answered("5xx") == 0
        with pytest.raises(HTTPError, match="503"):
            urlopen(f"{proxy.users}/livez", timeout=SECONDS)
        assert proxy.answered("5xx") == 1


@pytest.mark.ops
@require
def test_a_proxy_in_front_is_believed_if_somebody_says_so(tmp_path: Path) -> None:
    own, told = "127.0.0.1", "203.0.113.7"
    trusting = Shell(tmp_path, TASKCTL_MIGRATE="auto", TASKCTL_TRUSTED_PROXIES=own)
    with serving(trusting, "--log-format", "json") as server:
        for said, address in (
            *((said, told) for said in ("1", "true", "True", "yes", "YES", "on")),
            *((said, own) for said in ("0", "false", "no", "off", "", "1 or so")),
        ):
            with proxied(tmp_path, f"{own}:{server.port}", TASKCTL_BEHIND_PROXY=said) as proxy:
                about = {"X-Forwarded-For": told, "X-Request-Id": f"said-{said.replace(' ', '-')}-"}
                urlopen(Request(f"{proxy.users}/api/v1/tasks", headers=about), timeout=SECONDS).close()
            line = json.loads(server.logged(rf'.*"id":"{about["X-Request-Id"]}".*')[0])
            assert (line["event"], line["address"]) == ("request", address), said


# ---------------------------------------------------------------------------------------------------- how it fits together


def test_the_proxy_asks_servers_on_the_network_from_which_they_believe_it() -> None:
    """Both are on another one, too. A name that both have would lead there as well, whichever the engine chose."""
    names = re.findall(r"^    server-template \S+ \d+ (\S+):8080$", (DOCKER / "haproxy.cfg").read_text("utf-8"), re.MULTILINE)
    assert len(names) == 2
    [name] = set(names)
    known = {network: set((more or {}).get("aliases", ())) for network, more in dict(API["networks"]).items()}
    assert {network for network, aliases in known.items() if name in aliases} == {"front"}
    assert name not in COMPOSE["services"]
    assert COMPOSE["networks"]["front"]["ipam"]["config"][0]["subnet"] == API["environment"]["TASKCTL_TRUSTED_PROXIES"]


def test_a_server_has_the_time_that_it_takes_to_stop() -> None:
    given = re.fullmatch(r"(\d+)s", API["stop_grace_period"])
    assert given is not None
    takes = float(API["environment"]["TASKCTL_DRAIN_SECONDS"]) + LINGER_SECONDS + STOP_SECONDS + FLUSH_SECONDS
    assert int(given[1]) > takes + 5  # for what else it has to end: connections, the feed
