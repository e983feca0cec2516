"""What handlers read out of a request, each with its own refusal."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from aiohttp import web

from taskctl.errors import InvalidRequest, PayloadTooLarge, RequestTimedOut, TaskNotFound, UnsupportedMediaType
from taskctl.filters import zone_of
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


TASKS: Final = web.AppKey("taskctl.tasks", TaskService)
STATE: Final = web.AppKey("taskctl.state", State)
REQUEST_ID: Final = web.RequestKey("taskctl.request_id", str)
AT: Final = "X-Taskctl-Seq"
BODY: Final = web.RequestKey("taskctl.body", bytes)


def tasks_of(request: web.Request) -> TaskService:
    """Return the service that the request is for."""
    return request.app[TASKS]


async def ask(request: web.Request, query: Query[T]) -> Read[T]:
    """Have a question answered, as new as the request wants it: from the database itself, or not older than what it has seen."""
    said = request.headers.get("Cache-Control")
    fresh = said is not None and any(word.strip().lower() in ("no-cache", "no-store", "max-age=0") for word in said.split(","))
    return await tasks_of(request).ask(query, at=request.headers.get(AT, ""), fresh=fresh)


def where_from(read: Read[Any] | TaskNotFound) -> dict[str, str]:
    """Return what the headers say of an answer: how new it is, and which memory it came from (RFC 9211)."""
    headers = {AT: read.at}
    if read.origin is not None:
        tier, why, age = read.origin
        headers["Cache-Status"] = f'taskctl; hit; detail="{tier}; age={age}"' if tier else f"taskctl; {_FORWARDED[why]}"
    return headers


_FORWARDED: Final = {
    "miss": "fwd=miss",
    "bypass": "fwd=request",
    "lease": "fwd=stale; detail=lease",
    "unfollowed": "fwd=miss; detail=unfollowed",
    "uncacheable": "fwd=bypass",
}
"""Why an answer is from the database: it was remembered nowhere; the request wanted that; the end of the log is not known;
the log has not been looked at yet; such answers are not remembered."""


async def json_body(request: web.Request, *more_types: str) -> Any:
    """Return the value of a JSON body. Raises UnsupportedMediaType, PayloadTooLarge, RequestTimedOut, InvalidRequest."""
    if request.content_type not in ("application/json", *more_types):
        said = request.headers.get("Content-Type", "nothing")
        raise UnsupportedMediaType(f"a body of the type application/json was expected, and its Content-Type says {said!r}")
    if "Content-Encoding" in request.headers:
        raise UnsupportedMediaType("a body without a Content-Encoding was expected")
    if request.content_length is not None and request.content_length > BODY_MAX:
        raise PayloadTooLarge(f"the body is larger than {BODY_MAX} bytes")
    try:
        async with asyncio.timeout(None if request.content.is_eof() else BODY_SECONDS):
            # An outer application has a limit of its own; ours holds wherever we are mounted.
            body = request[BODY] = await request.clone(client_max_size=BODY_MAX).read()
    except TimeoutError:
        raise RequestTimedOut(f"the body has not arrived within {BODY_SECONDS:g} seconds") from None
    except (web.RequestPayloadError, OSError):
        raise InvalidRequest("the body broke off, or where its parts end is unclear") from None
    return strict_json(body)


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
        for header in ("If-Match", "Prefer")
    ]
    parts = [request.method, request.rel_url.raw_path, request.rel_url.raw_query_string, request.get(BODY, b""), *said]
    return IdempotencyKey(name, digest(encode(parts)))


class Parameters:
    """The query parameters of a request. One that is not in `allowed` is refused, so that a slip never goes unnoticed."""

    def __init__(self, request: web.Request, *allowed: str) -> None:
        self._query = request.query
        for name in self._query:
            if name not in allowed:
                known = f"there are {', '.join(allowed)}" if allowed else "there are none here"
                raise InvalidRequest(f"there is no parameter {name!r}; {known}", parameter=name)

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
        if re.fullmatch(r"[0-9]{1,40}", text) and least <= int(text) <= (most if most is not None else int(text)):
            return int(text)
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


# Possessive and tied to the commas, so that it takes no longer for a header that was made to take long.
_PREFERENCE = re.compile(
    r'(?:^|(?<=,))\s*+([!#$%&\'*+.^_`|~0-9A-Za-z-]++)\s*+(?:=\s*+(?:"([^"\\]*+)"|([^",;\s]*+)))?+\s*+(?:;[^,]*+)?+(?:,|$)'
)


class Preferences:
    """What `Prefer` (RFC 7240) asks for, as far as it is understood. What is not understood is passed over."""

    def __init__(self, request: web.Request) -> None:
        self._asked: dict[str, str] = {}
        said = request.headers.getall("Prefer", ())
        for found in _PREFERENCE.finditer(", ".join(said)) if said else ():
            self._asked.setdefault(found[1].lower(), found[2] or found[3] or "")
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
        """What the answer says of the preferences that it follows."""
        return {"Preference-Applied": ", ".join(self.applied)} if self.applied else {}


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
    return tags


def now() -> datetime:
    """Return the moment of a request: what relative dates in its filter are seen from."""
    return datetime.now(UTC)
