"""What handlers read out of a request, each with its own refusal."""

import asyncio
import re
from collections.abc import Awaitable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from aiohttp import web
from aiohttp.http import HttpVersion11
from multidict import MultiDict, MultiDictProxy, MultiMapping

from taskctl.access import AccessService
from taskctl.errors import (
    ExpectationFailed,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimedOut,
    TaskctlError,
    UnsupportedMediaType,
)
from taskctl.filters import zone_of
from taskctl.observe import Observer
from taskctl.server import names
from taskctl.server.admission import Admission, Admitted, Opened, require_access
from taskctl.tasks import IdempotencyKey, Query, Read, TaskService
from taskctl.wire import digest, encode, strict_json

T = TypeVar("T")

BODY_MAX: Final = 1024 * 1024
BODY_SECONDS = 10.0
"""How long a body may take to arrive, from when it is read."""


class State:
    """What the whole application knows about itself.

    draining: it is about to stop, and wants no new connections; in_flight: how many requests have no answer yet.
    """

    draining = False
    in_flight = 0


OPENED: Final = web.AppKey("taskctl.opened", Opened)
ADMISSION: Final = web.AppKey("taskctl.admission", Admission)
ADMITTED: Final = web.RequestKey("taskctl.admitted", Admitted)
OBSERVER: Final[web.AppKey[Observer]] = web.AppKey("taskctl.observer")
STATE: Final = web.AppKey("taskctl.state", State)
BODY: Final = web.RequestKey("taskctl.body", bytes)
EXPECTS: Final = web.RequestKey("taskctl.expects", bool)
"""Whether the client waits for a 100, where the header that says so has been taken away."""


def tasks_of(request: web.Request) -> TaskService:
    """Return the tasks of whoever asks."""
    return request[ADMITTED].tasks


def access_of(request: web.Request) -> AccessService:
    """Return the tokens and workspaces for whoever asks. Raises Forbidden where nobody is asked who they are."""
    return require_access(request[ADMITTED])


def ask(request: web.Request, query: Query[T]) -> Awaitable[Read[T]]:
    """Have a question answered, as new as the request wants it: from the database itself, or not older than what it has seen."""
    said = request.headers.getall(names.CACHE_CONTROL, ())
    fresh = bool(said) and any(word.strip().lower() in _AFRESH for line in said for word in line.split(","))
    return tasks_of(request).ask(query, at=request.headers.get(names.SEQ, ""), fresh=fresh)


_AFRESH: Final = ("no-cache", "no-store", "max-age=0")


def where_from(read: Read[Any] | TaskctlError) -> dict[str, str]:
    """Return what the headers say of an answer: how new it is, and which memory it came from (RFC 9211)."""
    headers = {names.SEQ: read.at}
    if read.origin is not None:
        tier, why, age = read.origin
        headers[names.CACHE_STATUS] = f'taskctl; hit; detail="{tier}; age={age}"' if tier else f"taskctl; {_FORWARDED[why]}"
    return headers


_FORWARDED: Final = {
    "miss": "fwd=miss",
    "request": "fwd=request",
    "lease": "fwd=stale; detail=lease",
    "unfollowed": "fwd=miss; detail=unfollowed",
    "bypass": "fwd=bypass",
}
"""Why an answer is from the database: it was remembered nowhere; the request wanted that; the end of the log is not known;
the log has not been looked at yet; such answers are not remembered."""


async def json_body(request: web.Request, *more_types: str) -> Any:
    """Return the value of a JSON body. Raises UnsupportedMediaType, PayloadTooLarge, RequestTimedOut, InvalidRequest."""
    if request.content_type not in (types := [*more_types, "application/json"]):
        said = f"says '{_shown(request.headers['Content-Type'])}'" if "Content-Type" in request.headers else "is missing"
        expected = f"a body of the type {' or '.join(types)} was expected"
        raise UnsupportedMediaType(f"{expected}, and its Content-Type {said}", accept=types)
    if "Content-Encoding" in request.headers:
        raise UnsupportedMediaType("a body without a Content-Encoding was expected")
    if request.content_length is not None and request.content_length > BODY_MAX:
        raise PayloadTooLarge(f"the body is larger than {BODY_MAX} bytes")
    await _go_on(request)
    content = request.content
    try:
        if content.is_eof():  # as nearly always: it has come with the headers
            body = content.read_nowait()
            if len(body) > BODY_MAX:
                raise PayloadTooLarge(f"the body is larger than {BODY_MAX} bytes")
        else:
            async with asyncio.timeout(BODY_SECONDS):
                # An outer application has a limit of its own; ours holds wherever we are mounted.
                body = await request.clone(client_max_size=BODY_MAX).read()
            await request.app[ADMISSION].again(request, request.match_info.handler.needs)  # type: ignore[attr-defined]
        request[BODY] = body
    except TimeoutError:
        raise RequestTimedOut(f"the body has not arrived within {BODY_SECONDS:g} seconds") from None
    except (web.RequestPayloadError, OSError):
        raise InvalidRequest("the body broke off, or where its parts end is unclear") from None
    return strict_json(body)


def expects_to_go_on(request: web.BaseRequest) -> bool:
    """Return whether a client waits for a 100 before it sends the body. Raises ExpectationFailed if it expects something else."""
    said = request.headers.get(names.EXPECT)
    if said is None or request.version != HttpVersion11:
        return False
    if said.lower() != "100-continue":
        raise ExpectationFailed("the only Expect that is understood is 100-continue")
    return True


async def _go_on(request: web.Request) -> None:
    """Send the 100 to who waits for it: now, when nothing in the headers speaks against the body."""
    if request.get(EXPECTS, False) or expects_to_go_on(request):
        request[EXPECTS] = False
        if not request.content.is_eof():
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer has not begun
            await request.writer.drain()


def _shown(text: str) -> str:
    """Return a header's value as it can be shown, whatever bytes are in it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def idempotency_key(request: web.Request) -> IdempotencyKey | None:
    """Return the key of a write whose body has been read, None if it has none. It is that of all that the request says."""
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest("there can be only one Idempotency-Key")
    name = values[0]
    if len(name) > 2 and name[0] == name[-1] == '"':  # the drafts of the header have it quoted; most clients send it bare
        name = name[1:-1]
    said = [
        [value.encode("utf-8", "surrogateescape") for value in request.headers.getall(header, [])]
        for header in (names.IF_MATCH, names.PREFER)
    ]
    parts = [request.method, request.rel_url.raw_path, request.rel_url.raw_query_string, request.get(BODY, b""), *said]
    return IdempotencyKey(name, digest(encode(parts)), request[ADMITTED].caller.token)


_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _require_escapes(raw: str) -> None:
    """Raise InvalidRequest if something in a query string is not percent-encoded UTF-8; it would be read as something else."""
    for part in raw.split("&") if "%" in raw else ():
        name, _, value = part.partition("=")
        known = _unescaped(name)
        if known is None:
            raise InvalidRequest("the name of a parameter is not percent-encoded UTF-8")
        if _unescaped(value) is None:
            raise InvalidRequest(f"the value of {known!r:.100} is not percent-encoded UTF-8", parameter=known)


def _unescaped(text: str) -> str | None:
    """Return a text without its percent-encoding, None if it is not well encoded."""
    try:
        return None if _BROKEN_ESCAPE.search(text) else unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None


_DIGITS_MAX: Final = 40
_NO_QUERY: Final = MultiDictProxy(MultiDict[str]())


def no_parameters(request: web.Request) -> None:
    """Raise InvalidRequest if there are query parameters."""
    if request.rel_url.raw_query_string:
        Parameters(request)


class Parameters:
    """The query parameters of a request. One that is not in `allowed` is refused, so that a slip never goes unnoticed."""

    def __init__(self, request: web.Request, *allowed: str) -> None:
        if not (raw := request.rel_url.raw_query_string):
            self._query: MultiMapping[str] = _NO_QUERY
            return
        _require_escapes(raw)
        self._query = request.query
        for name in self._query:
            if name not in allowed:
                known = f"there are {', '.join(allowed)}" if allowed else "there are none here"
                raise InvalidRequest(f"there is no parameter {name!r}; {known}", parameter=name)

    def any_of(self, names: Iterable[str]) -> bool:
        """Return whether one of these is there."""
        return not self._query.keys().isdisjoint(names)

    def many(self, name: str) -> list[str]:
        """Return all values of a parameter that may be repeated."""
        return self._query.getall(name, [])

    def one(self, name: str) -> str | None:
        """Return the value of a parameter, None if it is not there."""
        values = self.many(name)
        if len(values) > 1:
            raise InvalidRequest(f"{name} was given {len(values)} times", parameter=name)
        return values[0] if values else None

    def whole(self, name: str, default: int, least: int, most: int | None = None) -> int:
        """Return the value as a whole number within its bounds."""
        text = self.one(name)
        if text is None:
            return default
        if len(text) <= _DIGITS_MAX and text.isascii() and text.isdecimal():
            number = int(text)
            if number >= least and (most is None or number <= most):
                return number
        bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise InvalidRequest(f"{name} must be a whole number {bounds}", parameter=name)

    def flag(self, name: str) -> bool | None:
        """Return the value as true or false, None if it is not there."""
        match self.one(name):
            case None:
                return None
            case "true":
                return True
            case "false":
                return False
        raise InvalidRequest(f"{name} must be true or false", parameter=name)


# Possessive, so that they take no longer for a header that was made to take long. A quoted text may have commas in it.
_QUOTED = r'"((?:[^"\\]|\\.)*+)"'
_ELEMENT = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.?)*+(?:"|$))++')
_PREFERENCE = re.compile(rf'\s*+([!#$%&\'*+.^_`|~0-9A-Za-z-]++)\s*+(?:=\s*+(?:{_QUOTED}|([^";\s]*+)))?+\s*+(?:;.*)?+', re.DOTALL)


class Preferences:
    """What `Prefer` (RFC 7240) asks for, as far as it is understood. What is not understood is passed over."""

    def __init__(self, request: web.Request) -> None:
        self._asked: dict[str, str] = {}
        for said in request.headers.getall(names.PREFER, ()):
            for element in _ELEMENT.findall(said):
                if found := _PREFERENCE.fullmatch(element):
                    value = re.sub(r"\\(.)", r"\1", found[2]) if found[2] else found[3] or ""
                    self._asked.setdefault(found[1].lower(), value)
        self.applied: list[str] = []

    @property
    def zone(self) -> str:
        """The reader's time zone, from `timezone=Europe/Berlin`; UTC if nothing is said. Raises InvalidRequest."""
        name = self._asked.get("timezone")
        if not name:
            return "UTC"
        zone_of(name)
        self.applied.append(f"timezone={name}")
        return name

    def wants(self, name: str, value: str) -> bool:
        """Return whether a preference has this value."""
        if self._asked.get(name) != value:
            return False
        self.applied.append(f"{name}={value}")
        return True

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says of the preferences that it follows, and that it depends on them."""
        return {names.VARY: "Prefer", **({"Preference-Applied": ", ".join(self.applied)} if self.applied else {})}


_TAG = re.compile(r'[ \t,]*((?:W/)?"[^"]*"|\*)[ \t]*(?:,|$)')


def versions(request: web.Request, header: str) -> list[str] | None:
    """Return the entity tags (RFC 9110) that a conditional header lists, as they stand, or None without the header."""
    lines = request.headers.getall(header, [])
    if not lines:
        return None
    text, tags = ",".join(lines).strip(" \t,"), list[str]()
    while text:
        if (found := _TAG.match(text)) is None:
            raise InvalidRequest(f'{header} takes entity tags, with their quotes, as "3", or *')
        tags.append(found[1])
        text = text[found.end() :].strip(" \t,")
    if "*" in tags and len(tags) > 1:
        raise InvalidRequest(f"{header} takes either entity tags or *, not both")
    return tags


def now() -> datetime:
    """Return the moment of a request: what relative dates in its filter are seen from."""
    return datetime.now(UTC)
