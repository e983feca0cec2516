"""`/changes`, `/projects`, `/labels` and `/stats`: what is asked about the workspace as a whole."""

from aiohttp import web

from taskctl.server.requests import Parameters, tasks_of, zone_name
from taskctl.tasks import CHANGES_MAX, Changes, Stats, Tallies
from taskctl.wire import encode


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/api/v1/changes", changes),
        web.get("/api/v1/projects", projects),
        web.get("/api/v1/labels", labels),
        web.get("/api/v1/stats", stats),
    ]


async def changes(request: web.Request) -> web.Response:
    """Return the log after `since`."""
    given = Parameters(request, "since", "limit", "epoch")
    since, limit = given.whole("since", 0, 0), given.whole("limit", 100, 1, CHANGES_MAX)
    return _json(await tasks_of(request).changes(since, limit=limit, epoch=given.one("epoch")))


async def projects(request: web.Request) -> web.Response:
    """Return the projects in use."""
    Parameters(request)
    return _json(await tasks_of(request).projects())


async def labels(request: web.Request) -> web.Response:
    """Return the labels in use."""
    Parameters(request)
    return _json(await tasks_of(request).labels())


async def stats(request: web.Request) -> web.Response:
    """Return the workspace in numbers."""
    Parameters(request)
    return _json(await tasks_of(request).stats(zone=zone_name(request)))


def _json(value: Changes | Tallies | Stats) -> web.Response:
    return web.Response(body=encode(value), content_type="application/json")
