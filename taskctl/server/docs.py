"""`/openapi.json`, and `/docs`: the same to be read and tried out in a browser, with nothing that comes from elsewhere."""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from taskctl.errors import InvalidRequest
from taskctl.server import access, probes, reports, scrape, tasks
from taskctl.server.openapi import IF_NONE_MATCH, answer, document, needing, operation
from taskctl.server.requests import no_parameters, versions
from taskctl.wire import encode

_FOLDER: Final = Path(__file__).parent / "swagger"
_FILES: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "initializer.js": "text/javascript",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # A copy may be kept, but not used without asking whether it is still the one: an upgrade shows at once.
    "Cache-Control": "no-cache",
}
_PAGE: Final = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>taskctl API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/initializer.js"></script>
</body>
</html>
"""
_SENT: Final = ("ETag", "Cache-Control", "Content-Security-Policy", "Referrer-Policy")
_NOT_CHANGED: Final = answer("The client has it.", None, *_SENT)


def routes() -> list[web.RouteDef]:
    """Return the routes of this module."""
    return [*_described(), *(web.get(f"/docs/{name}", _file(name, media)) for name, media in _FILES.items())]


def _described() -> list[web.RouteDef]:
    return [web.get("/openapi.json", openapi), web.get("/docs", page)]


@operation(
    "getOpenapi",
    "server",
    IF_NONE_MATCH,
    needs="nothing",
    answers={
        200: answer("The document.", {"application/json": {"schema": {"type": "object"}}}, *_SENT),
        304: _NOT_CHANGED,
    },
)
async def openapi(request: web.Request) -> web.Response:
    """Return this document."""
    body, tag = _built()
    return _fresh(request, body, tag, "application/json")


@operation(
    "getDocs",
    "server",
    IF_NONE_MATCH,
    needs="nothing",
    answers={200: answer("The page.", {"text/html": {"schema": {"type": "string"}}}, *_SENT), 304: _NOT_CHANGED},
)
async def page(request: web.Request) -> web.Response:
    """Return a page for people on which everything can be tried out."""
    return _fresh(request, _PAGE, _tag(_PAGE), "text/html")


@cache
def _built() -> tuple[bytes, str]:
    body = encode(
        document([*tasks.routes(), *reports.routes(), *access.routes(), *probes.routes(), *scrape.routes(), *_described()])
    )
    return body, _tag(body)


def _tag(body: bytes) -> str:
    return f'"{sha256(body).hexdigest()[:32]}"'


def _fresh(request: web.Request, body: bytes, tag: str, media: str) -> web.Response:
    """Return the body, or 304 if the client has it."""
    no_parameters(request)
    try:
        seen = versions(request, "If-None-Match")
    except InvalidRequest:  # whatever it is, it is not ours
        seen = None
    headers = {**_HEADERS, "ETag": tag}
    if seen is not None and any(one == "*" or one.removeprefix("W/") == tag for one in seen):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=media, charset="utf-8" if media.startswith("text/") else None, headers=headers)


def _file(name: str, media: str) -> Handler:
    @cache
    def read() -> tuple[bytes, str]:
        body = (_FOLDER / name).read_bytes()
        return body, _tag(body)

    @needing("nothing")
    async def file(request: web.Request) -> web.Response:
        return _fresh(request, *read(), media)

    return file
