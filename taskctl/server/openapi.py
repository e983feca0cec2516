"""The OpenAPI 3.1 document: what `operation` notes at each handler, put together with the shapes of `shapes.py`.

aiohttp-apispec is used here and nowhere else; docs/decisions/0010-openapi.md says what for.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from aiohttp import web
from aiohttp_apispec import AiohttpApiSpec, docs  # type: ignore[import-untyped]
from apispec import APISpec

from taskctl import __version__
from taskctl.errors import (
    Forbidden,
    HeadersTooLarge,
    IdempotencyMismatch,
    InvalidBody,
    InvalidRequest,
    InvalidTask,
    Misdirected,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    RequestTimedOut,
    SchemaOutdated,
    StorageFull,
    TaskctlError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from taskctl.fields import KEY
from taskctl.server import shapes
from taskctl.server.admission import Needs
from taskctl.wire import PROBLEM

_JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"

Part = dict[str, Any]
Described = TypeVar("Described", bound=Callable[..., Any])


# ------------------------------------------------------------------------------------------------------------- parameters


def parameter(name: str, schema: Part, about: str, **more: Any) -> Part:
    """Return a query parameter."""
    return {"in": "query", "name": name, "schema": schema, "description": about, **more}


def whole(name: str, least: int, most: int | None, default: int, about: str) -> Part:
    """Return a query parameter that is a whole number within bounds."""
    bounds = {"minimum": least, **({"maximum": most} if most is not None else {})}
    return parameter(name, {"type": "integer", **bounds, "default": default}, about)


def _header(name: str, schema: Part, about: str) -> Part:
    return {"in": "header", "name": name, "schema": schema, "description": about}


_TEXT: Final = {"type": "string"}

ID: Final = {
    "in": "path",
    "name": "id",
    "required": True,
    "schema": shapes.REF,
    "description": "The task's `id`, or its `uid`.",
    "example": 7,
}
CURSOR: Final = parameter("cursor", _TEXT, "The `next_cursor` of a page of the same query; opaque.")
IF_MATCH: Final = _header("If-Match", _TEXT, "Entity tags, or `*`. If the task is at none of these versions: 412.")
IF_NONE_MATCH: Final = _header("If-None-Match", _TEXT, "Entity tags, or `*`. If it is still one of these: 304.")
_DRY_RUN: Final = parameter("dry_run", {"type": "boolean", "default": False}, "Work everything out, answer, and write nothing.")
_KEY: Final = _header(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": f"^{KEY.pattern}$"},
    "Makes it safe to send a request again: for 24 hours the same request with the same key gets the first answer, and "
    "another request with it is refused.",
)
_REQUEST_ID: Final = _header(
    "X-Request-Id", _TEXT, "An id for this request, kept if it is 1 to 128 of `A-Za-z0-9._-`; another one is made otherwise."
)
_CACHE_CONTROL: Final = _header("Cache-Control", _TEXT, "With `no-cache` the answer comes from the database, and from no memory.")
_SEQ: Final = _header("X-Taskctl-Seq", _TEXT, "From an earlier answer: this one is to be at least that new.")


def prefer(*preferences: str) -> Part:
    """Return the header `Prefer` with what it may say here."""
    known = {
        "return": "`return=minimal` leaves the body of the answer out, `return=representation` does not",
        "count": "`count=exact` adds the `total`",
        "timezone": "`timezone=Europe/Berlin` says in whose days dates are judged (UTC without it)",
    }
    about = "; ".join(known[name] for name in preferences)
    return _header("Prefer", _TEXT, f"Preferences (RFC 7240): {about}. Others are ignored.")


# ---------------------------------------------------------------------------------------------------------------- answers

_HEADERS: Final[Mapping[str, Part]] = {
    "X-Request-Id": {"description": "The request's id; the server's log has it, too.", "schema": _TEXT},
    "X-Taskctl-Seq": {"description": "How new the answer is. Opaque: send it along to see at least this.", "schema": _TEXT},
    "ETag": {"description": "The version that this is.", "schema": _TEXT},
    "Location": {"description": "Where the task is from now on.", "schema": {"type": "string", "format": "uri-reference"}},
    "Link": {"description": 'The next page, as `<...>; rel="next"`, if there is one.', "schema": _TEXT},
    "Retry-After": {"description": "A sensible number of seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
    "RateLimit": {
        "description": "With tokens: how many more requests (r) there may be in how many seconds (t).",
        "schema": _TEXT,
    },
    "RateLimit-Policy": {"description": "With tokens: the limit, so many (q) in so many seconds (w).", "schema": _TEXT},
    "Idempotency-Replayed": {
        "description": "This is the answer to an earlier request with the same key.",
        "schema": {"type": "string", "const": "true"},
    },
    "Preference-Applied": {"description": "The preferences that were followed.", "schema": _TEXT},
    "Cache-Status": {"description": "Which memory the answer is from, if from one (RFC 9211).", "schema": _TEXT},
    "Server-Timing": {"description": "Where the time went, in milliseconds.", "schema": _TEXT},
    "Cache-Control": {"description": "A copy may be kept, but not used without asking; of a problem, none.", "schema": _TEXT},
    "Vary": {"description": "The header of the request that the answer depends on.", "schema": _TEXT},
    "X-Content-Type-Options": {"description": "The type is what `Content-Type` says.", "schema": {"const": "nosniff"}},
    "Content-Security-Policy": {"description": "What a browser may load with it.", "schema": _TEXT},
    "Referrer-Policy": {"description": "That no other site is told.", "schema": _TEXT},
    "Cross-Origin-Resource-Policy": {"description": "Which sites may load it; not where CORS lets them.", "schema": _TEXT},
    "WWW-Authenticate": {"description": "What is needed: a bearer token (RFC 6750), and which scope.", "schema": _TEXT},
    "Accept": {"description": "The types of which one was expected.", "schema": _TEXT},
    "Accept-Patch": {"description": "The types of which one was expected.", "schema": _TEXT},
    "Accept-Encoding": {"description": "The Content-Encoding that was expected: none.", "schema": _TEXT},
}


_BY_DOORS: Final = ("X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy", "Cross-Origin-Resource-Policy")
_ON_ALL: Final = ("X-Request-Id", "Server-Timing", *_BY_DOORS)
_BY_TOKENS: Final = ("RateLimit", "RateLimit-Policy", "Vary")


def _headers(*names: str) -> Part:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


TEXT: Final[Part] = {"text/plain": {"schema": _TEXT}}


def answer(about: str, body: str | Part | None = None, *headers: str, links: Iterable[str] = ()) -> Part:
    """Return an answer: what it means, its body, its headers, and where it leads.

    body: the name of its shape, or what OpenAPI calls the content. links: operations that take the id of the task in it.
    """
    part: Part = {"description": about, "headers": _headers(*headers)}
    if body is not None:
        part["content"] = _json(body) if isinstance(body, str) else body
    if links:
        part["links"] = {name: {"operationId": name, "parameters": {"id": "$response.body#/id"}} for name in links}
    return part


def _json(shape: str, *media: str) -> Part:
    return {one: {"schema": shapes.ref(shape), "examples": {shape: _example(shape)}} for one in (*media, _JSON)}


def _example(name: str) -> Part:
    return {"$ref": f"#/components/examples/{name}"}


def _problems(fails: Iterable[type[TaskctlError]], *, of_one: bool, reads: bool, patches: bool) -> dict[str, Part]:
    """Return the answers for these failures: one for a status, with an example for each code that it can stand for.

    of_one: they are of one task, and say how new that is known; reads: also from which memory; patches: a body may be a patch.
    """
    by_status: dict[int, list[type[TaskctlError]]] = {}
    for failure in fails:
        known = by_status.setdefault(failure.status, [])
        if failure not in known:
            known.append(failure)
    answers: dict[str, Part] = {}
    for status, classes in sorted(by_status.items()):
        names = [*_ON_ALL, *_BY_TOKENS]
        if any(issubclass(cls, Unavailable | TooManyRequests) for cls in classes):
            names.append("Retry-After")
        if status in (404, 409, 412) and of_one:
            names.append("X-Taskctl-Seq")
        if status == 404 and of_one and reads:
            names.append("Cache-Status")
        if status == 412 and of_one:
            names.append("ETag")
        if status in (401, 403):
            names.append("WWW-Authenticate")
        if status == 415:
            names += ["Accept", "Accept-Encoding", *(["Accept-Patch"] if patches else [])]
        if status == 431:  # whoever says so has not read the request
            names = [name for name in names if name not in ("Server-Timing", *_BY_TOKENS)]
        names.append("Cache-Control")
        answers[str(status)] = {
            "description": "; ".join(f"{cls.title} (`{cls.code}`)" for cls in classes),
            "headers": _headers(*names),
            "content": {
                PROBLEM: {
                    "schema": shapes.ref("Problem"),
                    "examples": {cls.code: _example(cls.code) for cls in classes},
                }
            },
        }
    return answers


# -------------------------------------------------------------------------------------------------------------- operations


def operation(
    id: str,
    tag: str,
    *parameters: Part,
    answers: Mapping[int, Part],
    body: str | None = None,
    media: Iterable[str] = (),
    writes: bool = False,
    fails: Iterable[type[TaskctlError]] = (),
    head: str | None = None,
    of_many: bool = False,
    needs: Needs,
    probe: bool = False,
) -> Callable[[Described], Described]:
    """Return a decorator that notes what a handler does. Its summary is the first line of the handler's docstring.

    parameters, answers, fails: its own ones; those of all operations, of all that write and of all with a body are added.
    body: the name of its body's shape; media: what it may be besides JSON; head: the id of the same operation as HEAD, where
    that deserves a name; of_many: its failures are of one of several tasks. needs: what it needs of who asks; probe: it is for
    whoever asks, by whatever name, and however often.
    """
    of_tasks = tag in ("tasks", "workspace")
    given = [*parameters]
    failures: list[type[TaskctlError]] = [*fails]
    ours = [*_ON_ALL, *_BY_TOKENS]
    more: Part = {}
    if writes:
        given += [_DRY_RUN, _KEY]
        failures += [IdempotencyMismatch, OutcomeUnknown, StorageFull]
        ours += ["Idempotency-Replayed"]
    if body is not None:
        failures += [RequestTimedOut, PayloadTooLarge, UnsupportedMediaType, InvalidTask if of_tasks else InvalidBody]
        more["requestBody"] = {"required": True, "content": _json(body, *media)}
    if of_tasks:
        given.append(_SEQ)
        failures += [Unavailable, Overloaded, SchemaOutdated, TaskctlError]
        ours.append("X-Taskctl-Seq")
        if not writes:
            given.append(_CACHE_CONTROL)
            ours += ["Cache-Control", "Cache-Status"]
    failures.insert(0, InvalidRequest)
    if not probe:
        failures += [Misdirected, TooManyRequests]
    if needs != "nothing":
        failures += [
            Unauthenticated,
            *([Forbidden] if needs not in ("token", "tasks:read") else []),
            Unavailable,
            SchemaOutdated,
            TaskctlError,
        ]
    given.append(_REQUEST_ID)
    failures.append(HeadersTooLarge)
    if any("Prefer" in part["name"] for part in parameters):
        ours.append("Preference-Applied")
    responses = {
        **{str(status): {**part, "headers": {**_headers(*ours), **part["headers"]}} for status, part in answers.items()},
        **_problems(failures, of_one=of_tasks and not of_many, reads=not writes, patches=MERGE_PATCH in media),
        "default": {"$ref": "#/components/responses/Problem"},
    }

    def note(handler: Described) -> Described:
        summary, _, description = (handler.__doc__ or "").partition("\n")
        more.update(summary=summary.split(". ")[0].rstrip("."), **({"x-head": head} if head else {}))
        if description.strip():
            more["description"] = " ".join(description.split())
        more["security"] = [] if needs == "nothing" else [{}, {"token": _SCOPES.get(needs, [needs])}]
        noted: Described = docs(operationId=id, tags=[tag], parameters=given, responses=responses, **more)(handler)
        return needing(needs)(noted)

    return note


_SCOPES: Final[Mapping[Needs, list[Needs]]] = {"token": [], "keeper": ["admin"]}


def needing(needs: Needs) -> Callable[[Described], Described]:
    """Return a decorator that says what a handler needs of who asks."""

    def note(handler: Described) -> Described:
        handler.needs = needs  # type: ignore[attr-defined]  # the middleware looks for it
        return handler

    return note


class _Document(AiohttpApiSpec):  # type: ignore[misc]  # it has no types
    """What `docs` has noted, as OpenAPI 3.1, where aiohttp-apispec itself writes Swagger 2.0."""

    def __init__(self) -> None:
        super().__init__(title="taskctl", version=__version__)
        self.spec = APISpec(
            title="taskctl",
            version=__version__,
            openapi_version="3.1.0",
            info={
                "summary": "Tasks: one list, many ways to it.",
                "description": "Every GET also answers HEAD. Parameters and members that are not known are refused. "
                "Every failure is a problem document (RFC 9457).",
            },
            servers=[{"url": ".", "description": "Where this document lies."}],
            tags=[
                {"name": "tasks", "description": "Tasks, one by one and many at once."},
                {"name": "workspace", "description": "All tasks together."},
                {"name": "access", "description": "Who may do what."},
                {"name": "server", "description": "The server itself."},
            ],
        )
        add = self.spec.components
        for name, schema in shapes.schemas().items():
            add.schema(name, schema)
        for name, header in _HEADERS.items():
            add.header(name, header)
        for name, value in shapes.examples().items():
            add.example(name, {"value": value})
        for name, example in shapes.problems().items():
            add.example(name, example)
        add.response(
            "Problem",
            {
                "description": "Any other failure.",
                "headers": _headers("X-Request-Id", *_BY_DOORS, "Cache-Control"),
                "content": {PROBLEM: {"schema": shapes.ref("Problem")}},
            },
        )
        about = (
            "What an operation needs is a scope: `tasks:write` includes `tasks:read`, `admin` both. A server may need no token."
        )
        add.security_scheme("token", {"type": "http", "scheme": "bearer", "bearerFormat": "tc_...", "description": about})

    def of(self, routes: Iterable[web.RouteDef]) -> Part:
        """Return the document of these routes."""
        app = web.Application()  # of its own: a prefix under which ours is mounted does not belong into the paths
        app.add_routes(routes)
        for route in app.router.routes():
            self._register_route(route, route.method.lower(), route.handler)
        document: Part = self.swagger_dict()
        return document

    def _update_paths(self, data: Part, method: str, url_path: str) -> None:
        noted = copy.deepcopy(data)  # it stays at the handler, and the next application reads it again
        for name in ("schemas", "produces"):
            noted.pop(name)
        head = noted.pop("x-head", None)
        if method == "head":
            if head is None:
                return
            noted["operationId"] = head
            for part in noted["responses"].values():
                part.pop("content", None)
        self.spec.path(path=url_path, operations={method: noted})


def document(routes: Iterable[web.RouteDef]) -> Part:
    """Return the OpenAPI document of routes whose handlers `operation` has noted."""
    return _Document().of(routes)
