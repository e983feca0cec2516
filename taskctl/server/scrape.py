"""`/metrics`: what happens here, for Prometheus."""

from collections.abc import Callable
from typing import Final, TypeAlias

from aiohttp import web

from taskctl.errors import NotFound
from taskctl.server.openapi import answer, operation
from taskctl.server.requests import Parameters

Scrape: TypeAlias = Callable[[str], tuple[str, bytes]]
"""Takes an Accept, and returns a content type and what is told in it."""
SCRAPE: Final[web.AppKey[Scrape | None]] = web.AppKey("taskctl.scrape")

_TEXT: Final = {"schema": {"type": "string"}}


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [web.get("/metrics", metrics)]


@operation(
    "getMetrics",
    "server",
    needs="nothing",
    answers={200: answer("The metrics.", {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}, "Vary")},
    fails=[NotFound],
    probe=True,
)
async def metrics(request: web.Request) -> web.Response:
    """Tell Prometheus what happens, in the text format or in OpenMetrics."""
    Parameters(request)
    scrape = request.app[SCRAPE]
    if scrape is None:
        raise NotFound("there are no metrics at this address; the settings metrics and metrics_address say where")
    return scraped(request, scrape)


def scraped(request: web.BaseRequest, scrape: Scrape) -> web.Response:
    """Return the metrics in the format that a request asks for."""
    content_type, body = scrape(",".join(request.headers.getall("Accept", ())))
    return web.Response(body=body, headers={"Content-Type": content_type, "Vary": "Accept"})
