"""Who may do what: every route with every method, for every kind of caller. What is expected stands here, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from taskctl import Settings, create_app
from taskctl.access import OWNER, NewToken, Scope, new_secret
from taskctl.server.requests import OPENED
from tests.postgres import database
from tests.redis import emptied
from tests.support import Api, bearing, minted

OUTSIDE: Final = ("anonymous", "malformed", "unknown", "expired", "revoked")
CALLERS: Final = (*OUTSIDE, "wrong workspace", "read", "write", "admin", "keeper")
"""wrong workspace: its admin; admin: of the workspace that the tasks are in; keeper: an admin of the default one."""


def row(wrong: int, read: int, write: int, admin: int, keeper: int) -> tuple[int, ...]:
    """Return what is expected of the callers; those who show nothing that is good always get a 401."""
    return (*(401 for _ in OUTSIDE), wrong, read, write, admin, keeper)


def everybody(status: int) -> tuple[int, ...]:
    return (status,) * len(CALLERS)


MATRIX: Final[dict[str, tuple[int, ...]]] = {
    #                                              wrong read write admin keeper
    "GET /api/v1/tasks": row(200, 200, 200, 200, 200),
    "HEAD /api/v1/tasks": row(200, 200, 200, 200, 200),
    "POST /api/v1/tasks": row(201, 403, 201, 201, 201),
    "GET /api/v1/tasks/{id}": row(404, 200, 200, 200, 404),
    "HEAD /api/v1/tasks/{id}": row(404, 200, 200, 200, 404),
    "PUT /api/v1/tasks/{id}": row(404, 403, 200, 200, 404),
    "PATCH /api/v1/tasks/{id}": row(404, 403, 200, 200, 404),
    "DELETE /api/v1/tasks/{id}": row(404, 403, 204, 204, 404),
    "GET /api/v1/tasks/{id}/history": row(404, 200, 200, 200, 404),
    "HEAD /api/v1/tasks/{id}/history": row(404, 200, 200, 200, 404),
    "POST /api/v1/batch": row(404, 403, 200, 200, 404),
    "GET /api/v1/changes": row(200, 200, 200, 200, 200),
    "HEAD /api/v1/changes": row(200, 200, 200, 200, 200),
    "GET /api/v1/projects": row(200, 200, 200, 200, 200),
    "HEAD /api/v1/projects": row(200, 200, 200, 200, 200),
    "GET /api/v1/labels": row(200, 200, 200, 200, 200),
    "HEAD /api/v1/labels": row(200, 200, 200, 200, 200),
    "GET /api/v1/stats": row(200, 200, 200, 200, 200),
    "HEAD /api/v1/stats": row(200, 200, 200, 200, 200),
    "GET /api/v1/cache": row(403, 403, 403, 403, 200),
    "HEAD /api/v1/cache": row(403, 403, 403, 403, 200),
    "DELETE /api/v1/cache": row(403, 403, 403, 403, 204),
    "GET /api/v1/me": row(200, 200, 200, 200, 200),
    "HEAD /api/v1/me": row(200, 200, 200, 200, 200),
    "GET /api/v1/tokens": row(200, 403, 403, 200, 200),
    "HEAD /api/v1/tokens": row(200, 403, 403, 200, 200),
    "POST /api/v1/tokens": row(201, 403, 403, 201, 201),
    "DELETE /api/v1/tokens/{id}": row(404, 403, 403, 204, 204),
    "GET /api/v1/workspaces": row(403, 403, 403, 403, 200),
    "HEAD /api/v1/workspaces": row(403, 403, 403, 403, 200),
    "POST /api/v1/workspaces": row(403, 403, 403, 403, 201),
    **{
        f"{method} {path}": everybody(200)
        for method in ("GET", "HEAD")
        for path in (
            *("/livez", "/readyz", "/metrics", "/version", "/openapi.json", "/docs"),
            *("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/initializer.js"),
        )
    },
    # What is no route.
    "OPTIONS /api/v1/tasks": row(405, 405, 405, 405, 405),
    "PATCH /api/v1/tokens/{id}": row(405, 405, 405, 405, 405),
    "GET /api/v1/nothing": row(404, 404, 404, 404, 404),
    "GET /api/v2/tasks": row(404, 404, 404, 404, 404),
    "GET /nothing": row(404, 404, 404, 404, 404),
}
WHOLE: Final[dict[str, Any]] = {
    **dict.fromkeys(("description", "project", "due")),
    "title": "whole",
    "status": "todo",
    "priority": "low",
    "labels": [],
}


class World:
    """A server with three workspaces. In `here` there are tasks that have no namesakes elsewhere."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.tokens: dict[str, str] = {}
        self._number = 0

    async def begin(self) -> None:
        assert self.api.app is not None
        tokens = self.api.app[OPENED].tokens
        assert tokens is not None
        owner = tokens.access(OWNER)
        for workspace in ("here", "there"):
            await owner.add_workspace(workspace)
        soon = datetime.now(UTC) + timedelta(hours=1)
        kinds: dict[str, tuple[Scope, str]] = {
            "expired": ("admin", "here"),
            "revoked": ("admin", "here"),
            "wrong workspace": ("admin", "there"),
            "read": ("tasks:read", "here"),
            "write": ("tasks:write", "here"),
            "admin": ("admin", "here"),
            "keeper": ("admin", "default"),
        }
        for name, (scope, workspace) in kinds.items():
            expires = datetime.now(UTC) + timedelta(seconds=2) if name == "expired" else soon
            new = NewToken(name=name.replace(" ", "-"), scopes=(scope,), workspace=workspace, expires_at=expires)
            self.tokens[name] = (await owner.mint(new)).secret
            if name == "expired":
                await asyncio.sleep((expires - datetime.now(UTC)).total_seconds() + 0.01)
        self.tokens["malformed"] = self.tokens["admin"][:-1]
        self.tokens["unknown"] = new_secret()[1]
        await owner.revoke(self.tokens["revoked"].split("_")[2])

    async def status(self, caller: str, method: str, path: str) -> int:
        """Send what succeeds for whoever may do it, and return what became of it."""
        self._number += 1
        number = self._number
        body: Any = None
        if "{id}" in path and "tokens" in path:
            path = path.replace("{id}", (await minted(self.api, "tasks:read", workspace="here")).token.id)
        elif "{id}" in path or path == "/api/v1/batch":
            for _ in range(2):  # so that the number is given in no other workspace
                made = await self.api.post("/api/v1/tasks", json={"title": "secret"}, headers=bearing(self.tokens["admin"]))
            id = (await made.json())["id"]
            path = path.replace("{id}", str(id))
            body = {"operations": [{"op": "edit", "id": id, "patch": {"title": "changed"}}]} if "batch" in path else None
        match method, path:
            case "POST", "/api/v1/tasks":
                body = {"title": "new"}
            case "POST", "/api/v1/tokens":
                expires = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
                body = {"name": f"n{number}", "scopes": ["tasks:read"], "expires_at": expires}
            case "POST", "/api/v1/workspaces":
                body = {"name": f"n{number}"}
            case "PUT", _:
                body = WHOLE
            case "PATCH", _ if "tasks" in path:
                body = {"title": "changed"}
        headers = bearing(self.tokens[caller]) if caller != "anonymous" else {}
        answer = await self.api.request(method, path, json=body, headers=headers)
        assert ("WWW-Authenticate" in answer.headers) == (answer.status in (401, 403))
        if answer.status in (401, 403):
            assert "secret" not in await answer.text()
        return answer.status


@asynccontextmanager
async def _world(settings: Settings) -> AsyncIterator[World]:
    app = create_app(msgspec.structs.replace(settings, **OFF))
    async with TestClient[web.Request, web.Application](TestServer(app)) as api:
        world = World(api)
        await world.begin()
        yield world


OFF: Final = dict.fromkeys(("rate_limit_token", "rate_limit_address", "rate_limit_failures"), "off")
STACKS: Final = ("sqlite", "sqlite-cached", "postgres", "postgres-cached")


@pytest.fixture(params=STACKS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Each stack that a server can have."""
    cached = 64 * 1024 * 1024 if request.param.endswith("cached") else 0
    if request.param.startswith("sqlite"):
        async with _world(Settings(database_url=f"sqlite:///{tmp_path}/t.db", auth="tokens", cache_bytes=cached)) as world:
            yield world
        return
    with database() as url, emptied() as redis:
        redis_url = redis if cached else ""
        async with _world(Settings(database_url=url, auth="tokens", cache_bytes=cached, redis_url=redis_url)) as world:
            yield world


async def test_everybody_may_do_what_the_matrix_says_and_nothing_else(world: World) -> None:
    wrong = []
    for route, expected in MATRIX.items():
        method, path = route.split()
        for caller, status in zip(CALLERS, expected, strict=True):
            if "/cache" in path and not _remembers(world):
                status = 404 if status in (200, 204) else status  # noqa: PLW2901  # there is nothing to be seen
            if (got := await world.status(caller, method, path)) != status:
                wrong.append((route, caller, got, status))
    assert wrong == []


def _remembers(world: World) -> bool:
    from taskctl.tasks import Remembering

    assert world.api.app is not None
    return isinstance(world.api.app[OPENED].tasks, Remembering)


def test_no_route_is_missing_from_the_matrix(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/t.db"))
    routes = {f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.resource is not None}
    assert routes <= MATRIX.keys()
    assert len(MATRIX.keys() - routes) == 5


async def test_whoever_may_not_changes_nothing(world: World) -> None:
    """A refusal that comes after the deed would have the same status."""
    made = await world.api.post("/api/v1/tasks", json={"title": "first"}, headers=bearing(world.tokens["admin"]))
    id = (await made.json())["id"]
    before = await (await world.api.get("/api/v1/changes", headers=bearing(world.tokens["admin"]))).json()
    for route, expected in MATRIX.items():
        method, path = route.split()
        body = {"title": "stolen", "name": "stolen", "scopes": ["admin"], "operations": [{"op": "remove", "id": id}]}
        for caller, status in zip(CALLERS, expected, strict=True):
            if status in (401, 403) and method != "GET":
                headers = bearing(world.tokens[caller]) if caller != "anonymous" else {}
                answer = await world.api.request(method, path.replace("{id}", str(id)), json=body, headers=headers)
                assert answer.status == status
    assert await (await world.api.get("/api/v1/changes", headers=bearing(world.tokens["admin"]))).json() == before
    listed = await (await world.api.get("/api/v1/tokens", headers=bearing(world.tokens["admin"]))).json()
    assert "stolen" not in {token["name"] for token in listed["items"]}
