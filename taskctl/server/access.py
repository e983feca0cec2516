"""`/me`, `/tokens` and `/workspaces`: who may do what."""

from aiohttp import web

from taskctl.access import TOKEN_ID, me
from taskctl.errors import Conflict, InvalidRequest, NotFound, OutcomeUnknown, StorageFull
from taskctl.server.openapi import answer, operation, parameter
from taskctl.server.requests import ADMISSION, ADMITTED, Parameters, access_of, json_body, no_parameters
from taskctl.server.shapes import TOKEN, WORKSPACE
from taskctl.wire import encode, new_token, new_workspace

_WHOSE = parameter("workspace", WORKSPACE, "Of this workspace, and not of one's own; for admins of `default`.")
_ID = {"in": "path", "name": "id", "required": True, "schema": TOKEN, "description": "The token's `id`."}
_WRITTEN = [OutcomeUnknown, StorageFull]


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/api/v1/me", show_me),
        web.get("/api/v1/tokens", tokens),
        web.post("/api/v1/tokens", mint),
        web.delete("/api/v1/tokens/{id}", revoke),
        web.get("/api/v1/workspaces", workspaces),
        web.post("/api/v1/workspaces", add_workspace),
    ]


@operation("getMe", "access", needs="token", answers={200: answer("Who that is.", "Me", "Cache-Control")})
async def show_me(request: web.Request) -> web.Response:
    """Say who asks: with which token, in which workspace, and what they may do."""
    no_parameters(request)
    return _answer(me(request[ADMITTED].caller))


@operation(
    "listTokens",
    "access",
    _WHOSE,
    needs="admin",
    answers={200: answer("Its tokens, the newest first; those that are worth nothing any more, too.", "Tokens", "Cache-Control")},
    fails=[NotFound],
)
async def tokens(request: web.Request) -> web.Response:
    """Return the tokens of a workspace, without their secrets."""
    given = Parameters(request, "workspace")
    return _answer(await access_of(request).tokens(given.one("workspace")))


@operation(
    "createToken",
    "access",
    needs="admin",
    body="NewToken",
    answers={201: answer("The token, and its secret, which is not to be had again.", "Minted", "Cache-Control")},
    fails=[NotFound, Conflict, *_WRITTEN],
)
async def mint(request: web.Request) -> web.Response:
    """Make a token that may do no more than the one that makes it, for no longer."""
    no_parameters(request)
    access = access_of(request)
    _no_key(request)
    return _answer(await access.mint(new_token(await json_body(request))), status=201, keep="no-store")


@operation(
    "revokeToken",
    "access",
    _ID,
    needs="admin",
    answers={204: answer("It is worth nothing any more, within 2 seconds on every server.")},
    fails=[NotFound, *_WRITTEN],
)
async def revoke(request: web.Request) -> web.Response:
    """Revoke a token."""
    no_parameters(request)
    access = access_of(request)
    _no_key(request)
    id = request.match_info["id"]
    if not TOKEN_ID.fullmatch(id):
        raise InvalidRequest("the id of a token is 12 letters and digits, the third part of tc_api_...", parameter="id")
    await access.revoke(id)
    request.app[ADMISSION].forget(id)
    return web.Response(status=204)


@operation("listWorkspaces", "access", needs="keeper", answers={200: answer("By name.", "Workspaces", "Cache-Control")})
async def workspaces(request: web.Request) -> web.Response:
    """Return the workspaces; for admins of `default`."""
    no_parameters(request)
    return _answer(await access_of(request).workspaces())


@operation(
    "createWorkspace",
    "access",
    needs="keeper",
    body="NewWorkspace",
    answers={201: answer("The workspace.", "Workspace", "Cache-Control")},
    fails=[Conflict, *_WRITTEN],
)
async def add_workspace(request: web.Request) -> web.Response:
    """Make a workspace; for admins of `default`."""
    no_parameters(request)
    access = access_of(request)
    _no_key(request)
    return _answer(await access.add_workspace(new_workspace(await json_body(request))), status=201)


def _answer(value: object, *, status: int = 200, keep: str = "no-cache") -> web.Response:
    headers = {"Cache-Control": keep}
    return web.Response(body=encode(value), status=status, content_type="application/json", headers=headers)


def _no_key(request: web.Request) -> None:
    """Refuse a key: what would have to be kept to answer again is a secret, or is there to be looked at."""
    for name in ("Idempotency-Key", "If-Match", "If-None-Match"):
        if name in request.headers:
            raise InvalidRequest(f"{name} means nothing here")
