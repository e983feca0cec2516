"""What `/metrics` tells of a server: that it is true, documented, bounded, free of secrets, and cheap."""

import asyncio
import random
import re
import socket
import sqlite3
import string
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import urlopen

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from taskctl import Settings, Unavailable, create_app, open_tasks, wiring
from taskctl.access import OWNER, new_secret
from taskctl.metrics import OTHER, Metrics
from taskctl.observe import METHODS, Audited, DatabaseAway, DatabaseBack, Event, RequestDone, StatementDone, TasksCounted, ignore
from taskctl.server.requests import OPENED
from taskctl.storage import driver
from taskctl.storage.census import Census
from taskctl.storage.sqlite import Connection, InlineSqlite, drive
from tests.postgres import database, free_port
from tests.redis import emptied
from tests.support import SECONDS, Api, Server, Shell, added, bearing, minted, problem_of, serving
from tests.test_access_matrix import MATRIX
from tests.test_exposition import OPEN_METRICS, TEXT, promtool, read_back, samples
from tests.test_statuses import known_failures

DOCS: Final = Path(__file__).parent.parent / "docs" / "metrics.md"
SERIES_MAX: Final = 13_000
TASKS: Final = "/api/v1/tasks"
Numbers = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@asynccontextmanager
async def served(folder: Path, **more: Any) -> AsyncIterator[Api]:
    """Run the application on a file, or on what else the settings say."""
    app = create_app(Settings(**{"database_url": f"sqlite:///{folder}/tasks.db", **more}))
    async with TestClient[web.Request, web.Application](TestServer(app)) as api:
        yield api


@asynccontextmanager
async def whole(folder: Path, **more: Any) -> AsyncIterator[Api]:
    """Run it with everything that a server can have."""
    with database() as url, emptied() as redis:
        async with served(folder, database_url=url, redis_url=redis, redis_tasks=True, auth="tokens", **more) as api:
            yield api


async def scraped(api: Api, accept: str = "") -> str:
    answer = await api.get("/metrics", headers={"Accept": accept})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == (accept or TEXT)
    assert answer.headers["Vary"] == "Accept"
    return await answer.text()


async def numbers(api: Api) -> Numbers:
    return samples(read_back(text_format, (await scraped(api)).encode()))


async def counted(api: Api) -> Numbers:
    """Return the numbers once the tasks have been counted; nobody tells when."""
    while ("taskctl_tasks_overdue", ()) not in (found := await numbers(api)):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return found


def told(found: Numbers, name: str, **labels: str) -> float:
    """Return a number, 0 for what has not happened yet."""
    return found.get((name, tuple(sorted(labels.items()))), 0)


def requests(found: Numbers, method: str, route: str, status: int) -> float:
    name = "http_server_request_duration_seconds_count"
    return told(found, name, http_request_method=method, http_route=route, http_response_status_code=str(status))


def series(body: str) -> int:
    return sum(not line.startswith("#") for line in body.splitlines())


# ------------------------------------------------------------------------------------------------------------- what is told


class Documented(NamedTuple):
    """A metric: its type, and its labels."""

    type: str
    labels: frozenset[str]


def documented() -> dict[str, Documented]:
    found = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            assert len(cells) == 4
            assert cells[3]
            name = cells[0].strip("`")
            assert name not in found
            found[name] = Documented(cells[1], frozenset(re.findall(r"`(\w+)`", cells[2])))
    return found


async def everything(api: Api) -> None:
    """Do everything of which a metric tells."""
    api.session.headers.update(bearing(await minted(api, "admin")))
    task = await added(api, "first", due="2020-01-01")
    for _ in range(3):
        assert (await api.get(f"{TASKS}/{task['id']}")).status == 200
    for path in (
        f"{TASKS}?q=first",
        f"{TASKS}/1/history",
        "/api/v1/changes",
        "/api/v1/labels",
        "/api/v1/projects",
        "/api/v1/stats",
    ):
        assert (await api.get(path)).status == 200
    assert (await api.patch(f"{TASKS}/1", json={"status": "done"})).status == 200
    assert (await api.post(TASKS, json={"title": "again"}, headers={"Idempotency-Key": "key"})).status == 201
    made = await api.post("/api/v1/tokens", json={"name": "new", "scopes": ["tasks:read"]})
    assert (await api.delete(f"/api/v1/tokens/{(await made.json())['token']['id']}")).status == 204
    assert (await api.get(TASKS, headers=bearing(new_secret()[1]))).status == 401
    await counted(api)
    while "taskctl_feed_poll_duration_seconds_count 0" in (body := await scraped(api)) or "redis_failures_total{" not in body:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_every_metric_is_in_the_docs_and_all_of_those_are_told(tmp_path: Path) -> None:
    async with whole(tmp_path) as api:
        await everything(api)
        body = await scraped(api)
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", body, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for name, pairs in samples(read_back(text_format, body.encode())):
        family = name if name in types else re.sub(r"_(bucket|count|sum)$", "", name)
        labels[family] |= {label for label, _ in pairs} - {"le"}
    assert {name: Documented(types[name], frozenset(labels[name])) for name in types} == documented()


async def test_prometheus_can_read_all_of_it(tmp_path: Path) -> None:
    async with whole(tmp_path) as api:
        await everything(api)
        text, other = await scraped(api), await scraped(api, OPEN_METRICS)
    names = {family.name for family in read_back(text_format, text.encode())}
    assert {family.name for family in read_back(open_metrics, other.encode())} == names
    assert other.endswith("\n# EOF\n")
    promtool(text.encode())


def test_the_docs_explain_every_statement() -> None:
    from typing import get_args

    from taskctl.observe import Statement

    [explained] = re.findall(r"^The statements are (.*?)\n\n", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", explained)) == set(get_args(Statement))
    assert f"fewer than {SERIES_MAX:,} series" in DOCS.read_text()


# ---------------------------------------------------------------------------------------------------------- that it is true


async def test_requests_and_writes_are_counted_as_they_happen(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        for number in range(3):
            await added(api, f"{number}")
        for id in (1, 1, 2):
            assert (await api.patch(f"{TASKS}/{id}", json={"status": "done"})).status == 200
        assert (await api.post(TASKS, json={"title": "done already", "status": "done"})).status == 201
        assert (await api.post(f"{TASKS}?dry_run=true", json={"title": "not meant"})).status == 200
        assert (await api.post(TASKS, json={"title": ""})).status == 422
        operations = [{"op": "add", "task": {"title": f"b{number}"}} for number in range(5)]
        assert (await api.post("/api/v1/batch", json={"operations": [*operations, {"op": "remove", "id": 3}]})).status == 200
        assert (await api.head(f"{TASKS}/1")).status == 200
        assert (await api.get("/nowhere")).status == 404
        found = await numbers(api)
    assert requests(found, "POST", TASKS, 201) == 4
    assert requests(found, "POST", TASKS, 422) == 1
    assert requests(found, "PATCH", f"{TASKS}/{{id}}", 200) == 3
    assert requests(found, "HEAD", f"{TASKS}/{{id}}", 200) == 1
    assert requests(found, "GET", OTHER, 404) == 1
    assert told(found, "http_server_active_requests") == 1
    sizes = {"http_request_method": "PATCH", "http_route": f"{TASKS}/{{id}}"}
    assert told(found, "http_server_request_body_size_bytes_count", **sizes) == 3
    assert told(found, "http_server_request_body_size_bytes_sum", **sizes) == 3 * len('{"status": "done"}')
    assert told(found, "http_server_response_body_size_bytes_count", **sizes) == 3
    sizes["http_request_method"] = "HEAD"
    assert told(found, "http_server_response_body_size_bytes_count", **sizes) == 0
    assert told(found, "taskctl_tasks_created_total") == 3 + 1 + 5
    assert told(found, "taskctl_tasks_completed_total") == told(found, "taskctl_task_lead_time_seconds_count") == 2 + 1
    assert told(found, "taskctl_task_lead_time_seconds_bucket", le="900.0") == 3
    assert told(found, "taskctl_commit_operations_total") == 3 + 3 + 1 + 1 + 6
    assert told(found, "taskctl_commit_changesets_sum") == 3 + 3 + 1 + 1 + 1
    assert told(found, "taskctl_commit_waiting_operations") == 0
    statements = "taskctl_database_statement_duration_seconds_count"
    assert told(found, statements, statement="commit") == told(found, "taskctl_commit_duration_seconds_count")


@pytest.mark.parametrize("stack", ["sqlite", "postgres"])
async def test_all_tasks_are_counted_over_all_workspaces(tmp_path: Path, stack: str) -> None:
    async with whole(tmp_path) if stack == "postgres" else served(tmp_path, auth="tokens") as api:
        assert api.app is not None
        tokens = api.app[OPENED].tokens
        assert tokens is not None
        await tokens.access(OWNER).add_workspace("there")
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
        for workspace in ("default", "there"):
            api.session.headers.update(bearing(await minted(api, "tasks:write", workspace=workspace)))
            for fields in (
                {"due": yesterday},
                {"due": "2999-01-01"},
                {"due": yesterday, "status": "done"},
                {"status": "cancelled"},
            ):
                await added(api, **fields)
        await added(api, due="2020-01-01T00:00:00Z", status="in_progress")
        found = await counted(api)
    expected = {"todo": 4, "in_progress": 1, "done": 2, "cancelled": 2}
    assert {status: told(found, "taskctl_tasks", status=status) for status in expected} == expected
    assert told(found, "taskctl_tasks_overdue") == 3
    assert 0 < told(found, "taskctl_oldest_open_task_age_seconds") < 60
    assert 0 <= told(found, "taskctl_tasks_age_seconds") < 60
    assert not {label for _, labels in found for label, value in labels if value in ("there", "default")}


async def test_nobody_counts_tasks_that_nobody_asks_for(tmp_path: Path) -> None:
    events: list[Event] = []
    seen = asyncio.Event()

    def observe(event: Event) -> None:
        events.append(event)
        if isinstance(event, TasksCounted):
            seen.set()

    async with open_tasks(f"sqlite:///{tmp_path}/tasks.db") as tasks:
        await tasks.ready()
    inline = InlineSqlite(wiring._file(f"sqlite:///{tmp_path}/tasks.db", Settings(), observe))
    census = Census(inline, observe)
    async with census.counting():
        for _ in range(10):
            await asyncio.sleep(0)
        assert events == []
        census.want()
        await seen.wait()
        for _ in range(10):
            census.want()
            await asyncio.sleep(0)
        assert sum(isinstance(event, StatementDone) for event in events) == 1
    assert events[-1] == TasksCounted(dict.fromkeys(("todo", "in_progress", "done", "cancelled"), 0), 0, 0.0)
    await inline.close()


async def test_tokens_and_limits_are_counted(tmp_path: Path) -> None:
    limits = {"rate_limit_token": "5/minute", "rate_limit_failures": "2/minute", "rate_limit_address": "40/minute"}
    async with served(tmp_path, auth="tokens", **limits) as api:
        admin = bearing(await minted(api, "admin"))
        made = await api.post("/api/v1/tokens", json={"name": "new", "scopes": ["tasks:read"]}, headers=admin)
        token = (await made.json())["token"]["id"]
        revoked = bearing((await made.json())["secret"])
        assert (await api.delete(f"/api/v1/tokens/{token}", headers=admin)).status == 204
        soon = datetime.now(UTC) + timedelta(seconds=1)
        expired = bearing(await minted(api, "tasks:read", expires_at=soon))
        await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.01)
        unknown, malformed = bearing(new_secret()[1]), bearing("tc_api_nonsense")
        for headers in (revoked, expired, unknown, malformed):
            assert (await api.get(TASKS, headers=headers)).status == 401
        assert (await api.get(TASKS, headers=unknown)).status == 429
        statuses = Counter([(await api.get(TASKS, headers=admin)).status for _ in range(10)])
        assert statuses == {200: 3, 429: 7}
        while (await api.get("/api/v1/me")).status != 429:
            pass
        found = await numbers(api)
    assert [told(found, f"taskctl_tokens_{what}_total") for what in ("created", "revoked")] == [3, 1]
    for reason in ("revoked", "expired", "unknown", "malformed"):
        assert told(found, "taskctl_tokens_refused_total", reason=reason) == 1
    assert [told(found, "taskctl_rate_limited_total", limit=limit) for limit in ("token", "failures", "address")] == [7, 1, 1]


def test_a_limit_counts_what_is_no_http_either(tmp_path: Path) -> None:
    limits = ("--rate-limit-address", "5/minute", "--auth", "tokens")
    with serving(Shell(tmp_path, TASKCTL_MIGRATE="auto"), *limits) as server:
        answers = []
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", server.port), SECONDS) as sent:
                sent.sendall(b"this is no HTTP\r\n\r\n")
                answers.append(sent.makefile("rb").readline())
        with urlopen(f"{server.url}/metrics", timeout=SECONDS) as answer:
            found = answer.read().decode()
    assert [answer.split()[1] for answer in answers] == [b"400"] * 5 + [b"429"] * 3
    assert re.search(r'^taskctl_rate_limited_total{limit="address"} 3$', found, re.MULTILINE)


async def test_the_caches_tell_what_answered(tmp_path: Path) -> None:
    async with whole(tmp_path) as api:
        await everything(api)
        before = await numbers(api)
        for _ in range(5):
            assert (await api.get(f"{TASKS}/1")).headers["Cache-Status"].startswith("taskctl; hit")
        assert (await api.get(f"{TASKS}/1", headers={"Cache-Control": "no-cache"})).status == 200
        found = await numbers(api)
    gained = {key: found[key] - before.get(key, 0) for key in found if key[0] == "taskctl_cache_requests_total"}
    assert {labels: gain for (_, labels), gain in gained.items() if gain} == {
        (("outcome", "hit"), ("tier", "memory")): 5,
        (("outcome", "request"), ("tier", "database")): 1,
    }
    assert told(found, "taskctl_cache_entries") > 0
    assert told(found, "taskctl_cache_bytes") > 0
    assert told(found, "taskctl_feed_followed_workspaces") == 1
    assert told(found, "taskctl_feed_lease_held") == 1
    assert 0 <= told(found, "taskctl_feed_lag_seconds") < 2
    assert told(found, "taskctl_redis_breaker_open") in (0, 1)  # on a busy machine a Redis may seem to hang
    for pool in ("read", "write"):
        states = [told(found, "taskctl_database_connections", pool=pool, state=state) for state in ("idle", "busy", "connecting")]
        assert 1 <= sum(states) <= 8
        assert told(found, "taskctl_database_connection_waiters", pool=pool) == 0


def test_a_database_that_is_away_is_not_up() -> None:
    metrics = Metrics("1")
    for event, up in ((None, 1), (DatabaseAway("it is away"), 0), (DatabaseBack(1.0), 1)):
        if event is not None:
            metrics.observe(event)
        assert told(samples(read_back(text_format, metrics.scrape("")[1])), "taskctl_database_up") == up


def test_failures_of_the_api_begin_at_0_and_those_of_callers_and_probes_are_none() -> None:
    metrics = Metrics("1")
    name = "taskctl_requests_failed_total"
    statuses = ("500", "503", "507")

    def failures() -> list[float]:
        found = samples(read_back(text_format, metrics.scrape("")[1]))
        return [found[name, (("http_response_status_code", status),)] for status in statuses]

    assert failures() == [0, 0, 0]
    for route, status in ((TASKS, 507), (f"/prefix{TASKS}/{{id}}", 507), (TASKS, 503), (TASKS, 422), ("/readyz", 503), ("", 501)):
        metrics.observe(RequestDone("POST", "", route, status, 0.1, "id"))
    assert failures() == [0, 1, 2]


async def test_statements_that_fail_are_counted_with_their_time() -> None:
    metrics = Metrics("1")
    settings = Settings(database_timeout=1)
    with database() as url:
        async with wiring._open_database(url, settings, "w", None, "api", metrics.observe, checked=False, cached=False) as (
            _,
            opened,
        ):
            with pytest.raises(Unavailable, match="has not done a statement within 1 s"):
                await opened.fetch("SELECT pg_sleep(3)", name="list")
            found = samples(read_back(text_format, metrics.scrape("")[1]))
    assert told(found, "taskctl_database_statement_failures_total", statement="list") == 1
    assert found["taskctl_database_statement_failures_total", (("statement", "write"),)] == 0
    duration = "taskctl_database_statement_duration_seconds"
    assert told(found, f"{duration}_count", statement="list") == 1
    assert 0.9 < told(found, f"{duration}_sum", statement="list") < 3


def test_statements_that_fail_on_a_file_are_counted_too(tmp_path: Path) -> None:
    events: list[Event] = []
    connection = Connection(sqlite3.connect(tmp_path / "new.db"), events.append)
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("SELECT * FROM nothing", (), "list")
    with pytest.raises(sqlite3.OperationalError):
        drive(connection.delete("nothing", ("id",), [(1,)]))
    connection.raw.close()
    assert [(event.name, event.failed) for event in events if isinstance(event, StatementDone)] == [
        ("list", True),
        ("write", True),
    ]


async def test_a_count_may_take_longer_than_a_request() -> None:
    async def slow(connection: driver.Connection) -> list[driver.Row]:
        await connection.allow(10)
        return await connection.fetch("SELECT 1 FROM pg_sleep(2.5)")

    settings = Settings(database_timeout=1)
    with database() as url:
        async with wiring._open_database(url, settings, "w", None, "api", ignore, checked=False, cached=False) as (_, opened):
            assert await opened.read(slow) == [(1,)]
            with pytest.raises(Unavailable, match="has not done a statement within 1 s"):  # the next one may not
                await opened.fetch("SELECT pg_sleep(2.5)")


async def test_the_count_of_tasks_has_an_age_before_it_ever_succeeds(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        assert ("taskctl_tasks_age_seconds", ()) in await numbers(api)


async def test_a_file_has_no_lease_that_could_be_lost(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        await added(api)
        assert {name for name, _ in await numbers(api)} & {"taskctl_feed_lease_held", "taskctl_feed_lag_seconds"} == set()


def test_a_token_of_which_nobody_knows_whether_it_was_made_is_not_counted() -> None:
    metrics = Metrics("1")
    for action in ("created", "revoked"):
        for why in ("", "it is not known whether it happened"):
            metrics.observe(Audited(action, "token", why=why))
        assert told(samples(read_back(text_format, metrics.scrape("")[1])), f"taskctl_tokens_{action}_total") == 1


# ------------------------------------------------------------------------------------------------------------ where it is told


async def test_who_asks_needs_no_token_and_no_name(tmp_path: Path) -> None:
    async with served(tmp_path, auth="tokens", rate_limit_address="1/day") as api:
        for _ in range(3):
            assert (await api.get("/metrics", headers={"Host": "10-0-0-7.pod.example"})).status == 200
        head = await api.head("/metrics")
        assert (head.status, head.headers["Content-Type"], await head.read()) == (200, TEXT, b"")


async def test_metrics_that_are_off_are_not_there(tmp_path: Path) -> None:
    async with served(tmp_path, metrics=False) as api:
        await problem_of(await api.get("/metrics"), 404, "not_found")
        await added(api)


async def test_an_address_of_their_own_has_the_metrics_and_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    own = f"http://127.0.0.1:{port}"
    async with served(tmp_path, metrics_address=f"127.0.0.1:{port}") as api, aiohttp.ClientSession() as session:
        await problem_of(await api.get("/metrics"), 404, "not_found")
        await added(api)
        async with session.get(f"{own}/metrics", headers={"Host": "prometheus.example", "Accept": OPEN_METRICS}) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, OPEN_METRICS)
            found = samples(read_back(open_metrics, await answer.read()))
        assert requests(found, "POST", TASKS, 201) == 1
        assert requests(found, "GET", "/metrics", 404) == 1
        async with session.head(f"{own}/metrics") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        for method, path, status, code in (
            ("GET", TASKS, 404, "not_found"),
            ("GET", "/", 404, "not_found"),
            ("POST", "/metrics", 405, "method_not_allowed"),
        ):
            async with session.request(method, f"{own}{path}") as answer:
                await problem_of(answer, status, code)
        taken = create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", metrics_address=f"127.0.0.1:{port}"))
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1 port {port} for /metrics"):
            async with TestServer(taken):
                pass
    with pytest.raises(OSError, match=r"Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


def test_a_server_tells_where_it_is_told_to(tmp_path: Path) -> None:
    import urllib.request

    port = free_port()
    shell = Shell(tmp_path)
    with serving(shell, "--metrics-address", f"127.0.0.1:{port}"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"taskctl_build_info" in answer.read()
        assert "cannot listen" in shell.fails(7, "serve", "--port", "0", "--metrics-address", f"127.0.0.1:{port}")
    assert "metrics_address must be" in shell.fails(2, "serve", "--metrics-address", "9100")
    assert "metrics is false" in shell.fails(2, "serve", "--metrics-address", "127.0.0.1:9100", "--no-metrics")


# ------------------------------------------------------------------------------------------- what is not in it, what it costs


def noise(random: random.Random, length: int = 12) -> str:
    return "".join(random.choices(string.ascii_letters + string.digits, k=length))


def hostile(random: random.Random, tokens: list[str]) -> bytes:
    """Return a request that tries to leave something of its own in the metrics."""
    method = random.choice([*METHODS, "BREW", "PURGE", "PROPFIND", noise(random).upper(), "G=T"])
    paths = [route.split()[1] for route in MATRIX]
    path = random.choice([*paths, f"/{noise(random)}", f"{TASKS}/{noise(random)}", f"{TASKS}?{noise(random)}={noise(random)}"])
    path = path.replace("{id}", random.choice(["1", noise(random), str(random.randrange(10**9))]))
    headers = {
        "Host": random.choice(["localhost", "127.0.0.1", f"{noise(random)}.example", noise(random)]),
        "X-Request-Id": noise(random, random.choice([5, 200])),
        "Authorization": f"Bearer {random.choice([*tokens, *tokens, new_secret()[1], noise(random)])}",
        "User-Agent": noise(random),
        "Origin": f"https://{noise(random)}.example",
        "Prefer": random.choice(["return=minimal", noise(random)]),
        "Expect": random.choice([*[""] * 8, noise(random)]),
        noise(random): noise(random),
        "Connection": "close",
    }
    title = f'{{"title": "{noise(random)}", "name": "{noise(random).lower()}"}}'
    body = random.choice([b"", title.encode(), noise(random).encode()])
    headers |= {"Content-Length": str(len(body)), "Content-Type": random.choice(["application/json", noise(random)])}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def sent(server: Server, requests: list[bytes]) -> None:
    """Send requests, each on a connection of its own, some at a time."""
    some = asyncio.Semaphore(16)

    async def send(request: bytes) -> None:
        async with some:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 ")
            writer.close()

    await asyncio.gather(*map(send, requests))


def fetched(server: Server, accept: str = "") -> str:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/metrics", headers={"Accept": accept})) as answer:
        body: bytes = answer.read()
        return body.decode()


def test_whatever_is_sent_there_are_no_more_series_than_the_server_knows_of(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    tokens = []
    for name, workspace in (("a", "default"), ("b", "garden-of-secrets")):
        assert workspace == "default" or shell("workspace", "create", workspace).code == 0
        made = shell("token", "create", name, "--scope", "admin", "--workspace", workspace)
        assert made.code == 0, made
        tokens.append(made.out.strip())
    seed = random.Random(7)
    options = ("--auth", "tokens", "--rate-limit-failures", "off", "--rate-limit-address", "off", "--rate-limit-token", "off")
    with serving(shell, *options) as server:
        asyncio.run(sent(server, [hostile(seed, tokens) for _ in range(1500)]))
        fetched(server)
        text, other = fetched(server), fetched(server, OPEN_METRICS)
    assert series(text) < SERIES_MAX
    values: dict[str, set[str]] = {}
    for _, labels in samples(read_back(text_format, text.encode())):
        for label, value in labels:
            values.setdefault(label, set()).add(value)
    statuses = {"200", "201", "204", "304", *(str(failure.status) for failure in known_failures())}
    routes = {route.split()[1] for route in MATRIX} | {OTHER}
    assert values["http_request_method"] <= {*METHODS, OTHER}
    assert values["http_route"] <= routes
    assert values["http_response_status_code"] <= statuses
    closed = set(values) - {"http_request_method", "http_route", "http_response_status_code", "le", "version", "python"}
    assert all(re.fullmatch(r"[a-z_0-9]{1,16}", value) for label in closed for value in values[label])
    assert sum(len(values[label]) for label in closed) < 80
    # Nothing that was sent, or is known of who sent it.
    for body in (text, other):
        for word in ("tc_", "garden", ".example", "Bearer", "127.0.0.1", *(token.split("_")[2] for token in tokens)):
            assert word not in body
    assert "request_id" in other


def test_the_bound_holds_for_all_that_a_server_can_answer() -> None:
    """Every operation with every status that it can give, every other answer with every method, every statement."""
    from typing import get_args

    from taskctl.observe import Statement
    from tests.test_statuses import CALLS, cells

    metrics = Metrics("1")
    failures = {failure.status for failure in known_failures()}
    done = [(call.method, call.path.replace("/1", "/{id}"), status) for name, status in cells() for call in (CALLS[name],)]
    done += [("HEAD", path, status) for method, path, status in done if method == "GET"]
    done += [(method, "", status) for method in (*METHODS, "BREW") for status in failures]
    files = [route.split() for route in MATRIX if "/docs/" in route]
    done += [(method, path, status) for method, path in files for status in (200, 304, 400, 421, 429, 431)]
    for method, route, status in done:
        metrics.observe(RequestDone(method, "", route, status, 0.1, "id", received=1, sent=1))
    for statement in get_args(Statement):
        metrics.observe(StatementDone("", 0, 0.1, statement))
    known = series(metrics.scrape("")[1].decode())
    assert 10_000 < known < SERIES_MAX - 500  # the rest is read from caches, pools and Redis
