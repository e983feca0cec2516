"""`/changes`, `/projects`, `/labels`, `/stats` and `/cache`: what is asked about the workspace and the server as a whole."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from taskctl.errors import CursorExpired, NotFound, Unavailable
from taskctl.server.openapi import answer, operation, parameter, prefer, whole
from taskctl.server.requests import Parameters, Preferences, ask, no_parameters, tasks_of, where_from
from taskctl.tasks import CHANGES_MAX, ChangesSince, GetStats, Labels, Projects, Query, Remembering
from taskctl.wire import encode


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/api/v1/changes", changes),
        web.get("/api/v1/projects", projects),
        web.get("/api/v1/labels", labels),
        web.get("/api/v1/stats", stats),
        web.get("/api/v1/cache", cache),
        web.delete("/api/v1/cache", clear_cache),
    ]


@operation(
    "listChanges",
    "workspace",
    whole("since", 0, None, 0, "The `next` of the answer before."),
    whole("limit", 1, CHANGES_MAX, 100, "How many entries at most."),
    parameter("epoch", {"type": "string"}, "The `epoch` of the answer before: a log of another one is refused."),
    needs="tasks:read",
    answers={200: answer("Entries, oldest first.", "Changes")},
    fails=[CursorExpired],
)
async def changes(request: web.Request) -> web.Response:
    """Return the log after `since`."""
    given = Parameters(request, "since", "limit", "epoch")
    since, limit = given.whole("since", 0, 0), given.whole("limit", 100, 1, CHANGES_MAX)
    return await _answer(request, ChangesSince(since=since, limit=limit, epoch=given.one("epoch")))


@operation(
    "listProjects", "workspace", needs="tasks:read", answers={200: answer("Names, and how many tasks carry them.", "Tallies")}
)
async def projects(request: web.Request) -> web.Response:
    """Return the projects in use."""
    no_parameters(request)
    return await _answer(request, Projects())


@operation(
    "listLabels", "workspace", needs="tasks:read", answers={200: answer("Names, and how many tasks carry them.", "Tallies")}
)
async def labels(request: web.Request) -> web.Response:
    """Return the labels in use."""
    no_parameters(request)
    return await _answer(request, Labels())


@operation(
    "getStats", "workspace", prefer("timezone"), needs="tasks:read", answers={200: answer("Its numbers.", "Stats", "Vary")}
)
async def stats(request: web.Request) -> web.Response:
    """Return the workspace in numbers."""
    no_parameters(request)
    preferences = Preferences(request)
    return await _answer(request, GetStats(zone=preferences.zone), preferences.headers)


@operation(
    "getCache",
    "server",
    needs="keeper",
    answers={200: answer("What is remembered, and how questions went.", "CacheStats", "Cache-Control")},
    fails=[NotFound],
)
async def cache(request: web.Request) -> web.Response:
    """Return what this server remembers. Each replica has a memory of its own."""
    no_parameters(request)
    body = encode(_memory(request).remembered())
    return web.Response(body=body, content_type="application/json")


@operation(
    "clearCache", "server", needs="keeper", answers={204: answer("Everything is forgotten.")}, fails=[NotFound, Unavailable]
)
async def clear_cache(request: web.Request) -> web.Response:
    """Forget everything that is remembered: by this server, and in the Redis that it shares with others."""
    no_parameters(request)
    await _memory(request).forget()
    return web.Response(status=204)


def _memory(request: web.Request) -> Remembering:
    tasks = tasks_of(request)
    if not isinstance(tasks, Remembering):
        raise NotFound("this server remembers nothing: cache_bytes is 0")
    return tasks


async def _answer(request: web.Request, query: Query[Any], headers: Mapping[str, str] | None = None) -> web.Response:
    read = await ask(request, query)
    return web.Response(body=read.encoded, content_type="application/json", headers={**where_from(read), **(headers or {})})
