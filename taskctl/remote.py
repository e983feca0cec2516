"""`RemoteTasks`: the tasks of a server, over its API. The same questions, answers and failures as at home."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, NamedTuple, Self, TypeVar, cast
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import aiohttp
import msgspec
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)
from yarl import URL

from taskctl.access import AccessService, Me, Minted, NewToken, Tokens, Workspace, Workspaces
from taskctl.conditions import render, status_apart
from taskctl.errors import ConfigError, InvalidRequest, OutcomeUnknown, TaskctlError, Unavailable
from taskctl.observe import Exchanged, Observer, ignore
from taskctl.tasks import (
    Change,
    Changes,
    Changeset,
    ChangesSince,
    GetStats,
    GetTask,
    History,
    IdempotencyKey,
    Labels,
    Page,
    Projects,
    Query,
    Read,
    Source,
    Stats,
    T,
    Tallies,
    Task,
    TaskQuery,
    TaskService,
    Written,
    require_at,
)
from taskctl.wire import PROBLEM, decode, decode_written, encode, encode_changeset, error, newer

PAGE_MAX = 200
"""What a server gives at once; longer lists are asked for page by page."""

PATIENCE_SECONDS = 3.0
"""How long after the first attempt another one may begin: enough for a server that is started anew."""
AT = "X-Taskctl-Seq"
REQUEST_ID = "X-Request-Id"
_PLACE = re.compile("[!-~]{1,255}")
"""What can be a place in a log. Anything else is in none, and some of it could not even be sent."""
FIELD_MAX = 256 * 1024
"""The longest header that is read: a `Link` has the whole address of the next page in it, and a filter can be long."""
NOT_THEIRS = "a server decides itself which workspace it shows, by the token; leave the workspace out"
_ELSEWHERE = (301, 302, 303, 307, 308)
_GATEWAYS = (502, 503, 504)
_BESIDE = ("/livez", "/readyz", "/version", "/openapi.json", "/docs", "/metrics")

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Answered(NamedTuple):
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def at(self) -> str:
        return self.headers.get(AT, "")


class _Failed(Exception):
    """There was no good answer, and another attempt may get one.

    doubt: the server may have done what it was asked for. told: the failure is the server's own.
    """

    def __init__(self, failure: TaskctlError, *, doubt: bool, told: bool = False) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.doubt = doubt
        self.told = told


class RemoteTasks(TaskService):
    """The tasks of the workspace that a server shows us.

    What fails for want of an answer is tried again while there is time: reads, and writes, too, because each has an idempotency
    key. timeout: seconds for all attempts together. token_from: where the token is from, in words.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        timeout: float,
        token_from: str = "",
        observer: Observer = ignore,
    ) -> None:
        self._session = session
        self._url = url
        self._timeout = timeout
        self._token_from = token_from
        self._observer = observer
        self._at = ""
        self._answered = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        timeout: float,
        token: str = "",
        token_from: str = "",
        ca_file: str = "",
        allow_http: bool = False,
        observer: Observer = ignore,
    ) -> AsyncIterator[Self]:
        """Open the connections to a server that is shown a token, if there is one.

        ca_file: the CAs that may vouch for it, instead of the system's. allow_http: whether the token may go to another
        machine in the clear. token_from: where the token is from, for the observer, who is told of every request.

        Raises ConfigError for what is no address, for a token that may not go there, and for a file that has no CAs.
        """
        base = api_address(url)
        if token:
            require_private(base, allow_http=allow_http)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=_trusting(ca_file)) if ca_file and base.startswith("https:") else None
        async with aiohttp.ClientSession(
            headers=headers, raise_for_status=False, max_field_size=FIELD_MAX, connector=connector
        ) as session:
            yield cls(session, base, timeout=timeout, token_from=token_from, observer=observer)

    def scoped(self, *, actor: str | None, source: Source, workspace: str | None = None) -> Self:
        """Return the same service: who writes, and how, is for the server to say."""
        del actor, source
        if workspace is not None:
            raise ConfigError(NOT_THEIRS)
        return self

    async def require_workspace(self, name: str) -> None:
        """Raise ConfigError if the server shows us another workspace than this one."""
        me = (await self._ask("GET", "/me", Me)).value
        if me.workspace != name:
            said = "the server shows" if me.token is None else f"the token {me.token} is for"
            raise ConfigError(f"{said} the workspace {me.workspace!r}, and not {name!r:.100}", setting="workspace")

    async def ready(self) -> None:
        await self._ask("GET", "/tasks", Page[Task], query=[("limit", "1")])

    async def write(self, changes: Changeset, *, key: IdempotencyKey | None = None) -> Written:
        if key is not None and key.request:
            # It cannot be sent, and without it the key would stand for something else than was meant.
            raise InvalidRequest("over a server a key stands for the request that is sent; leave out what it was asked for")
        writes = not changes.dry_run
        query = [] if writes else [("dry_run", "true")]
        body = encode_changeset(changes)
        headers = {"Content-Type": "application/json"}
        if writes:
            headers["Idempotency-Key"] = key.name if key is not None else uuid4().hex
        answer = await self._request("POST", "/batch", query=query, headers=headers, body=body, writes=writes)
        try:
            written = self._decoded(decode_written, answer.body)
        except Unavailable as e:
            raise (OutcomeUnknown if writes else Unavailable)(e.detail) from None
        replayed = answer.headers.get("Idempotency-Replayed") == "true"
        return msgspec.structs.replace(written, at=answer.at, replayed=replayed and key is not None)

    async def ask(self, query: Query[T], *, at: str = "", fresh: bool = False) -> Read[T]:
        require_at(at)
        if _PLACE.fullmatch(at):
            self._at = newer(self._at, at)
        value: Any
        asked: Query[Any] = query
        headers = {"Cache-Control": "no-cache"} if fresh else {}
        match asked:
            case GetTask(id):
                value = await self._ask("GET", f"/tasks/{id}", Task, headers=headers)
            case TaskQuery():
                value = await self._tasks(asked, headers)
            case History():
                path = f"/tasks/{asked.id}/history"
                value = await self._pages(path, [], asked.limit, asked.cursor, Page[Change], headers)
            case ChangesSince():
                about = [("since", str(asked.since)), ("limit", str(asked.limit))]
                about += [("epoch", asked.epoch)] if asked.epoch is not None else []
                value = await self._ask("GET", "/changes", Changes, query=about, headers=headers)
            case Projects():
                value = await self._ask("GET", "/projects", Tallies, headers=headers)
            case Labels():
                value = await self._ask("GET", "/labels", Tallies, headers=headers)
            case GetStats(zone):
                value = await self._ask("GET", "/stats", Stats, headers={**headers, "Prefer": f"timezone={zone}"})
            case _:
                raise TypeError(f"no such question: {query!r}")
        return cast("Read[T]", value)

    async def _tasks(self, query: TaskQuery, headers: Mapping[str, str]) -> Read[Page[Task]]:
        about = [("sort", ",".join(query.sort) or "id")]
        statuses, where = status_apart(query.where)
        about += [("status", status) for status in statuses]
        if where is not None:
            about.append(("filter", render(where)))
        headers = {**headers, "Prefer": f"timezone={query.zone}" + (", count=exact" if query.count else "")}
        return await self._pages("/tasks", about, query.limit, query.cursor, Page[Task], headers)

    async def _pages(
        self,
        path: str,
        about: list[tuple[str, str]],
        limit: int | None,
        cursor: str | None,
        kind: type[Page[Item]],
        headers: Mapping[str, str],
    ) -> Read[Page[Item]]:
        """Return a page of any length, put together from those of the server. It is as new as the first of them."""
        items: list[Item] = []
        first: Read[Page[Item]] | None = None
        while True:
            left = PAGE_MAX if limit is None else min(PAGE_MAX, limit - len(items))
            place = [("cursor", cursor)] if cursor is not None else []
            page = await self._ask("GET", path, kind, query=[*about, ("limit", str(left)), *place], headers=headers)
            first = first or page
            items += page.value.items
            cursor = page.value.next_cursor
            if cursor is None or len(items) == limit:
                return Read(Page(tuple(items), cursor, first.value.total), first.at)

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Read[Answer]:
        answer = await self._request(method, path, query=query, headers=headers)
        return Read(self._decoded(lambda raw: decode(raw, kind), answer.body), answer.at)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        writes: bool = False,
    ) -> Answered:
        """Return a good answer. Raises the failure that a problem tells of.

        Without an answer it is Unavailable, or, if something may have been written, OutcomeUnknown.
        """
        loop = asyncio.get_running_loop()
        deadline, doubt = loop.time() + self._timeout, False

        async def once() -> Answered:
            nonlocal doubt
            try:
                # Half of the time that is left: after a server that has fallen silent, another one may answer.
                return await self._send(method, path, query, headers or {}, body, (deadline - loop.time()) / 2)
            except _Failed as e:
                doubt = doubt or (writes and e.doubt)
                raise

        try:
            answer: Answered = await AsyncRetrying(
                retry=retry_if_exception_type(_Failed),
                stop=stop_before_delay(min(self._timeout, PATIENCE_SECONDS)),
                wait=_wait,
                reraise=True,
            )(once)
        except _Failed as e:
            raise (self._unknown(e.failure) if doubt else e.failure) from None
        except TaskctlError as e:
            if doubt and e.status >= 500:  # it tells of this attempt, and not of one before
                raise self._unknown(e) from None
            raise
        if answer.at:
            self._at = newer(self._at, answer.at)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: bytes | None,
        seconds: float,
    ) -> Answered:
        """Make one attempt. Raises _Failed if another one may do better, else the failure itself."""
        if self._at:
            headers = {**headers, AT: self._at}
        answer = await self._exchange(method, self._url + path, query, headers, body, seconds)
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        if kind == PROBLEM:
            failure = self._decoded(lambda raw: error(msgspec.json.decode(raw)), answer.body)
            failure.at = answer.at
            if isinstance(failure, OutcomeUnknown) or failure.retryable:
                raise _Failed(failure, doubt=isinstance(failure, OutcomeUnknown), told=True)
            raise failure
        if answer.status != 200:
            failure = self._not_ours(answer.status)
            if answer.status >= 500:  # a gateway that gives up does not say whether the server behind it did
                raise _Failed(failure, doubt=True)
            raise failure
        return answer

    async def _exchange(
        self,
        method: str,
        url: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str] | Sequence[tuple[str, str]],
        body: bytes | None,
        seconds: float,
    ) -> Answered:
        """Send a request, and return the answer, whatever it is. Raises _Failed if there is none."""
        limits = aiohttp.ClientTimeout(total=max(seconds, 0.01), sock_connect=min(self._timeout, 5.0))
        address = URL(url).extend_query(query)
        started, status, request_id = time.perf_counter(), 0, ""
        try:
            async with self._session.request(
                *(method, address), data=body, headers=headers, allow_redirects=False, timeout=limits
            ) as received:
                self._answered = True
                status, request_id = received.status, received.headers.get(REQUEST_ID, "")
                if received.status in _ELSEWHERE:
                    raise self._elsewhere(received)
                return Answered(received.status, received.headers, await received.read())
        except aiohttp.ClientConnectorCertificateError as e:  # the next attempt would see the same one
            raise Unavailable(f"the server {self._url} cannot be trusted: {_distrust(e)}") from None
        except (TimeoutError, aiohttp.ClientError) as e:
            why = "has not answered in time" if isinstance(e, TimeoutError) else f"cannot be reached: {_reason(e)}"
            if isinstance(e, aiohttp.ServerDisconnectedError) and url.startswith("http:") and not self._answered:
                why += "; if it speaks HTTPS, its address begins with https://"
            never_sent = isinstance(e, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
            raise _Failed(Unavailable(f"the server {self._url} {why}"), doubt=not never_sent) from None
        finally:
            seconds = time.perf_counter() - started
            self._observer(Exchanged(method, str(address), status, seconds, request_id, self._token_from))

    async def raw(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> Answered:
        """Send any request once, and return the answer, whatever it is. `path` is below /api/v1, or one of those beside it.

        Raises Unavailable without an answer; OutcomeUnknown if the method may have changed something; InvalidRequest for what
        can be no request.
        """
        try:
            path = "/" + path.lstrip("/").removeprefix("api/v1/")
            beside = path.partition("?")[0] in _BESIDE or path.startswith("/docs/")
            root = self._url.removesuffix("/api/v1") if beside else self._url
            return await self._exchange(method, root + path, (), headers, body, self._timeout)
        except _Failed as e:
            unknown = e.doubt and method not in ("GET", "HEAD", "OPTIONS")
            raise (OutcomeUnknown(e.failure.detail) if unknown else e.failure) from None
        except ValueError as e:
            raise InvalidRequest(f"this cannot be sent: {e}") from None

    async def once(self, method: str, path: str, kind: type[Answer] | None, body: object = None) -> Answer:
        """Send a request once, and return what the answer says. Raises what `raw` does, and what a problem tells of."""
        headers = [("Content-Type", "application/json")] if body is not None else []
        answer = await self.raw(method, path, headers, encode(body) if body is not None else None)
        if answer.headers.get("Content-Type", "").partition(";")[0] == PROBLEM:
            raise self._decoded(lambda raw: error(msgspec.json.decode(raw)), answer.body)
        if answer.status >= 300:
            raise self._not_ours(answer.status)
        return self._decoded(lambda raw: decode(raw, cast("type[Answer]", kind)), answer.body or b"null")

    def _decoded(self, decoder: Callable[[bytes], Answer], body: bytes) -> Answer:
        try:
            return decoder(body)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise self._stranger("its answer is not of this API") from None

    def _elsewhere(self, answer: aiohttp.ClientResponse) -> Unavailable:
        """Return that a server sends us on. We do not go there: where it leads, nobody may know our token."""
        try:
            to = f" to {answer.url.join(URL(answer.headers.get('Location', ''))).origin()}"
        except ValueError:  # it says nothing that could be followed
            to = ""
        return Unavailable(
            f"the server {self._url} redirects{to} ({answer.status}), which is not followed; name the address that was meant"
        )

    @staticmethod
    def _unknown(failure: TaskctlError) -> OutcomeUnknown:
        """Return that it is not known what a write has done, now that it has failed like this."""
        unknown = OutcomeUnknown(failure.detail)
        unknown.request_id = failure.request_id
        return unknown

    def _not_ours(self, status: int) -> Unavailable:
        """Return what an answer without a problem of ours means, by its status."""
        if status in _GATEWAYS:
            return Unavailable(f"the server {self._url} cannot be reached now: what stands in front of it answered {status}")
        return self._stranger(f"it answered {status}")

    def _stranger(self, why: str) -> Unavailable:
        return Unavailable(f"what is at {self._url} is not a taskctl server: {why}")


class RemoteAccess(AccessService):
    """The tokens and workspaces of a server, as far as our own token reaches. Nothing is sent twice: it would be done twice."""

    def __init__(self, remote: RemoteTasks) -> None:
        self._remote = remote

    async def me(self) -> Me:
        return await self._remote.once("GET", "/me", Me)

    async def tokens(self, workspace: str | None = None) -> Tokens:
        return await self._remote.once("GET", "/tokens" + (f"?workspace={quote(workspace)}" if workspace else ""), Tokens)

    async def mint(self, new: NewToken) -> Minted:
        return await self._remote.once("POST", "/tokens", Minted, new)

    async def revoke(self, id: str) -> None:
        await self._remote.once("DELETE", f"/tokens/{quote(id, safe='')}", None)

    async def workspaces(self) -> Workspaces:
        return await self._remote.once("GET", "/workspaces", Workspaces)

    async def add_workspace(self, name: str) -> Workspace:
        return await self._remote.once("POST", "/workspaces", Workspace, {"name": name})


_backoff = wait_random_exponential(multiplier=0.1, max=1.0)


def _wait(state: RetryCallState) -> float:
    """Return how long to wait before the next attempt: as long as the server said, if it said anything."""
    failed = state.outcome.exception() if state.outcome is not None else None
    asked = failed.failure.extra.get("retry_after", 0) if isinstance(failed, _Failed) and failed.told else 0
    return max(_backoff(state), float(asked))


_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
"""What OpenSSL says of what is no TLS at all."""


def _reason(e: aiohttp.ClientError | TimeoutError) -> str:
    """Return why there was no answer, in one line."""
    if isinstance(e, aiohttp.ClientConnectorSSLError):
        reason = getattr(e.os_error, "reason", None)
        meant = "; if it speaks plain HTTP, its address begins with http://" if reason in _NO_TLS else ""
        return f"there is no HTTPS that this machine speaks ({reason or 'TLS failed'}){meant}"
    if isinstance(e, aiohttp.ClientConnectorError) and e.os_error.strerror:
        return e.os_error.strerror
    return " ".join(str(e).split())


def _distrust(e: aiohttp.ClientConnectorCertificateError) -> str:
    """Return what is wrong with a certificate."""
    wrong = e.certificate_error
    if not isinstance(wrong, ssl.SSLCertVerificationError):
        return " ".join(str(wrong).split())
    match wrong.verify_code:
        case 9:
            return "its certificate is not valid yet, by this machine's clock"
        case 10:
            return "its certificate has expired"
        case 62 | 64:
            return f"its certificate is not for {e.host}"
        case 18 | 19 | 20 | 21:
            return "its certificate is of a CA that is not known here; ca_file (--ca-file) names one that is to be trusted"
        case _:
            return f"its certificate is not valid: {wrong.verify_message}"


def _trusting(ca_file: str) -> ssl.SSLContext:
    """Return what verifies servers by the CAs in a file, and by no others."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"{ca_file} holds no certificate in PEM", setting="ca_file") from None
    except OSError as e:
        raise ConfigError(f"{ca_file} cannot be read: {e.strerror}", setting="ca_file") from None


def require_private(url: str, *, allow_http: bool) -> None:
    """Raise ConfigError if what is sent to an address could be read on its way to another machine, unless that is allowed."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if parts.scheme == "http" and not here and not allow_http:
        raise ConfigError(
            f"a token is not sent to {host} in the clear, where others can read it; "
            "use https://, or allow it with allow_http (--allow-http)"
        )


def api_address(url: str) -> str:
    """Return where the API of a server is. Raises ConfigError for what is not the address of one."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or "@" in parts.netloc:
        shown = url.rpartition("@")[2]
        why = "an address has no user and password here" if shown != url else "http://HOST:PORT was expected"
        raise ConfigError(f"{shown!r} is not the address of a server; {why}")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/api/v1") + "/api/v1", "", ""))
