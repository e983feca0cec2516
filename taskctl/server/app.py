"""The application: its routes, what holds for every request, and the service that it is opened with."""

import itertools
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from taskctl.access import redacted
from taskctl.errors import (
    ExpectationFailed,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    Misdirected,
    NotFound,
    PayloadTooLarge,
    TaskctlError,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from taskctl.observe import TRACE, Observer, RateLimited, RequestBegun, RequestCut, RequestDone
from taskctl.server import access, docs, names, probes, reports, scrape, tasks
from taskctl.server.admission import LIMITS, REFUSED, Admission, Needs, Opened
from taskctl.server.doors import DOORS, Doors
from taskctl.server.openapi import MERGE_PATCH
from taskctl.server.requests import (
    ADMISSION,
    ADMITTED,
    BODY,
    BODY_MAX,
    OBSERVER,
    OPENED,
    STATE,
    State,
    expects_to_go_on,
    where_from,
)
from taskctl.server.scrape import SCRAPE, Scrape
from taskctl.wire import PROBLEM, encode, etag, problem

_OURS = secrets.token_hex(8)
_numbers = itertools.count()
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_log = logging.getLogger("taskctl.server")


def make_app(
    open_service: Callable[[], AbstractAsyncContextManager[Opened]],
    observer: Observer,
    doors: Doors | None = None,
    metrics: Scrape | None = None,
    begun: Observer | None = None,
) -> web.Application:
    """Return the application. It opens what it serves when it starts and closes it when it is cleaned up.

    metrics: what `/metrics` tells, None if it tells nothing. begun: is told of a request before anything is done for it.
    """
    doors = doors or Doors()

    async def service(app: web.Application) -> AsyncIterator[None]:
        async with open_service() as opened:
            app[OPENED] = opened
            app[ADMISSION] = admission = Admission(opened, doors, observer)
            async with admission.noting():
                yield

    state = State()
    app = web.Application(middlewares=[_every_request(observer, begun, doors, state)])
    app[STATE] = state
    app[OBSERVER] = observer
    app[DOORS] = doors
    app[SCRAPE] = metrics
    app.cleanup_ctx.append(service)
    routes = [*probes.routes(), *scrape.routes(), *tasks.routes(), *reports.routes(), *access.routes(), *docs.routes()]
    assert all(hasattr(route.handler, "needs") for route in routes), "every handler says what it needs of who asks"
    app.add_routes(web.route(r.method, r.path, r.handler, **{**r.kwargs, "expect_handler": _expect}) for r in routes)
    return app


async def _expect(request: web.Request) -> web.Response | None:
    """Leave the 100 to whoever reads the body: the headers may be reason enough to refuse it."""
    try:
        expects_to_go_on(request)
    except ExpectationFailed as e:
        refusal = answer(e, request_id_of(request))
        request.app[DOORS].leave(request, refusal)
        return refusal
    return None


def request_id_of(request: web.BaseRequest) -> str:
    """Return the id that a request has brought along if it is sane, which is not one with a secret in it, else one of ours."""
    given = request.headers.get(names.REQUEST_ID)
    if given is not None and _SANE_ID.fullmatch(given) and redacted(given) == given:
        return given
    return f"{_OURS}{next(_numbers):016x}"


def _every_request(observer: Observer, begun: Observer | None, doors: Doors, state: State) -> Middleware:
    """Return the middleware that gives each request its id, turns failures into problems, and tells the observer."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request_id = request_id_of(request)
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else ""
        if begun is not None:
            begun(RequestBegun(request.method, request.rel_url.raw_path, route, request.scheme, request.headers))
        # Where there is nothing, it is told to whom we know.
        needs: Needs = getattr(request.match_info.handler, "needs", "token")
        state.in_flight += 1
        try:
            response: web.StreamResponse | None = doors.enter(request, route)
            if response is None:
                if needs != "nothing":
                    request[ADMITTED] = await request.app[ADMISSION].admit(request, needs)
                response = await handler(request)
        except TaskctlError as e:
            response = answer(e, request_id)
            if isinstance(e, TooManyRequests):
                observer(RateLimited(e.extra["limit"]))
        except web.HTTPException as e:
            response = answer(_told(e, request), request_id)
        except Exception:
            _log.exception("request %s failed: %s %s", request_id, request.method, route)
            response = answer(TaskctlError("something went wrong that nobody foresaw; the server's log has more"), request_id)
        except BaseException:
            observer(RequestCut())
            raise
        finally:
            state.in_flight -= 1
        if needs != "nothing" and request.app[OPENED].tokens is not None:  # who asks decides what there is at an address
            vary = response.headers.get(names.VARY)
            response.headers[names.VARY] = f"{vary}, Authorization" if vary else "Authorization"
        doors.leave(request, response)
        seconds = time.perf_counter() - started
        method, status, headers = request.method, response.status, response.headers
        headers[names.REQUEST_ID] = request_id
        headers[names.SERVER_TIMING] = f"total;dur={seconds * 1000:.2f}"
        if status < 400 and method in ("GET", "HEAD") and "/api/v1/" in route:
            headers[names.CACHE_CONTROL] = "no-cache"  # it may be kept, but not used without asking whether it is still so
        if LIMITS in request:
            headers.update(request[LIMITS])
        if state.draining:
            response.force_close()
        admitted = request.get(ADMITTED)
        caller = admitted.caller if admitted is not None else request.get(REFUSED)
        workspace, token = (caller.workspace, caller.token) if caller is not None else ("", "")
        host = request.headers.get(names.HOST, "") if status == Misdirected.status else ""
        path, address = request.rel_url.raw_path, doors.address_of(request)
        received, sent = len(request.get(BODY, b"")), 0 if method == "HEAD" else response.content_length or 0
        trace = TRACE.get()
        observer(
            RequestDone(method, path, route, status, seconds, request_id, workspace, token, address, received, sent, host, trace)
        )
        return response

    return middleware


def _told(e: web.HTTPException, request: web.Request) -> TaskctlError:
    """Return aiohttp's refusal as a failure of ours."""
    match e:
        case web.HTTPMethodNotAllowed():
            allow = sorted(e.allowed_methods)
            return MethodNotAllowed(f"{request.method} does not fit here; there are {', '.join(allow)}", allow=allow)
        case web.HTTPNotFound():
            return NotFound("there is nothing at this address; /docs shows what there is")
        case web.HTTPRequestEntityTooLarge():
            return PayloadTooLarge(f"the body is larger than {BODY_MAX} bytes")
        case web.HTTPUnsupportedMediaType():
            return UnsupportedMediaType(e.reason)
        case _ if 400 <= e.status < 500:
            return InvalidRequest(e.reason)
        case _:
            return Unavailable(e.reason)


def answer(e: TaskctlError, request_id: str) -> web.Response:
    """Return a failure as the answer to a request, without what the doors have to say on its way."""
    headers = {names.REQUEST_ID: request_id, names.CACHE_CONTROL: "no-store"}
    if "retry_after" in e.extra:
        headers["Retry-After"] = str(e.extra["retry_after"])
    if isinstance(e, TooManyRequests):
        headers |= _too_much(e.extra)
    if isinstance(e, Unauthenticated):
        # RFC 6750: whoever showed nothing is told of no error.
        headers["WWW-Authenticate"] = 'Bearer realm="taskctl"' + (', error="invalid_token"' if "reason" in e.extra else "")
    if isinstance(e, Forbidden):
        scope = f', scope="{e.extra["scope"]}"' if "scope" in e.extra else ""
        headers["WWW-Authenticate"] = f'Bearer realm="taskctl", error="insufficient_scope"{scope}'
    if isinstance(e, MethodNotAllowed):
        headers["Allow"] = ", ".join(e.extra["allow"])
    if isinstance(e, UnsupportedMediaType):
        headers |= _accepted(e)
    if "current_version" in e.extra and "index" not in e.extra:  # of a task at this address, not of one in a batch
        headers[names.ETAG] = etag(e.extra["current_version"])
    if e.at:
        headers.update(where_from(e))
    body = encode(problem(e, request_id=request_id))
    return web.Response(body=body, status=e.status, content_type=PROBLEM, headers=headers)


def _too_much(told: Mapping[str, Any]) -> dict[str, str]:
    """Return what the answer says of the limit that was reached (draft-ietf-httpapi-ratelimit-headers)."""
    return {
        "RateLimit-Policy": f'"{told["limit"]}";q={told["quota"]};w={told["window"]}',
        "RateLimit": f'"{told["limit"]}";r=0;t={told["retry_after"]}',
    }


def _accepted(e: UnsupportedMediaType) -> dict[str, str]:
    """Return what the answer says of the bodies that would be read: which header there is tells what was wrong with this one."""
    if "accept" not in e.extra:
        return {"Accept-Encoding": "identity"}
    types = ", ".join(e.extra["accept"])
    return {"Accept": types, **({"Accept-Patch": types} if MERGE_PATCH in e.extra["accept"] else {})}
