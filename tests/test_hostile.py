"""What strangers send to `taskctl serve`: bytes of every kind over raw sockets. Each is answered, refused or let go, and nothing
else is harmed: not the server, not its log, and on a connection that is kept not the next request."""

import asyncio
import json
import re
import socket
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from taskctl import Settings, create_app
from taskctl.observe import ignore
from taskctl.server import edge, requests
from taskctl.server.doors import DOORS
from taskctl.server.edge import HEADER_MAX, HEADERS_MAX, LINE_MAX, Connection
from taskctl.server.requests import BODY_MAX
from taskctl.wire import DEPTH_MAX, encode_cursor
from tests.support import SECONDS, Server, Shell, serving

TASK = b'{"title":"x"}'
JSON = b"Content-Type: application/json\r\n"


def get(target: bytes, *headers: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in headers) + b"\r\n"


def post(body: bytes, *headers: bytes, path: bytes = b"/api/v1/tasks", method: bytes = b"POST") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return method + get(path, JSON.strip(), length, *headers).removeprefix(b"GET") + body


def framed(*headers: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a POST whose framing is said by these headers alone."""
    lines = b"".join(line + b"\r\n" for line in headers)
    return b"POST /api/v1/tasks " + version + b"\r\nHost: x\r\n" + JSON + lines + b"\r\n" + body


FINE = get(b"/livez")
CHUNKED = b"d\r\n" + TASK + b"\r\n0\r\n\r\n"
SMUGGLED = post(b'{"title":"smuggled"}')


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    version: str = "HTTP/1.1"

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """Return the problem that this must be, after looking at what every problem promises."""
        assert self.headers.get("content-type") == "application/problem+json", self
        problem: dict[str, Any] = json.loads(self.body)
        assert (self.status, problem["status"], problem["code"]) == (status, status, code), problem
        assert problem["type"] == f"urn:taskctl:problem:{code}"
        assert problem["request_id"] == self.headers["x-request-id"]
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", problem["request_id"])
        assert problem["detail"]
        assert not re.search(r"Traceback|aiohttp|llhttp|sqlite3|\.py\b", problem["detail"])
        return problem


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(SECONDS):
                yield cls(reader, writer)
        finally:
            await hang_up(writer)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head: bool = False) -> Answer:
        """Return the next answer; it must be well-formed."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
        said = re.fullmatch(r"HTTP/1\.[01] ([1-4][0-9]{2}|501) [A-Za-z' -]+", first)
        assert said, first
        headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name.lower() not in headers, raw
            headers[name.lower()] = value
        assert "transfer-encoding" not in headers
        size = 0 if head or said[1] in ("100", "204", "304") else int(headers["content-length"])
        return Answer(int(said[1]), headers, await self.reader.readexactly(size), first.partition(" ")[0])

    async def is_closed(self) -> None:
        """Wait until the server has hung up, with nothing more said."""
        with suppress(ConnectionError):
            assert await self.reader.read() == b""

    async def is_fine(self) -> None:
        """Look at whether a request is answered as ever."""
        self.send(get(b"/api/v1/tasks?limit=1"))
        answer = await self.answer()
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert set(json.loads(answer.body)) == {"items", "next_cursor"}


async def is_fine(server: Server) -> None:
    async with Client.to(server.port) as client:
        await client.is_fine()


async def titles(server: Server) -> set[str]:
    async with Client.to(server.port) as client:
        client.send(get(b"/api/v1/tasks?limit=200"))
        return {task["title"] for task in json.loads((await client.answer()).body)["items"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all that follows; nothing of it may have kept it from an orderly end, or stand in its log as a surprise."""
    home = tmp_path_factory.mktemp("hostile")
    with serving(Shell(home, TASKCTL_DATABASE_URL=f"sqlite:///{home}/tasks.db"), "--allowed-hosts", "x") as server:
        yield server
        assert server.stop() == 0
    log = "".join(server.log)
    assert "Traceback" not in log
    assert not re.search(r" request \S+ \S+ 5(?!01)[0-9]{2} ", log)


# -------------------------------------------------------------------------------------------- what is not a request at all

MALFORMED = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 2.0": b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
    "version 1.2": b"GET /livez HTTP/1.2\r\nHost: x\r\n\r\n",
    "version 0.9": b"GET /livez\r\n\r\n",
    "another protocol": b"EHLO example.com\r\n\r\n",
    "no token as a method": b"GE(T) /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes as a method": b"\xff\xfe /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method and no HTTP": b"BREW /livez\r\nHost: x\r\n\r\n",
    "spaces in the Host": b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a path in the Host": b"GET /livez HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a user in the Host": b"GET /livez HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "no number as a port": b"GET /livez HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "broken address as the Host": b"GET /livez HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "bytes in the Host": b"GET /livez HTTP/1.1\r\nHost: \xff\r\n\r\n",
    "no method": b" /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in the address": get(b"/li vez"),
    "NUL in the address": get(b"/livez\0"),
    "raw bytes in the path": get(b"/api/v1/tasks/\xff"),
    "raw bytes in the query": get(b"/api/v1/tasks?label=\xff"),
    "GET *": get(b"*"),
    "no authority": get(b"http://"),
    "broken authority": get(b"http://[::1/livez"),
    "not a URL": get(b"mailto:a"),
    "no Host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two Hosts": get(b"/livez", b"Host: y"),
    "two Content-Types": post(TASK, b"Content-Type: text/plain"),
    "bare LF": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "no colon": get(b"/livez", b"nonsense"),
    "no name": get(b"/livez", b": a"),
    "space before the colon": get(b"/livez", b"X-A : b"),
    "folded": get(b"/livez", b"X-A: a", b" b"),
    "NUL in a header": get(b"/livez", b"X-A: a\0b"),
    "CR in a header": get(b"/livez", b"X-Request-Id: a\rX-Evil: b"),
    "CR LF folded into the request id": get(b"/livez", b"X-Request-Id: a\r\n\tX-Evil: b"),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_not_http_is_a_problem_and_the_end_of_the_connection(server: Server, raw: bytes) -> None:
    async with Client.to(server.port) as client:
        client.send(raw)
        answer = await client.answer()
        answer.problem(400, "invalid_request")
        assert "x-evil" not in answer.headers
        assert answer.version == "HTTP/1.1"
        await client.is_closed()
    await is_fine(server)


@pytest.mark.parametrize("method", [b"BREW", b"get", b"M-SEARCH2", b"!#$%&'*+.^_`|~09"])
@pytest.mark.parametrize("path", [b"/livez", b"/api/v1/tasks?limit=1", b"/nowhere"])
async def test_a_method_that_nobody_has_heard_of_is_501(server: Server, method: bytes, path: bytes) -> None:
    """Any token may be a method. Which ones an address has is not said, because the parser stops before it."""
    async with Client.to(server.port) as client:
        client.send(FINE + method + get(path).removeprefix(b"GET"))
        assert (await client.answer()).status in (200, 501)  # aiohttp drops what came in one piece with it
        client.send(b"")
    async with Client.to(server.port) as client:
        client.send(method + get(path).removeprefix(b"GET"))
        answer = await client.answer()
        answer.problem(501, "not_implemented")
        assert answer.version == "HTTP/1.1"
        await client.is_closed()
    await is_fine(server)


@pytest.mark.parametrize("expected", [b"200-ok", b"\xff", b"100-continue, 200-ok", b'100-continue;a="b"'])
async def test_what_cannot_be_expected_is_417(server: Server, expected: bytes) -> None:
    for raw in (post(TASK), FINE, get(b"/nowhere"), get(b"/api/v1/tasks")):
        async with Client.to(server.port) as client:
            client.send(raw.replace(b"\r\n", b"\r\nX-Request-Id: mine\r\nExpect: " + expected + b"\r\n", 1))
            answer = await client.answer()
            assert answer.problem(417, "expectation_failed")["request_id"] == "mine"
            await client.is_closed()
    async with Client.to(server.port) as client:  # 1.0 does not know it
        client.send(b"GET /livez HTTP/1.0\r\nExpect: " + expected + b"\r\n\r\n")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (framed(b"Content-Length: %d" % (BODY_MAX + 1)), 413),
        (post(TASK).replace(b"application/json", b"text/plain")[: -len(TASK)], 415),
        (post(TASK, path=b"/nowhere")[: -len(TASK)], 404),
        (post(TASK, path=b"/livez")[: -len(TASK)], 405),
        (post(TASK, path=b"/api/v1/tasks?x=1")[: -len(TASK)], 400),
        (post(TASK, b"If-Match: *")[: -len(TASK)], 400),
    ],
)
async def test_a_body_that_is_refused_by_its_headers_is_not_asked_for(server: Server, raw: bytes, status: int) -> None:
    async with Client.to(server.port) as client:
        client.send(raw.replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1))
        async with asyncio.timeout(requests.BODY_SECONDS / 2):
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            await client.is_closed()  # it may take what follows for the body, or not
    await is_fine(server)


async def test_a_body_that_is_welcome_is_asked_for_once(server: Server) -> None:
    async with Client.to(server.port) as client:
        for method, path, status in ((b"POST", b"/api/v1/tasks", 201), (b"PATCH", b"/api/v1/tasks/1", 200)):
            raw = post(TASK, b"Expect: 100-Continue", path=path, method=method)
            client.send(raw[: -len(TASK)])
            assert (await client.answer()).status == 100
            client.send(TASK)
            answer = await client.answer()
            assert (answer.status, "connection" in answer.headers) == (status, False)
        client.send(get(b"/livez", b"Expect: 100-continue"))
        assert (await client.answer()).status == 200
        await client.is_fine()


@pytest.mark.parametrize("path", [b"/livez", b"/nowhere", b"/api/v1/tasks", b"/api/v1/tasks/999999", b"/docs"])
async def test_answers_say_no_more_than_they_must_of_who_gives_them(server: Server, path: bytes) -> None:
    async with Client.to(server.port) as client:
        for raw in (get(path), post(TASK, path=path), get(path, b"Expect: x")):
            client.send(raw)
            answer = await client.answer()
            assert (answer.headers["server"], answer.headers["x-content-type-options"]) == ("taskctl", "nosniff")
            if answer.status >= 400:
                assert answer.headers["cache-control"] == "no-store"
            elif path.startswith(b"/api") and raw.startswith(b"GET"):
                assert answer.headers["cache-control"] == "no-cache"


LONG_ADDRESSES = {
    "address": get(b"/" + b"a" * LINE_MAX),
    "long address": get(b"/" + b"a" * 2_000_000),
    "endless address": b"GET /" + b"a" * 200_000,
    "parameters": get(b"/api/v1/tasks?" + b"label=a&" * 20_000),
}


@pytest.mark.parametrize("raw", LONG_ADDRESSES.values(), ids=LONG_ADDRESSES)
async def test_an_address_that_is_too_long_is_414(server: Server, raw: bytes) -> None:
    async with Client.to(server.port) as client:
        client.send(raw)
        answer = await client.answer()
        answer.problem(414, "uri_too_long")
        assert answer.version == "HTTP/1.1"
        await client.is_closed()
    await is_fine(server)


TOO_LONG = {
    "header": get(b"/livez", b"X-A: " + b"a" * (HEADER_MAX + 1)),
    "100 kB header": get(b"/livez", b"X-A: " + b"a" * 100_000),
    "10 MB header": get(b"/livez", b"X-A: " + b"a" * 10_000_000),
    "endless header": b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 100_000,
    "name of a header": get(b"/livez", b"a" * 100_000 + b": b"),
    "headers": get(b"/livez", *[b"X-%d: a" % n for n in range(HEADERS_MAX)]),
    "endless headers": b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 100_000,
}


@pytest.mark.parametrize("raw", TOO_LONG.values(), ids=TOO_LONG)
async def test_headers_that_are_too_long_or_too_many_are_431(server: Server, raw: bytes) -> None:
    async with Client.to(server.port) as client:
        client.send(raw)
        (await client.answer()).problem(431, "headers_too_large")
        await client.is_closed()
    await is_fine(server)


async def test_an_address_and_headers_as_long_as_they_may_be_are_read(server: Server) -> None:
    async with Client.to(server.port) as client:
        client.send(get(b"/" + b"a" * (LINE_MAX - 1)))
        (await client.answer()).problem(404, "not_found")
        client.send(get(b"/livez", *[b"X-A: " + b"a" * HEADER_MAX] * (HEADERS_MAX - 1)))
        assert (await client.answer()).status == 200
        await client.is_fine()


# ----------------------------------------------------------------------------------------------- where a body ends: smuggling

SMUGGLING = {
    "length and chunked": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked and length": (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": (b"Content-Length: 5", b"Content-Length: 6"),
    "the same length twice": (b"Content-Length: 5", b"Content-Length: 5"),
    "a list of lengths": (b"Content-Length: 5, 5",),
    "signed length": (b"Content-Length: +5",),
    "negative length": (b"Content-Length: -5",),
    "hexadecimal length": (b"Content-Length: 0x5",),
    "length with a space": (b"Content-Length: 5 5",),
    "empty length": (b"Content-Length:",),
    "length of 80 bits": (b"Content-Length: 1208925819614629174706176",),
    "space before the colon": (b"Transfer-Encoding : chunked",),
    "vertical tab": (b"Transfer-Encoding:\x0bchunked",),
    "identity": (b"Transfer-Encoding: identity",),
    "chunked, identity": (b"Transfer-Encoding: chunked, identity",),
    "chunked twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "gzip, chunked": (b"Transfer-Encoding: gzip, chunked",),
    "xchunked": (b"Transfer-Encoding: xchunked",),
    "quoted": (b'Transfer-Encoding: "chunked"',),
    "folded": (b"Transfer-Encoding:", b" chunked"),
}


@pytest.mark.parametrize("headers", SMUGGLING.values(), ids=SMUGGLING)
async def test_a_body_whose_end_two_servers_could_see_in_two_places_ends_the_connection(
    server: Server, headers: tuple[bytes, ...]
) -> None:
    async with Client.to(server.port) as client:
        client.send(framed(*headers, body=b"0\r\n\r\n" + SMUGGLED))
        (await client.answer()).problem(400, "invalid_request")
        await client.is_closed()
    assert "smuggled" not in await titles(server)


CHUNKS = {
    "no number": b"zz\r\n{}\r\n0\r\n\r\n",
    "negative": b"-2\r\n{}\r\n0\r\n\r\n",
    "80 bits": b"fffffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "empty size": b"\r\n{}\r\n0\r\n\r\n",
    "prefixed": b"0x2\r\n{}\r\n0\r\n\r\n",
    "too short": b"1\r\n{}\r\n0\r\n\r\n",
    "bare LF": b"2\n{}\n0\n\n",
    "broken trailer": b"2\r\n{}\r\n0\r\nnonsense\r\n\r\n",
}


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
async def test_broken_chunks_are_told_at_once(server: Server, chunks: bytes, late: bool) -> None:
    """Also when somebody waits for the body already: aiohttp's parser leaves them waiting."""
    async with Client.to(server.port) as client:
        expect = [b"Expect: 100-continue"] if late else []
        head = framed(b"Transfer-Encoding: chunked", *expect)
        client.send(head if late else head + chunks)
        if late:
            assert (await client.answer()).status == 100
            client.send(chunks)
        async with asyncio.timeout(requests.BODY_SECONDS / 2):
            (await client.answer()).problem(400, "invalid_request")
            await client.is_closed()
    await is_fine(server)


async def test_chunks_are_read_with_their_extensions_and_trailers(server: Server) -> None:
    async with Client.to(server.port) as client:
        for body in (CHUNKED, b"d;a=b\r\n" + TASK + b"\r\n0\r\nX-A: b\r\n\r\n"):
            client.send(framed(b"Transfer-Encoding: chunked", body=body))
            assert (await client.answer()).status == 201
        await client.is_fine()


@pytest.mark.parametrize("length", [BODY_MAX + 1, 10**12, 2**63 - 1, 2**64 - 1])
async def test_a_length_beyond_a_mebibyte_is_refused_before_the_body_comes(server: Server, length: int) -> None:
    async with Client.to(server.port) as client:
        client.send(framed(b"Content-Length: %d" % length))
        async with asyncio.timeout(requests.BODY_SECONDS / 2):
            (await client.answer()).problem(413, "payload_too_large")
            await client.is_closed()
    await is_fine(server)


async def test_more_than_a_mebibyte_of_chunks_is_413(server: Server) -> None:
    async with Client.to(server.port) as client:
        client.send(framed(b"Transfer-Encoding: chunked") + (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 20)
        (await client.answer()).problem(413, "payload_too_large")
        await client.is_closed()
    await is_fine(server)


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000000", b"Transfer-Encoding: chunked"], ids=["length", "chunks"])
async def test_of_a_body_that_nobody_wants_not_all_is_read(server: Server, framing: bytes) -> None:
    """The client reads the answer, though it is still sending; what it goes on to send is not taken for ever."""
    async with Client.to(server.port) as client:
        client.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        (await client.answer()).problem(404, "not_found")
        sent, piece = 0, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            while sent < 64 * BODY_MAX:
                client.send(piece)
                await client.writer.drain()
                sent += len(piece)
        except ConnectionError:
            pass
        assert sent < 64 * BODY_MAX
        await client.is_closed()
    await is_fine(server)


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_small_body_that_nobody_wants_harms_no_next_request(server: Server, parts: int) -> None:
    async with Client.to(server.port) as client:
        for path, status, code in ((b"/nowhere", 404, "not_found"), (b"/livez", 405, "method_not_allowed")):
            raw = post(SMUGGLED * 100, path=path)
            client.send(raw[:300] if parts == 2 else raw)
            (await client.answer()).problem(status, code)
            if parts == 2:
                client.send(raw[300:])
        client.send(get(b"/livez", b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED)
        assert (await client.answer()).status == 200
        await client.is_fine()
    assert "smuggled" not in await titles(server)


# ------------------------------------------------------------------------------------------- requests that mean nothing here


def deep(levels: int) -> bytes:
    return b'{"title": ' + b"[" * levels + b"]" * levels + b"}"


MANY = b",".join(b'"a%d":0' % n for n in range(90_000))

REFUSED: dict[str, tuple[bytes, int, str]] = {
    # addresses and methods
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
    "OPTIONS": (b"OPTIONS /api/v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"),
    "TRACE": (b"TRACE /livez HTTP/1.1\r\nHost: x\r\nX-Secret: y\r\n\r\n", 405, "method_not_allowed"),
    "absolute form": (get(b"http://elsewhere/nowhere"), 404, "not_found"),
    "dots": (get(b"/api/v1/../v1/tasks"), 404, "not_found"),
    "escaped dots": (get(b"/api/%2e%2e/%2e%2e/etc/passwd"), 404, "not_found"),
    "double slashes": (get(b"//api//v1//tasks"), 404, "not_found"),
    "escaped slash": (get(b"/api/v1%2Ftasks"), 404, "not_found"),
    "backslash": (get(b"/api\\v1\\tasks"), 404, "not_found"),
    "NUL": (get(b"/api/v1/tasks/%00"), 400, "invalid_request"),
    "overlong NUL": (get(b"/api/v1/tasks/%c0%80"), 400, "invalid_request"),
    "escaped surrogate": (get(b"/api/v1/tasks/%ed%a0%80"), 400, "invalid_request"),
    "broken escape": (get(b"/api/v1/tasks/%zz"), 400, "invalid_request"),
    "half an escape": (get(b"/api/v1/tasks/1%"), 400, "invalid_request"),
    "id of 40 digits": (get(b"/api/v1/tasks/" + b"9" * 40), 404, "task_not_found"),
    "id of 2**63": (get(b"/api/v1/tasks/9223372036854775808"), 404, "task_not_found"),
    "id of 60,000 digits": (get(b"/api/v1/tasks/" + b"9" * 60_000), 400, "invalid_request"),
    # parameters
    "escaped byte": (get(b"/api/v1/tasks?label=%ff"), 400, "invalid_request"),
    "overlong in a label": (get(b"/api/v1/tasks?label=%c0%80"), 400, "invalid_request"),
    "surrogate in a label": (get(b"/api/v1/tasks?label=%ed%a0%80"), 400, "invalid_request"),
    "broken escape in a label": (get(b"/api/v1/tasks?label=%zz"), 400, "invalid_request"),
    "half an escape in a label": (get(b"/api/v1/tasks?label=%"), 400, "invalid_request"),
    "escaped byte as a name": (get(b"/api/v1/tasks?%ff=1"), 400, "invalid_request"),
    "broken escape as a name": (get(b"/livez?%zz"), 400, "invalid_request"),
    "unknown parameter of a probe": (get(b"/livez?x=1"), 400, "invalid_request"),
    "10,000 parameters": (get(b"/api/v1/tasks?" + b"&".join([b"q=1"] * 10_000)), 400, "invalid_request"),
    "unknown parameters": (get(b"/api/v1/tasks?" + b"&".join(b"p%d" % n for n in range(9000))), 400, "invalid_request"),
    "many labels": (get(b"/api/v1/tasks?" + b"&".join([b"label=1"] * 7000)), 400, "invalid_request"),
    "repeated limit": (get(b"/api/v1/tasks?limit=1&limit=2"), 400, "invalid_request"),
    "limit beyond 64 bits": (get(b"/api/v1/tasks?limit=" + b"9" * 40), 400, "invalid_request"),
    "since beyond 64 bits": (get(b"/api/v1/changes?since=" + b"9" * 40), 410, "cursor_expired"),
    "since of 5,000 digits": (get(b"/api/v1/changes?since=" + b"9" * 5000), 400, "invalid_request"),
    "NUL in a label": (get(b"/api/v1/tasks?label=%00"), 400, "invalid_request"),
    "NUL in a project": (get(b"/api/v1/tasks?project=a%00"), 400, "invalid_request"),
    "NUL in a search": (get(b"/api/v1/tasks?q=%00"), 400, "invalid_filter"),
    "long filter": (get(b"/api/v1/tasks?filter=" + b"(" * 60_000), 400, "invalid_filter"),
    "deep filter": (get(b"/api/v1/tasks?filter=" + b"(" * 4000), 400, "invalid_filter"),
    "broad filter": (get(b"/api/v1/tasks?filter=a" + b"+or+a" * 700), 400, "invalid_filter"),
    "sort by much": (get(b"/api/v1/tasks?sort=" + b"id," * 20_000), 400, "invalid_request"),
    "a folder as a zone": (get(b"/api/v1/stats", b"Prefer: timezone=Europe"), 400, "invalid_request"),
    "a file as a zone": (get(b"/api/v1/stats", b"Prefer: timezone=../../../etc/passwd"), 400, "invalid_request"),
    "bytes as a zone": (get(b"/api/v1/stats", b'Prefer: timezone="\xff\xfe"'), 400, "invalid_request"),
    "a long zone": (get(b"/api/v1/stats", b"Prefer: timezone=" + b"a" * 8000), 400, "invalid_request"),
    "foreign cursor": (get(b"/api/v1/tasks?cursor=" + encode_cursor(["other"], [1]).encode()), 400, "invalid_request"),
    "not a cursor": (get(b"/api/v1/tasks?cursor=%ff"), 400, "invalid_request"),
    "deep cursor": (get(b"/api/v1/tasks?cursor=" + b"W1tb" * 15_000), 400, "invalid_request"),
    # headers
    "text": (post(TASK).replace(b"application/json", b"text/plain"), 415, "unsupported_media_type"),
    "no type": (post(TASK).replace(JSON, b""), 415, "unsupported_media_type"),
    "type of bytes": (post(TASK).replace(b"application/json", b"\xff;=\xfe"), 415, "unsupported_media_type"),
    "gzip": (post(b"\x1f\x8b\x08 broken", b"Content-Encoding: gzip"), 415, "unsupported_media_type"),
    "brotli": (post(b"broken", b"Content-Encoding: br"), 415, "unsupported_media_type"),
    "identity": (post(TASK, b"Content-Encoding: identity"), 415, "unsupported_media_type"),
    "gzip to nowhere": (post(b"broken", b"Content-Encoding: gzip", path=b"/nowhere"), 404, "not_found"),
    # bodies
    "no body": (post(b""), 400, "invalid_request"),
    "half a body": (post(b'{"title":'), 400, "invalid_request"),
    "NaN": (post(b'{"title":NaN}'), 400, "invalid_request"),
    "twice": (post(b'{"title":"x","title":"y"}'), 400, "invalid_request"),
    "twice in a large body": (post(b"{%s,%s}" % (MANY, MANY[-10:])), 400, "invalid_request"),
    "deep": (post(deep(DEPTH_MAX)), 400, "invalid_request"),
    "very deep": (post(b"[" * 1_000_000), 400, "invalid_request"),
    "bytes": (post(b'{"title":"\xff"}'), 400, "invalid_request"),
    "surrogate": (post(rb'{"title":"\ud800"}'), 400, "invalid_request"),
    "surrogate as a name": (post(rb'{"title":"x","\udc00":1}'), 400, "invalid_request"),
    "surrogate as a name, twice": (post(rb'{"\udc00":1,"\udc00":2}'), 400, "invalid_request"),
    "NUL in a title": (post(rb'{"title":"\u0000"}'), 422, "invalid_task"),
    "unknown members": (post(b"{%s}" % MANY), 422, "invalid_task"),
    "long title": (post(b'{"title":"%s"}' % (b"x" * 1_000_000)), 422, "invalid_task"),
    "digits": (post(b'{"title":%s}' % (b"9" * 1_000_000)), 400, "invalid_request"),
    "large number": (post(b'{"title":%s}' % (b"9" * 4000)), 422, "invalid_task"),
    "infinite number": (post(b'{"title":1e999}'), 422, "invalid_task"),
    "batch with a large id": (
        post(b'{"operations":[{"op":"remove","id":%s}]}' % (b"9" * 300), path=b"/api/v1/batch"),
        404,
        "task_not_found",
    ),
    "batch with a surrogate": (post(rb'{"operations":[],"\ud800":1}', path=b"/api/v1/batch"), 400, "invalid_request"),
}


@pytest.mark.parametrize(("raw", "status", "code"), REFUSED.values(), ids=REFUSED)
async def test_what_means_nothing_here_is_refused_and_the_connection_stays(
    server: Server, raw: bytes, status: int, code: str
) -> None:
    async with Client.to(server.port) as client:
        started = asyncio.get_running_loop().time()
        for _ in range(2):
            client.send(raw)
            answer = await client.answer()
            answer.problem(status, code)
            assert "connection" not in answer.headers
            assert len(answer.body) < max(4 * len(raw), 50_000)
        await client.is_fine()
        assert asyncio.get_running_loop().time() - started < 5
    await is_fine(server)


async def test_raw_bytes_in_a_preference_are_a_part_of_what_a_key_stands_for(server: Server) -> None:
    async with Client.to(server.port) as client:
        for preference, status in ((b"\xff", 201), (b"\xff", 201), (b"\xfe", 422)):
            client.send(post(b'{"title":"x"}', b"Idempotency-Key: raw", b"Prefer: " + preference))
            assert (await client.answer()).status == status
    await is_fine(server)


@pytest.mark.parametrize("place", [10**30, 2**63, 2**63 - 1, -1, -(10**30)])
async def test_a_place_in_a_history_that_cannot_be_is_no_way_in(server: Server, place: int) -> None:
    """Whoever knows how cursors are made can make one that fits the query, with any place in it."""
    async with Client.to(server.port) as client:
        client.send(post(TASK))
        id = json.loads((await client.answer()).body)["id"]
        genuine = encode_cursor(["history", "default", id], 0)
        forged = urlsafe_b64encode(urlsafe_b64decode(genuine + "==")[:-2] + b"%d]" % place)
        client.send(get(b"/api/v1/tasks/%d/history?cursor=" % id + forged))
        answer = await client.answer()
        assert (answer.status, len(json.loads(answer.body)["items"])) == (200, 1 if place > 0 else 0)
        await client.is_fine()


@pytest.mark.parametrize("title", [b"one", b"many"])
async def test_a_real_cursor_with_another_place_in_it_is_no_way_in(server: Server, title: bytes) -> None:
    async with Client.to(server.port) as client:
        for _ in range(2):
            client.send(post(b'{"title":"%s"}' % title))
            await client.answer()
        for sort in (b"id", b"title", b"due", b"status,-priority"):
            client.send(get(b"/api/v1/tasks?limit=1&sort=" + sort))
            cursor = json.loads((await client.answer()).body)["next_cursor"]
            fingerprint, (_, keys) = json.loads(urlsafe_b64decode(cursor + "=="))
            places: list[Any] = [[moment, keys] for moment in (-1, 10**18, 2**63, 10**30, "\0", None)]
            odd: list[Any] = [10**30, -(2**63), 2**63, "\0", "\ud800", None, [], True]
            places += [[0, [key, *keys[1:]]] for key in odd]
            places += [[0, []], [0, keys * 2], [], "[" * 20, {}]
            for place in places:
                forged = urlsafe_b64encode(json.dumps([fingerprint, place]).encode())
                client.send(get(b"/api/v1/tasks?limit=1&sort=" + sort + b"&cursor=" + forged))
                (await client.answer()).problem(400, "invalid_request")
            for deep in (b"[" * 20_000, b"[" * 5000 + b"]" * 5000):
                forged = urlsafe_b64encode(b'["%s",%s]' % (fingerprint.encode(), deep))
                client.send(get(b"/api/v1/tasks?limit=1&sort=" + sort + b"&cursor=" + forged))
                (await client.answer()).problem(400, "invalid_request")
        await client.is_fine()


@pytest.mark.parametrize(
    "raw",
    [
        get(b"http://elsewhere/api/v1/tasks?limit=1"),
        get(b"/livez#fragment"),
        get(b"/api/v1/tasks?" + b"&" * 60_000),
        get(b"/livez", b"X-\xc3\xa4: a").replace(b"X-\xc3\xa4", b"X-A") + b"",
        get(b"/livez", b"Content-Encoding: gzip"),
        get(b"/livez", b"X-A: " + bytes(range(0x80, 0x100))),
        b"\r\n" * 1000 + FINE,
        b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
    ids=["absolute", "fragment", "ampersands", "header", "encoding", "latin-1", "blank lines", "empty host", "1.0"],
)
async def test_what_is_odd_but_allowed_is_answered(server: Server, raw: bytes) -> None:
    async with Client.to(server.port) as client:
        client.send(raw)
        assert (await client.answer()).status == 200
        await client.is_fine()
    await is_fine(server)


@pytest.mark.parametrize(
    "path", [b"/livez", b"/api/v1/tasks", b"/nowhere", b"/api/v1/tasks/999999", b"/api/v1/tasks?x=1", b"/api/v1/batch"]
)
async def test_head_is_answered_as_get_but_with_no_body(server: Server, path: bytes) -> None:
    async with Client.to(server.port) as client:
        client.send(get(path))
        full = await client.answer()
        client.send(get(path).replace(b"GET", b"HEAD", 1))
        bare = await client.answer(head=True)
        assert bare.status == full.status
        for name in ("content-type", "allow", *(["content-length"] if full.status != 405 else [])):  # its words name the method
            assert bare.headers.get(name) == full.headers.get(name)
        await client.is_fine()


async def test_http_1_0_is_answered_and_not_kept(server: Server) -> None:
    for raw, status in ((b"GET /livez HTTP/1.0\r\n\r\n", 200), (b"GET /nowhere HTTP/1.0\r\n\r\n", 404)):
        async with Client.to(server.port) as client:
            client.send(raw)
            assert (await client.answer()).status == status
            await client.is_closed()
    async with Client.to(server.port) as client:
        client.send(framed(b"Transfer-Encoding: chunked", body=CHUNKED + SMUGGLED, version=b"HTTP/1.0"))
        await client.answer()
        await client.is_closed()
    assert "smuggled" not in await titles(server)


UPGRADES = {
    "websocket": get(b"/livez", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    "h2c": get(b"/livez", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT with a path": b"CONNECT /livez HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("raw", UPGRADES.values(), ids=UPGRADES)
async def test_no_other_protocol_is_taken_up(server: Server, raw: bytes) -> None:
    """The connection ends: what the client sends after such a request may be meant for the other protocol."""
    async with Client.to(server.port) as client:
        client.send(raw + SMUGGLED)
        answer = await client.answer()
        if raw.startswith(b"GET"):
            assert answer.status == 200
        else:
            assert answer.status in (404, 405)
            answer.problem(answer.status, {404: "not_found", 405: "method_not_allowed"}[answer.status])
        assert answer.headers["connection"] == "close"
        await client.is_closed()
    assert "smuggled" not in await titles(server)


@pytest.mark.parametrize("given", [b"\xff\xfe", b"gr\xc3\xbcn", b"a b", b"<script>", b"a" * 5000, b"a\tb", b"%0d%0aX-Evil:%20b"])
async def test_a_request_id_that_could_do_harm_is_replaced(server: Server, given: bytes) -> None:
    async with Client.to(server.port) as client:
        client.send(get(b"/nowhere", b"X-Request-Id: " + given))
        answer = await client.answer()
        assert re.fullmatch("[0-9a-f]{32}", answer.problem(404, "not_found")["request_id"])
        assert "x-evil" not in answer.headers
        await client.is_fine()


# -------------------------------------------------------------------------------------------------- many at once, in order


async def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    async with Client.to(server.port) as client:
        kinds = [(FINE, 200), (get(b"/nowhere"), 404), (post(TASK), 201), (post(b"{"), 400), (post(TASK, path=b"/livez"), 405)]
        wanted = [kinds[n % len(kinds)] for n in range(500)]
        for number, (raw, _) in enumerate(wanted):
            client.send(raw.replace(b"Host: x\r\n", b"Host: x\r\nX-Request-Id: n%d\r\n" % number))
        for number, (_, status) in enumerate(wanted):
            answer = await client.answer()
            assert (answer.status, answer.headers["x-request-id"]) == (status, f"n{number}")
        await client.is_fine()


async def test_what_is_malformed_is_answered_after_what_came_before_it(server: Server) -> None:
    async with Client.to(server.port) as client:
        client.send(FINE + get(b"/nowhere") + framed(b"Expect: 100-continue", b"Content-Length: %d" % len(TASK)))
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 404
        assert (await client.answer()).status == 100  # it waits for the body of the third one
        client.send(TASK[:5])
        client.send(TASK[5:] + FINE)
        assert (await client.answer()).status == 201
        assert (await client.answer()).status == 200
        client.send(b"BREW /coffee HTTP/1.1\r\n\r\n" + SMUGGLED)
        (await client.answer()).problem(501, "not_implemented")
        await client.is_closed()
    assert "smuggled" not in await titles(server)


async def test_of_requests_that_come_in_one_piece_with_garbage_none_is_done_unseen(server: Server) -> None:
    """aiohttp's parser drops the whole piece. So the client learns that, and that the connection is of no more use."""
    async with Client.to(server.port) as client:
        client.send(SMUGGLED + b"BREW\0/coffee HTTP/1.1\r\n\r\n")
        answers = [await client.answer()]
        if answers[0].status == 201:  # the kernel has cut it where they meet
            answers.append(await client.answer())
        answers[-1].problem(400, "invalid_request")
        await client.is_closed()
    done = "smuggled" in await titles(server)
    assert done == (len(answers) == 2)
    if done:
        pytest.skip("it came in two pieces")


HALF_CLOSED: dict[str, tuple[bytes, list[int]]] = {
    "a request": (FINE, [200]),
    "a page": (get(b"/api/v1/tasks?limit=1"), [200]),
    "a body": (post(TASK), [201]),
    "chunks": (framed(b"Transfer-Encoding: chunked", body=CHUNKED), [201]),
    "three requests": (FINE + post(TASK) + get(b"/nowhere"), [200, 201, 404]),
    "nothing": (b"", []),
    "half a request": (FINE[:-2], []),
    "garbage": (b"\0\r\n\r\n", [400]),
    "too much": (framed(b"Content-Length: %d" % (BODY_MAX + 1)), []),
}


@pytest.mark.parametrize(("raw", "statuses"), HALF_CLOSED.values(), ids=HALF_CLOSED)
async def test_a_client_that_sends_nothing_more_gets_its_answers_and_the_end(
    server: Server, raw: bytes, statuses: list[int]
) -> None:
    def held() -> int:
        return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

    before = held()
    for pause in (0.0, 0.0, 0.01):
        async with Client.to(server.port) as client:
            client.send(raw)
            await asyncio.sleep(pause)
            client.writer.write_eof()
            if pause == 0:
                assert [(await client.answer()).status for _ in statuses] == statuses
            async with asyncio.timeout(1):
                await client.reader.read()
    for _ in range(100):
        if held() <= before:
            break
        await asyncio.sleep(0.02)
    assert held() <= before + 1  # a connection to the database may have come
    await is_fine(server)


async def test_clients_that_vanish_leave_nothing_behind(server: Server) -> None:
    async with Client.to(server.port) as client:
        for _ in range(20):
            client.send(post(b'{"title":"large","description":"%s"}' % (b"x" * 60_000)))
            assert (await client.answer()).status == 201
    half = post(TASK * 1000)[:600]
    page = get(b"/api/v1/tasks?limit=200&q=large")
    for raw in (b"", b"GE", get(b"/livez")[:20], half, framed(b"Transfer-Encoding: chunked", body=CHUNKED[:5]), page, page * 20):
        for orderly in (True, False):
            for wait in (True, False):
                async with Client.to(server.port) as client:
                    client.send(raw)
                    await client.writer.drain()
                    if wait and raw.startswith(page):
                        await client.reader.read(1)
                    if orderly:
                        client.writer.close()
                    else:
                        option = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
                        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                        client.writer.transport.abort()
    await is_fine(server)


async def test_many_idle_and_half_open_connections_are_in_nobodys_way(server: Server) -> None:
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
    for number, (_, writer) in enumerate(held):
        writer.write((b"", b"GET /liv", post(TASK)[:-5])[number % 3])
        await writer.drain()
    await is_fine(server)
    await asyncio.gather(*[hang_up(writer) for _, writer in held])


# ----------------------------------------------------------------------------------------------------------------- slowness


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[int]:
    """Serve as `taskctl serve` does, here, and yield the port."""
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", allowed_hosts="x"))
    runner = web.AppRunner(app)
    await runner.setup()
    server = runner.server
    assert server is not None
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server, ignore, app[DOORS]), "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await runner.cleanup()


async def drip(client: Client, data: bytes, seconds: float) -> None:
    """Send a byte now and then, until the server hangs up."""
    for byte in data:
        client.send(bytes([byte]))
        await asyncio.sleep(seconds)


SLOW_BODIES: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "nothing comes": lambda: (framed(b"Content-Length: 13"), b""),
    "half comes": lambda: (framed(b"Content-Length: 13", body=TASK[:5]), b""),
    "it drips": lambda: (framed(b"Content-Length: 500000", body=b'{"title":"'), b"x" * 10_000),
    "chunks without an end": lambda: (framed(b"Transfer-Encoding: chunked", body=CHUNKED[:-5]), b""),
    "chunks that drip": lambda: (framed(b"Transfer-Encoding: chunked", body=CHUNKED[:-5]), b"1\r\nx\r\n" * 1000),
    "an extension without an end": lambda: (framed(b"Transfer-Encoding: chunked", body=b"1;"), b"x" * 10_000),
}


async def _is_too_slow(port: int, parts: tuple[bytes, bytes], pause: float) -> float:
    loop = asyncio.get_running_loop()
    async with Client.to(port) as client:
        started = loop.time()
        client.send(parts[0])
        dripping = asyncio.create_task(drip(client, parts[1], pause))
        try:
            answer = await client.answer()
            took = loop.time() - started
            assert answer.problem(408, "request_timeout")["retryable"]
            assert answer.headers["connection"] == "close"
            await client.is_closed()
        finally:
            dripping.cancel()
    return took


@pytest.mark.parametrize("make", SLOW_BODIES.values(), ids=SLOW_BODIES)
async def test_a_body_that_does_not_come_is_408(
    make: Callable[[], tuple[bytes, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(edge, "LINGER_SECONDS", 0.3)
    async with served(tmp_path) as port:
        assert 0.25 < await _is_too_slow(port, make(), 0.01) < 5
        async with Client.to(port) as client:
            await client.is_fine()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: "], ids=["nothing", "an address", "headers"]
)
async def test_headers_that_do_not_come_end_the_connection(sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "KEEP_ALIVE_SECONDS", 0.3)
    async with served(tmp_path) as port:
        for first in (b"", FINE):
            async with Client.to(port) as client:
                if first:
                    client.send(first)
                    assert (await client.answer()).status == 200
                client.send(sent)
                dripping = asyncio.create_task(drip(client, b"x" * 1000 if sent else b"", 0.01))
                async with asyncio.timeout(5):
                    await client.is_closed()
                dripping.cancel()
        async with Client.to(port) as client:
            await client.is_fine()


async def test_a_client_that_takes_nothing_of_its_answer_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "STUCK_SECONDS", 0.3)
    async with served(tmp_path) as port, Client.to(port) as client:
        for _ in range(100):
            client.send(post(b'{"title":"large","description":"%s"}' % (b"x" * 65_000)))
            assert (await client.answer()).status == 201
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as stuck:
            stuck.sendall(get(b"/api/v1/tasks?limit=200") * 20)
            async with asyncio.timeout(10):
                while True:  # sending tells it without taking anything
                    try:
                        stuck.sendall(b"\r\n")
                    except OSError:
                        break
                    await client.is_fine()
        await client.is_fine()


@pytest.mark.faults
async def test_a_body_has_ten_seconds(server: Server) -> None:
    took = await asyncio.gather(*[_is_too_slow(server.port, make(), 0.05) for make in SLOW_BODIES.values()])
    assert all(9.5 < seconds < 15 for seconds in took), took
    await is_fine(server)


@pytest.mark.faults
@pytest.mark.timeout(200)
async def test_headers_have_75_seconds(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(FINE[:-2])
    async with asyncio.timeout(90):
        assert await reader.read() == b""
    await hang_up(writer)
    await is_fine(server)


# ------------------------------------------------------------------------------------------------------------------ by chance

SEEDS = [
    FINE,
    get(
        b"/api/v1/tasks?filter=label:a+due%3C2026-12-01&sort=-due&limit=2", b"Prefer: timezone=Europe/Berlin", b"X-Request-Id: a"
    ),
    get(b"/api/v1/tasks/1", b'If-None-Match: "1", W/"2"'),
    get(b"/api/v1/changes?since=1&limit=5"),
    post(TASK),
    post(b'{"title":"y","labels":["a"],"due":"2026-12-01"}', b"Expect: 100-continue"),
    post(b'{"due":null}', b'If-Match: "1"', path=b"/api/v1/tasks/1?dry_run=true", method=b"PATCH"),
    post(b'{"operations":[{"op":"edit","id":1,"patch":{"status":"done"}}],"atomic":false}', path=b"/api/v1/batch"),
    framed(b"Transfer-Encoding: chunked", body=CHUNKED),
    b"DELETE /api/v1/tasks/1 HTTP/1.1\r\nHost: x\r\n\r\n",
]
PIECES = [b"\r\n", b"\0", b"\xff", b"%00", b":", b" ", b"&", b"9" * 30, b'"', b"[", b"\\ud800", b"chunked", b"a" * 9000]
END = b"\r\n\r\n\0\r\n\r\n"
"""What ends the headers or chunks that are under way, and then is no request."""


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = place + draw(st.integers(0, 12))
        data[place:end] = draw(st.sampled_from(PIECES) | st.binary(max_size=3))
    return bytes(data)


async def _try(port: int, data: bytes) -> None:
    async with Client.to(port) as client:
        client.send(data + END)
        try:
            async with asyncio.timeout(0.5):  # it may wait for the rest of a body
                while True:
                    await client.answer()  # below 500, and well-formed
        except (asyncio.IncompleteReadError, ConnectionError) as e:
            assert not isinstance(e, asyncio.IncompleteReadError) or e.partial == b""
        except TimeoutError:
            pass
    async with Client.to(port) as client:
        await client.is_fine()


@given(data=st.binary(max_size=300))
def test_any_bytes_are_answered_and_harm_nobody(server: Server, data: bytes) -> None:
    asyncio.run(_try(server.port, data))


@given(data=mutated())
def test_any_request_that_went_wrong_is_answered_and_harms_nobody(server: Server, data: bytes) -> None:
    asyncio.run(_try(server.port, data))
