"""`/livez`, `/readyz` and `/version`: what an orchestrator asks."""

import platform

from aiohttp import web

from taskctl import __version__
from taskctl.errors import SchemaOutdated, TaskctlError, Unavailable
from taskctl.server.openapi import TEXT, answer, operation, parameter
from taskctl.server.requests import OPENED, STATE, Parameters, no_parameters
from taskctl.wire import encode


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/livez", livez),
        web.get("/readyz", readyz),
        web.get("/version", version),
    ]


@operation("livez", "server", needs="nothing", answers={200: answer("It runs.", TEXT)}, probe=True)
async def livez(request: web.Request) -> web.Response:
    """Say that the process runs. It depends on nothing: a restart would not mend a dependency."""
    no_parameters(request)
    return web.Response(text="ok\n")


@operation(
    "readyz",
    "server",
    parameter("verbose", {"type": "string"}, "Name each thing that it depends on; a value means nothing."),
    needs="nothing",
    answers={200: answer("It is ready.", TEXT)},
    fails=[Unavailable, SchemaOutdated, TaskctlError],
    probe=True,
)
async def readyz(request: web.Request) -> web.Response:
    """Say whether requests are welcome; `?verbose` names each thing that it depends on."""
    given = Parameters(request, "verbose")
    if request.app[STATE].draining:
        raise Unavailable("the server is about to stop")
    await request.app[OPENED].ready()
    return web.Response(text="database ok\nok\n" if given.many("verbose") else "ok\n")


@operation("version", "server", needs="nothing", answers={200: answer("Its version.", "Version")})
async def version(request: web.Request) -> web.Response:
    """Say which taskctl this is."""
    no_parameters(request)
    body = encode({"version": __version__, "python": platform.python_version()})
    return web.Response(body=body, content_type="application/json")
