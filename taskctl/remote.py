"""`RemoteTasks`: the tasks of a server, over its API. The same questions, answers and failures as at home."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from taskctl.errors import ConfigError, OutcomeUnknown, TaskctlError, Unavailable
from taskctl.filters import render
from taskctl.tasks import (
    And,
    Change,
    Changes,
    Changeset,
    ChangesSince,
    GetStats,
    GetTask,
    History,
    Labels,
    Match,
    Page,
    Projects,
    Query,
    Source,
    Stats,
    T,
    Tallies,
    Task,
    TaskQuery,
    TaskService,
    Written,
)
from taskctl.wire import PROBLEM, decode, decode_written, encode_changeset, error

PAGE_MAX = 200
"""What a server gives at once; longer lists are asked for page by page."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class RemoteTasks(TaskService):
    """The tasks of the workspace that a server shows us."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, timeout: float) -> AsyncIterator[Self]:
        """Open the connections to a server. Raises ConfigError for an address that is none."""
        base = _base(url)
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, 5.0))
        async with aiohttp.ClientSession(timeout=limits, raise_for_status=False) as session:
            yield cls(session, base)

    def scoped(self, *, actor: str | None, source: Source) -> Self:
        """Return the same service: who writes, and how, is for the server to say."""
        del actor, source
        return self

    async def ready(self) -> None:
        await self._ask("GET", "/tasks", Page[Task], query=[("limit", "1")])

    async def write(self, changes: Changeset) -> Written:
        query = [("dry_run", "true")] if changes.dry_run else []
        body = await self._request("POST", "/batch", query=query, body=encode_changeset(changes), writes=not changes.dry_run)
        try:
            return self._decoded(decode_written, body)
        except Unavailable as e:
            raise (Unavailable if changes.dry_run else OutcomeUnknown)(e.detail) from None

    async def read(self, query: Query[T]) -> T:
        value: Any
        asked: Query[Any] = query
        match asked:
            case GetTask(id):
                value = await self._ask("GET", f"/tasks/{id}", Task)
            case TaskQuery():
                value = await self._tasks(asked)
            case History():
                path = f"/tasks/{asked.id}/history"
                value = await self._pages(path, [], asked.limit, asked.cursor, Page[Change], {})
            case ChangesSince():
                about = [("since", str(asked.since)), ("limit", str(asked.limit))]
                about += [("epoch", asked.epoch)] if asked.epoch is not None else []
                value = await self._ask("GET", "/changes", Changes, query=about)
            case Projects():
                value = await self._ask("GET", "/projects", Tallies)
            case Labels():
                value = await self._ask("GET", "/labels", Tallies)
            case GetStats(zone):
                value = await self._ask("GET", "/stats", Stats, headers={"Prefer": f"timezone={zone}"})
            case _:
                raise TypeError(f"no such question: {query!r}")
        return cast(T, value)

    async def _tasks(self, query: TaskQuery) -> Page[Task]:
        about = [("sort", ",".join(query.sort) or "id")]
        where = query.where
        if isinstance(where, And) and isinstance(first := where.terms[0], Match) and first.field == "status":
            # What the command line puts in front of a filter must not count as a part of what somebody wrote.
            about += [("status", str(value)) for value in first.values]
            where = And(where.terms[1:]) if len(where.terms) > 2 else where.terms[-1] if len(where.terms) > 1 else None
        if where is not None:
            about.append(("filter", render(where)))
        headers = {"Prefer": f"timezone={query.zone}"}
        return await self._pages("/tasks", about, query.limit, query.cursor, Page[Task], headers)

    async def _pages(
        self,
        path: str,
        about: list[tuple[str, str]],
        limit: int | None,
        cursor: str | None,
        kind: type[Page[Item]],
        headers: Mapping[str, str],
    ) -> Page[Item]:
        """Return a page of any length, put together from those of the server."""
        items: list[Item] = []
        while True:
            left = PAGE_MAX if limit is None else min(PAGE_MAX, limit - len(items))
            place = [("cursor", cursor)] if cursor is not None else []
            page = await self._ask("GET", path, kind, query=[*about, ("limit", str(left)), *place], headers=headers)
            items += page.items
            cursor = page.next_cursor
            if cursor is None or len(items) == limit:
                return Page(tuple(items), cursor)

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        body = await self._request(method, path, query=query, headers=headers)
        return self._decoded(lambda raw: decode(raw, kind), body)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        writes: bool = False,
    ) -> bytes:
        """Return the body of a good answer. Raises the failure that a problem tells of.

        Without an answer it is Unavailable, or, if something may have been written, OutcomeUnknown.
        """
        sent = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with self._session.request(
                method,
                self._url + path,
                params=list(query),
                data=body,
                headers={**sent, **(headers or {})},
                allow_redirects=False,
            ) as answer:
                received = await answer.read()
        except (TimeoutError, aiohttp.ClientError) as e:
            why = "has not answered in time" if isinstance(e, TimeoutError) else f"cannot be reached: {_reason(e)}"
            never_sent = isinstance(e, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
            failure = OutcomeUnknown if writes and not never_sent else Unavailable
            raise failure(f"the server {self._url} {why}") from None
        if answer.content_type == PROBLEM:
            raise self._decoded(lambda raw: error(msgspec.json.decode(raw)), received)
        if answer.status != 200:
            stranger = self._stranger(f"it answered {answer.status}")
            # A gateway that gives up does not say whether the server behind it did.
            raise OutcomeUnknown(stranger.detail) if writes and answer.status >= 500 else stranger
        return received

    def _decoded(self, decoder: Callable[[bytes], Answer], body: bytes) -> Answer:
        try:
            return decoder(body)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise self._stranger("its answer is not of this API") from None

    def _stranger(self, why: str) -> TaskctlError:
        return Unavailable(f"what is at {self._url} is not a taskctl server: {why}")


def _reason(e: aiohttp.ClientError | TimeoutError) -> str:
    """Return why there was no answer, in one line."""
    if isinstance(e, aiohttp.ClientConnectorError) and e.os_error.strerror:
        return e.os_error.strerror
    return " ".join(str(e).split())


def _base(url: str) -> str:
    """Return where the API of a server is. Raises ConfigError for what is not the address of one."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or parts.username:
        shown = url.rpartition("@")[2]
        raise ConfigError(f"{shown!r} is not the address of a server; http://HOST:PORT was expected")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/api/v1") + "/api/v1", "", ""))
