"""Every status that every operation can give, each brought about. docs/statuses.md, the table of them, is held equal here."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
import pytest
from aiohttp import ClientResponse
from pytest_aiohttp import AiohttpClient

from taskctl import Changeset, IdempotencyKey, Settings, TaskctlError, TaskService, Unavailable, create_app
from taskctl.access import Known, Token, hash_of, new_secret
from taskctl.errors import StorageFull
from taskctl.observe import ignore
from taskctl.server import requests
from taskctl.server.admission import Opened
from taskctl.server.app import make_app
from taskctl.storage.tokens import SqlTokens
from taskctl.tasks import CacheStats, Query, Read, Remembering, Source, T, Written
from tests.support import Api, Server, Shell, bearing, minted, problem_of
from tests.test_openapi import Shapes, resolved

DOCS = Path(__file__).parent.parent / "docs" / "statuses.md"
WHOLE: dict[str, Any] = {
    **dict.fromkeys(("description", "project", "due")),
    "title": "whole",
    "status": "todo",
    "priority": "low",
    "labels": [],
}


class Call(NamedTuple):
    """A request that succeeds, where the task 1 is there."""

    method: str
    path: str
    body: Any = None


CALLS = {
    "listTasks": Call("GET", "/api/v1/tasks"),
    "addTask": Call("POST", "/api/v1/tasks", {"title": "new"}),
    "getTask": Call("GET", "/api/v1/tasks/1"),
    "headTask": Call("HEAD", "/api/v1/tasks/1"),
    "replaceTask": Call("PUT", "/api/v1/tasks/1", WHOLE),
    "editTask": Call("PATCH", "/api/v1/tasks/1", {"title": "changed"}),
    "removeTask": Call("DELETE", "/api/v1/tasks/1"),
    "taskHistory": Call("GET", "/api/v1/tasks/1/history"),
    "writeBatch": Call("POST", "/api/v1/batch", {"operations": [{"op": "edit", "id": 1, "patch": {"title": "changed"}}]}),
    "listChanges": Call("GET", "/api/v1/changes"),
    "listProjects": Call("GET", "/api/v1/projects"),
    "listLabels": Call("GET", "/api/v1/labels"),
    "getStats": Call("GET", "/api/v1/stats"),
    "getCache": Call("GET", "/api/v1/cache"),
    "clearCache": Call("DELETE", "/api/v1/cache"),
    "getMe": Call("GET", "/api/v1/me"),
    "listTokens": Call("GET", "/api/v1/tokens"),
    "createToken": Call("POST", "/api/v1/tokens", {"name": "new", "scopes": ["tasks:read"]}),
    "revokeToken": Call("DELETE", "/api/v1/tokens/{token}"),
    "listWorkspaces": Call("GET", "/api/v1/workspaces"),
    "createWorkspace": Call("POST", "/api/v1/workspaces", {"name": "garden"}),
    "livez": Call("GET", "/livez"),
    "readyz": Call("GET", "/readyz"),
    "getMetrics": Call("GET", "/metrics"),
    "version": Call("GET", "/version"),
    "getOpenapi": Call("GET", "/openapi.json"),
    "getDocs": Call("GET", "/docs"),
}
WITH_BODY = {name for name, call in CALLS.items() if call.body is not None}
ON_ACCESS = {"getMe", "listTokens", "createToken", "revokeToken", "listWorkspaces", "createWorkspace"}
WRITES = {*WITH_BODY, "removeTask"} - ON_ACCESS
ON_CACHE = {"getCache", "clearCache"}
GUARDED = {name for name, call in CALLS.items() if "/api/v1/" in call.path}
FORBIDDEN = {*WRITES, *ON_CACHE, *ON_ACCESS} - {"getMe"}
"""What the narrowest token may not."""
AT_THE_DOOR = {*ON_CACHE, "getMe"}
"""What depends on nothing, but that the token is looked up."""
STORED = {*WRITES, "createToken", "revokeToken", "createWorkspace"}
ON_ONE = {name for name, call in CALLS.items() if "/tasks/1" in call.path}
PROBES = {"livez", "readyz", "getMetrics"}
CACHEABLE = {"getTask", "headTask", "getOpenapi", "getDocs"}


def cells() -> Iterator[tuple[str, int]]:
    """Return every operation with every status that it is known to give."""
    good = {
        **dict.fromkeys(("removeTask", "clearCache", "revokeToken"), (204,)),
        **dict.fromkeys(("createToken", "createWorkspace"), (201,)),
        **dict.fromkeys(("replaceTask", "editTask"), (200, 204)),
        "addTask": (201, 200),
    }
    statuses: dict[int, set[str]] = {
        304: CACHEABLE,
        400: set(CALLS),
        401: GUARDED,
        403: FORBIDDEN,
        404: {*ON_ONE, *ON_CACHE, "getMetrics", "writeBatch", "listTokens", "createToken", "revokeToken"},
        408: WITH_BODY,
        409: WITH_BODY,
        410: {"listChanges"},
        412: {"getTask", "headTask", "replaceTask", "editTask", "removeTask", "writeBatch"},
        413: WITH_BODY,
        415: WITH_BODY,
        421: set(CALLS) - PROBES,
        422: {*WRITES, *WITH_BODY},
        429: set(CALLS) - PROBES,
        431: set(CALLS),
        500: {*GUARDED, "readyz"},
        503: {*GUARDED, "readyz"},
        507: STORED,
    }
    for name in CALLS:
        for status in good.get(name, (200,)):
            yield name, status
        for status, names in statuses.items():
            if name in names:
                yield name, status


class Failing(TaskService):
    """A service in which everything fails in one way."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    async def ask(self, query: Query[T], *, at: str = "", fresh: bool = False) -> Read[T]:
        raise self._failure

    async def write(self, changes: Changeset, *, key: IdempotencyKey | None = None) -> Written:
        raise self._failure

    async def ready(self) -> None:
        raise self._failure

    def scoped(self, *, actor: str | None, source: Source, workspace: str | None = None) -> Self:
        return self


ID, SECRET = new_secret()


class FailingTokens(SqlTokens):
    """One token, with which everything fails in one way; or even finding it does."""

    def __init__(self, failure: Exception, *, at_the_door: bool) -> None:
        self._failure = failure
        self._at_the_door = at_the_door
        super().__init__(self)  # type: ignore[arg-type]  # it is its own database, that cannot be asked

    async def find(self, id: str) -> Known | None:
        if self._at_the_door:
            raise self._failure
        now = datetime.now(UTC)
        nothing = dict.fromkeys(("created_by", "maker", "revoked_by", "expires_at", "last_used_at", "revoked_at"))
        return Known(Token(id=ID, name="t", workspace="default", scopes=("admin",), created_at=now, **nothing), hash_of(SECRET))

    async def used(self, when: Mapping[str, datetime]) -> None:
        pass

    async def fetch(self, *_: Any, **__: Any) -> Any:
        raise self._failure

    write = read = fetch


class Forgetful(Failing, Remembering):
    """The same, and a cache in front of it that cannot be told to forget."""

    def remembered(self) -> CacheStats:
        return CacheStats(0, 0, {})

    async def forget(self) -> None:
        raise self._failure


FAILURES: dict[int, Exception] = {
    500: RuntimeError("nobody foresaw this"),
    503: Unavailable("the database is away"),
    507: StorageFull("the disk is full"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(Shell(tmp_path_factory.mktemp("home"))) as found:
        yield found


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, tmp_path: Path) -> Callable[..., Any]:
    """Return what makes a client of an application that is fit for a status of an operation."""

    async def make(status: int, name: str = "") -> Api:
        if status == 429:
            settings = Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", auth="tokens", rate_limit_address="1/minute")
            limited: Api = await aiohttp_client(create_app(settings))
            return limited
        if status not in FAILURES and (name, status) not in {(name, 404) for name in (*ON_CACHE, "getMetrics")}:
            api: Api = await aiohttp_client(create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", auth="tokens")))
            api.session.headers.update(bearing(await minted(api, "admin")))
            assert (await api.post("/api/v1/tasks", json={"title": "first"})).status == 201
            return api

        @asynccontextmanager
        async def failing() -> AsyncIterator[Opened]:
            failure = FAILURES.get(status, FAILURES[503])
            tokens = FailingTokens(failure, at_the_door=name in AT_THE_DOOR) if name in {*AT_THE_DOOR, *ON_ACCESS} else None
            yield Opened((Failing if status == 404 else Forgetful)(failure), tokens=tokens if status != 404 else None)

        api = await aiohttp_client(make_app(failing, ignore))
        api.session.headers.update(bearing(SECRET))
        return api

    return make


async def slowly() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.Event().wait()


async def bring_about(api: Api, name: str, status: int) -> ClientResponse:
    """Send what this operation answers with this status."""
    method, path, body = CALLS[name]
    more: dict[str, Any] = {} if body is None else {"json": body}
    headers: dict[str, str] = {}
    match name, status:
        case _, 401:
            headers["Authorization"] = ""
        case _, 403:
            headers |= bearing(await minted(api, "tasks:read"))
        case "listTokens", 404:
            path += "?workspace=nowhere"
        case "createToken", 404:
            more["json"] = {**body, "workspace": "nowhere"}
        case "revokeToken", 404:
            path = path.replace("{token}", ID)
        case "createToken" | "createWorkspace", 409:
            assert (await api.post(path, json=body)).status == 201
        case "createToken" | "createWorkspace", 422:
            more["json"] = {**body, "name": "-"}
        case _, 304:
            headers["If-None-Match"] = (await api.get(path)).headers["ETag"]
        case "addTask", 200:
            path += "?dry_run=true"
        case "replaceTask" | "editTask", 204:
            headers["Prefer"] = "return=minimal"
        case _, 400:
            path += "?nonsense=1"
        case "writeBatch", 404:
            more["json"] = {"operations": [{"op": "remove", "id": 99}]}
        case _, 404:
            path = path.replace("/1", "/99")
        case _, 408:
            more = {"data": slowly()}
            headers["Content-Type"] = "application/json"
        case "addTask", 409:
            uid = (await (await api.get("/api/v1/tasks/1")).json())["uid"]
            more["json"] = {"title": "again", "uid": uid}
        case "writeBatch", 409:
            states = ("done", "cancelled")
            more["json"] = {"operations": [{"op": "edit", "id": 1, "patch": {"status": state}} for state in states]}
        case _, 409:
            await api.patch("/api/v1/tasks/1", json={"status": "done"})
            more["json"] = {**body, "status": "in_progress"}
        case _, 410:
            path += "?since=99"
        case "writeBatch", 412:
            more["json"] = {"operations": [{"op": "remove", "id": 1, "if_version": 7}]}
        case _, 412:
            headers["If-Match"] = '"7"'
        case _, 413:
            more = {"data": io.BytesIO(b'"%s"' % (b"x" * requests.BODY_MAX))}
            headers["Content-Type"] = "application/json"
        case _, 415:
            more = {"data": json.dumps(body)}
            headers["Content-Type"] = "text/plain"
        case _, 421:
            headers["Host"] = "evil.example"
        case "removeTask", 422:
            headers["Idempotency-Key"] = "used"
            await api.post("/api/v1/tasks", json={"title": "other"}, headers=headers)
        case "writeBatch", 422:
            more["json"] = {"operations": [{"op": "add", "task": {"title": ""}}]}
        case _, 422:
            more["json"] = {**body, "title": ""}
        case _:
            pass
    if "{token}" in path:
        path = path.replace("{token}", ID if status in FAILURES else (await minted(api, "tasks:read")).token.id)
    return await api.request(method, path, headers=headers, **more)


@pytest.mark.parametrize(
    ("name", "status"), [pytest.param(*cell, id="{}-{}".format(*cell)) for cell in cells() if cell[1] != 431]
)
async def test_a_status(
    client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, status: int
) -> None:
    if status == 408:
        monkeypatch.setattr(requests, "BODY_SECONDS", 0.05)
    api = await client(status, name)
    document = await (await api.get("/openapi.json")).json()
    answer = await bring_about(api, name, status)
    assert answer.status == status
    is_told(document, name, status, answer.headers, await answer.read())
    if status >= 400 and CALLS[name].method != "HEAD":
        codes = {cls.code for cls in known_failures() if cls.status == status}
        problem = json.loads(await answer.read())
        assert problem["code"] in codes
        await problem_of(answer, status, problem["code"])
    assert ("Retry-After" in answer.headers) == (status in (429, 503, 507))
    assert "RateLimit" in answer.headers or status in {401, 404, 421, *FAILURES} or name not in GUARDED
    assert bool(caplog.records) == (status == 500)


ON_EVERY_ANSWER = {"Date", "Server", "Connection", "Content-Type", "Content-Length"}
SOMETIMES = {"Link", "Idempotency-Replayed", "Preference-Applied", "Accept-Encoding", "RateLimit", "RateLimit-Policy", "Vary"}
"""Headers that these calls need not bring about; the other ones in the document are always there."""


def is_told(document: dict[str, Any], name: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Look at whether what was sent is what the document says: headers and members, none more and none less."""
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    [operation] = [operation for operation in operations if operation["operationId"] == name]
    told = operation["responses"][str(status)]
    sent = {header.title() for header in headers} - ON_EVERY_ANSWER
    named = {header.title() for header in told["headers"]}
    assert sent <= named
    assert {header.title() for header in told["headers"] if header not in SOMETIMES} <= sent
    assert headers["X-Request-Id"]
    if not body:
        return
    media = headers["Content-Type"].partition(";")[0]
    schema = told["content"][media]["schema"]
    if "json" not in media:
        return
    value = json.loads(body)
    assert Shapes(document).mistakes(schema, value) == []
    members = resolved(document, schema).get("properties")
    assert members is None or value.keys() <= members.keys()


def known_failures() -> list[type[TaskctlError]]:
    found = [TaskctlError]
    for cls in found:
        found += cls.__subclasses__()
    return found


@pytest.mark.parametrize("name", [pytest.param(name, id=f"{name}-431") for name in CALLS])
async def test_a_header_that_is_too_long(server: Server, name: str) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    method, path, _ = CALLS[name]
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-Long: {'x' * 200_000}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == b"431"
    assert json.loads(body)["code"] == "headers_too_large"
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert json.loads(body)["request_id"] == headers["X-Request-Id"]
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/openapi.json") as answer:
        is_told(await answer.json(), name, 431, headers, body if method != "HEAD" else b"")
    writer.close()
    await writer.wait_closed()


def table() -> dict[str, set[int]]:
    """Return the table of the docs: the statuses of each operation."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.read_text().splitlines() if line.startswith("|")
    ]
    statuses = [int(cell) for cell in rows[0][1:]]
    return {row[0].strip("`"): {s for s, cell in zip(statuses, row[1:], strict=True) if cell} for row in rows[2:]}


async def test_the_docs_the_document_and_the_tests_name_the_same(client: Callable[..., Any]) -> None:
    document = await (await (await client(200)).get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    described = {one["operationId"]: {int(status) for status in one["responses"] if status != "default"} for one in operations}
    tested: dict[str, set[int]] = {}
    for name, status in cells():
        tested.setdefault(name, set()).add(status)
    assert described == tested
    assert table() == tested
    assert set(re.findall(r"test_\w+", DOCS.read_text())) - {"test_statuses", "test_hostile"} == {
        "test_a_status",
        "test_a_header_that_is_too_long",
    }
