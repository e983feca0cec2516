"""The edge of the server: what a client's connection is held to before the application has a request, and after its answer."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Coroutine
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, InvalidURLError, LineTooLong
from multidict import CIMultiDict

from taskctl.errors import (
    HeadersTooLarge,
    InvalidRequest,
    MethodUnknown,
    RequestTimedOut,
    TaskctlError,
    TooManyRequests,
    UriTooLong,
)
from taskctl.observe import Observer, RateLimited, RequestDone
from taskctl.server import names
from taskctl.server.app import answer, request_id_of
from taskctl.server.doors import Doors
from taskctl.server.requests import BODY_MAX, EXPECTS, expects_to_go_on

LINE_MAX: Final = 64 * 1024
"""The longest address, in bytes: a filter can be long, and is percent-encoded in it."""
HEADER_MAX: Final = 8 * 1024
"""The longest value of a header."""
HEADERS_MAX: Final = 100
KEEP_ALIVE_SECONDS: Final = 75.0
"""How long a connection may be idle, and how long the headers of a request may take."""
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 8 * BODY_MAX
"""What of a refused request is still read, and thrown away: whoever is hung up on while sending may never see the answer."""
STUCK_SECONDS: Final = 60.0
"""How long a client may take nothing of its answer."""

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Za-z.:%_-]+\])(?::[0-9]*)?")
_UNHEARD_OF: Final = re.compile(r"\n\n  b(['\"])[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP/1\.[01]\1\n")
"""How aiohttp tells of a request line that would be one, if its method were known: any name may be a method (RFC 9110)."""

_log = logging.getLogger("taskctl.server")


class Connection(web.RequestHandler):
    """A client's connection.

    aiohttp answers what it cannot parse in its own words, logs a traceback for it, waits for ever for a body whose framing
    has turned out to be broken, reads on without end what no handler wanted, and hangs up on who is still sending. Here, all
    refusals are problems, whatever is left of a refused request is read within bounds, and only a connection whose next
    request is certain to be one is kept.
    """

    __slots__ = (
        "_answered",
        "_application",
        "_body",
        "_doors",
        "_gone",
        "_half_closed",
        "_hangs_up",
        "_left",
        "_observer",
        "_stuck",
    )

    def __init__(self, server: web.Server, observer: Observer, doors: Doors) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp takes it everywhere
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_line_size=LINE_MAX,
            max_field_size=HEADER_MAX,
            max_headers=HEADERS_MAX,
            auto_decompress=False,
        )
        self._application = server.request_handler
        self._request_handler = self._handle
        self._observer = observer
        self._doors = doors
        self._hangs_up = False
        self._answered = 0
        self._body: StreamReader | None = None
        self._half_closed = False
        self._left: int | None = None
        self._gone: asyncio.Future[None] | None = None
        self._stuck: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------------------ what comes in

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; throw it away when nothing that follows can be a request any more."""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self._let_go()
            return
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if self._messages and type(self._messages[-1][0]) is not RawRequestMessage:
            self._left = LINGER_BYTES
            self._end_body()

    def _end_body(self) -> None:
        """Tell whoever reads the body in which the parser has stumbled that there is no more of it."""
        if len(self._messages) > 1:
            body = self._messages[-2][1]
        elif self._current_request is not None:
            body = self._current_request.content
        else:
            return
        if not body.is_eof():
            body.set_exception(web.RequestPayloadError("its framing is broken"))

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp has nothing to say; asyncio asks whether to go on
        """Say whether to go on with a client that sends nothing more: if all that it has begun to ask for is there."""
        self._half_closed = (
            self._answered < self._request_count
            and self._body is not None
            and self._body.is_eof()
            and self.transport is not None
            and self.transport.can_write_eof()  # an encrypted connection has no halves
        )
        return self._half_closed

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wake who waits for the client to hang up."""
        super().connection_lost(exc)
        self._let_go()
        if self._stuck is not None:
            self._stuck.cancel()

    # ------------------------------------------------------------------------------------------------------- what goes out

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the application's answer, or the refusal of what the application should never see."""
        try:
            _check(request)
            if expects_to_go_on(request):
                # aiohttp would send the 100 even before a 404; here whoever reads the body does.
                headers = CIMultiDict(request.headers)
                headers.popall(names.EXPECT)
                request = request.clone(headers=headers)
                request[EXPECTS] = True
            response = await self._application(request)
        except InvalidRequest as e:
            response, self._hangs_up = self._refusal(request, e), True
        length = request.content_length
        if (
            # What follows such a request may be lost (aiohttp drops it), or be another protocol.
            names.UPGRADE in request.headers
            or request.method == "CONNECT"
            or response.status == RequestTimedOut.status
            or (length is not None and length > BODY_MAX)
            # Who has waited for a 100 in vain does not send the body; what follows may be taken for it.
            or (not request.content.is_eof() and (length is None or request.get(EXPECTS, False)))
            or (self._half_closed and not self._messages)
        ):
            self._hangs_up = True
        if self._hangs_up:
            response.force_close()
        return response

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the answer to what aiohttp cannot read as a request, or what nobody has caught."""
        del status, message
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("there is nobody to answer, or half an answer has been sent")
        match exc:
            case LineTooLong(args=(_, limit, *_)) if limit == LINE_MAX:
                failure: TaskctlError = UriTooLong(f"an address may have {LINE_MAX} bytes")
            case LineTooLong() | HttpProcessingError(message="Too many headers received"):
                failure = HeadersTooLarge(f"a header may have {HEADER_MAX} bytes, and a request {HEADERS_MAX} headers")
            case BadHttpMethod() if _UNHEARD_OF.search(exc.message):
                failure = MethodUnknown("there is no such method here; /docs shows what there is")
            case BadHttpMethod():
                failure = InvalidRequest("this is not HTTP/1.1: its method is none")
            case BadStatusLine() | InvalidURLError():
                failure = InvalidRequest("this is not HTTP/1.1: its first line is malformed")
            case HttpProcessingError():
                failure = InvalidRequest(
                    "this is not HTTP/1.1: a header is malformed, missing or twice there, or where the body ends is unclear"
                )
            case _:
                _log.error("a connection failed", exc_info=exc)
                failure = TaskctlError("something went wrong that nobody foresaw; the server's log has more")
        request._version = HttpVersion11  # noqa: SLF001  # aiohttp takes what it could not read for 1.0
        response = self._refusal(request, failure)
        response.force_close()
        self._hangs_up = True
        return response

    def _refusal(self, request: web.BaseRequest, failure: TaskctlError) -> web.Response:
        request_id = request_id_of(request)
        try:
            self._doors.count(request)
        except TooManyRequests as e:
            self._observer(RateLimited(e.extra["limit"]))
            failure = e
        known = request.method != "UNKNOWN"
        path = request.rel_url.raw_path if known else "-"
        self._observer(RequestDone(request.method if known else "-", path, "", failure.status, 0.0, request_id))
        response = answer(failure, request_id)
        self._doors.leave(request, response)
        return response

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send the answer, and hang up where that has been decided."""
        self._answered += 1  # all of it is handed over at once; closing the connection waits until it is gone
        if self._hangs_up and not self._half_closed:
            return self._send_last(request, resp, start_time)
        return super().finish_response(request, resp, start_time)

    async def _send_last(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer and hang up: not before the client has had a chance to read it."""
        sent = await super().finish_response(request, resp, start_time)
        if self.transport is not None:
            self._left = LINGER_BYTES
            self._gone = asyncio.get_running_loop().create_future()
            if self.transport.can_write_eof():  # not where it is encrypted
                self.transport.write_eof()
            self.transport.resume_reading()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._gone
            self.force_close()
        return sent

    def _let_go(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """Watch that the client takes something of what waits for it."""
        super().pause_writing()
        assert self.transport is not None
        self._watch(self.transport, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop watching."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()

    def _watch(self, transport: asyncio.Transport, waiting: int) -> None:
        def look() -> None:
            now = transport.get_write_buffer_size()
            if now < waiting:
                self._watch(transport, now)
            else:
                transport.abort()

        self._stuck = asyncio.get_running_loop().call_later(STUCK_SECONDS, look)


def _check(request: web.BaseRequest) -> None:
    """Raise InvalidRequest for what aiohttp lets pass though it is not understood here."""
    if request._version not in (HttpVersion11, HttpVersion10):  # noqa: SLF001  # once `version` is read, it stays
        request._version = HttpVersion11  # noqa: SLF001  # or the answer would claim to be of that version
        raise InvalidRequest("HTTP/1.1 is spoken here")
    coding = request.headers.get(names.TRANSFER_ENCODING)
    if coding is not None and coding.lower() != "chunked":
        raise InvalidRequest("the only Transfer-Encoding that is understood is chunked")
    if not _HOST.fullmatch(request.headers.get(names.HOST, "")):
        raise InvalidRequest("the Host is neither a name nor an address, with or without a port")
