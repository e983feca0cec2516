"""What handlers read out of a request, each with its own refusal."""

import re
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from taskctl.errors import InvalidRequest, UnsupportedMediaType
from taskctl.filters import zone_of
from taskctl.tasks import TaskService
from taskctl.wire import strict_json

BODY_MAX: Final = 1024 * 1024


class State:
    """What the whole application knows about itself.

    draining: it is about to stop, and wants no new connections; in_flight: how many requests have no answer yet.
    """

    draining = False
    in_flight = 0


TASKS: Final = web.AppKey("taskctl.tasks", TaskService)
STATE: Final = web.AppKey("taskctl.state", State)
REQUEST_ID: Final = web.RequestKey("taskctl.request_id", str)


def tasks_of(request: web.Request) -> TaskService:
    """Return the service that the request is for."""
    return request.app[TASKS]


async def json_body(request: web.Request, *more_types: str) -> Any:
    """Return the value of a JSON body. Raises UnsupportedMediaType, PayloadTooLarge, InvalidRequest."""
    if request.content_type not in ("application/json", *more_types):
        said = request.headers.get("Content-Type", "nothing")
        raise UnsupportedMediaType(f"a body of the type application/json was expected, and its Content-Type says {said!r}")
    if "Content-Encoding" in request.headers:
        raise UnsupportedMediaType("a body without a Content-Encoding was expected")
    # An outer application has a limit of its own; ours holds wherever we are mounted.
    return strict_json(await request.clone(client_max_size=BODY_MAX).read())


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


_TIMEZONE = re.compile(r'(?:^|,)\s*timezone\s*=\s*"?([^",;\s]+)"?', re.IGNORECASE)


def zone_name(request: web.Request) -> str:
    """Return the reader's time zone, from `Prefer: timezone=Europe/Berlin`; UTC if nothing is said."""
    found = _TIMEZONE.search(", ".join(request.headers.getall("Prefer", [])))
    if found is None:
        return "UTC"
    zone_of(found[1])
    return found[1]


def versions(request: web.Request, header: str) -> list[str] | None:
    """Return the entity tags that a conditional header lists, as they stand, or None without the header."""
    lines = request.headers.getall(header, [])
    if not lines:
        return None
    return [tag.strip() for tag in ",".join(lines).split(",")]


def now() -> datetime:
    """Return the moment of a request: what relative dates in its filter are seen from."""
    return datetime.now(UTC)
