"""`RemoteTasks` and what is not taskctl: every stranger ends in a sentence, never in an error of the HTTP client."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from taskctl import (
    Add,
    Changeset,
    Conflict,
    NewTask,
    Settings,
    StorageFull,
    TaskctlError,
    TaskNotFound,
    TaskPatch,
    TaskQuery,
    TaskService,
    Unavailable,
    create_app,
    open_tasks,
)
from taskctl.errors import ConfigError, OutcomeUnknown, Overloaded
from taskctl.tasks import GetTask, Written, create
from taskctl.wire import encode, encode_written, problem
from tests.postgres import free_port

Asked = Callable[[TaskService], Awaitable[object]]
READS: dict[str, Asked] = {
    "get": lambda tasks: tasks.get(1),
    "list": lambda tasks: tasks.list(),
    "history": lambda tasks: tasks.history(1),
    "changes": lambda tasks: tasks.changes(),
    "stats": lambda tasks: tasks.stats(),
    "ready": lambda tasks: tasks.ready(),
}
WRITES: dict[str, Asked] = {
    "add": lambda tasks: tasks.add(NewTask(title="x")),
    "edit": lambda tasks: tasks.edit(1, TaskPatch(title="y")),
    "remove": lambda tasks: tasks.remove(1),
}
ASKED = {**READS, **WRITES}
SOON = Settings(server_timeout=0.3)


@asynccontextmanager
async def stranger(*answers: bytes | None, heard: list[bytes] | None = None) -> AsyncIterator[str]:
    """Yield the address of a server that gives these answers, the last one to all who follow: for None it gives none, and waits.

    heard: is filled with the heads of the requests.
    """
    left_to_give = list(answers)
    connections: set[asyncio.StreamWriter] = set()
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        answer = left_to_give.pop(0) if len(left_to_give) > 1 else left_to_give[0]
        if heard is not None:
            heard.append(head)
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        if answer is None:
            await left.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        left.set()
        server.close()
        for _ in range(10):  # a client that has left early may be accepted only now
            await asyncio.sleep(0)
        for writer in connections:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                continue


def http(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"
PROBLEM = "Content-Type: application/problem+json"
HTML = b"<html><body>It works!</body></html>"
STRANGERS = {
    "html": http(HTML, "200 OK", "Content-Type: text/html"),
    "redirect": http(b"", "302 Found", "Location: http://127.0.0.1:1/login"),
    "not found": http(HTML, "404 Not Found", "Content-Type: text/html"),
    "gateway": http(HTML, "502 Bad Gateway", "Content-Type: text/html"),
    "half of JSON": http(b'{"items": [', "200 OK", JSON),
    "other JSON": http(b'{"hello": "world"}', "200 OK", JSON),
    "a list": http(b"[]", "200 OK", JSON),
    "null": http(b"null", "200 OK", JSON),
    "not UTF-8": http(b'{"items": ["\xff"]}', "200 OK", JSON),
    "nothing": http(b"", "200 OK", JSON),
    "no content": http(b"", "204 No Content"),
    "a wrong encoding": http(b"not gzip", "200 OK", JSON, "Content-Encoding: gzip"),
    "an unknown charset": http(b"{}", "200 OK", "Content-Type: application/json; charset=klingon"),
    "a problem that is none": http(HTML, "500 Oops", PROBLEM),
    "a problem that is a list": http(b"[1]", "500 Oops", PROBLEM),
    "a problem that is an empty list": http(b"[]", "500 Oops", PROBLEM),
    "a problem that is null": http(b"null", "500 Oops", PROBLEM),
    "a problem of somebody else": http(b'{"title": "Bad day", "status": 500}', "500 Oops", PROBLEM),
    "a problem with odd members": http(b'{"code": "conflict", "self": 1, "errors": 3}', "409 Conflict", PROBLEM),
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a bad header": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "less than it said": http(b'{"items": [], "next_cursor"', "200 OK", JSON, length=1000),
    "a closed door": b"",
}


@pytest.mark.parametrize("answer", STRANGERS.values(), ids=STRANGERS)
async def test_a_server_that_is_something_else_is_unavailable_with_a_sentence(answer: bytes) -> None:
    async with stranger(answer) as url, open_tasks(url, settings=SOON) as tasks:
        for asked in ASKED.values():
            with pytest.raises(Unavailable) as caught:
                await asked(tasks)
            assert url in caught.value.detail
            assert caught.value.exit_code == 7
            assert "\n" not in caught.value.detail
            assert "Traceback" not in caught.value.detail


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_a_server_that_is_not_there_is_unavailable(asked: Asked) -> None:
    async with open_tasks("http://127.0.0.1:1", settings=SOON) as tasks:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1\b.*cannot be reached") as caught:
            await asked(tasks)
    assert caught.value.retryable


@pytest.mark.parametrize("asked", READS.values(), ids=READS)
async def test_a_server_that_hangs_is_given_up_after_a_while(asked: Asked) -> None:
    async with stranger(None) as url, open_tasks(url, settings=Settings(server_timeout=0.2)) as tasks:
        with pytest.raises(Unavailable, match="in time") as caught:
            await asked(tasks)
    assert caught.value.retryable


@pytest.mark.parametrize("answer", [None, b"", STRANGERS["less than it said"]], ids=["hangs", "closes", "breaks off"])
@pytest.mark.parametrize("asked", WRITES.values(), ids=WRITES)
async def test_of_a_write_without_an_answer_nobody_knows_whether_it_happened(asked: Asked, answer: bytes | None) -> None:
    async with stranger(answer) as url, open_tasks(url, settings=Settings(server_timeout=0.2)) as tasks:
        with pytest.raises(OutcomeUnknown) as caught:
            await asked(tasks)
    assert not caught.value.retryable


async def test_a_server_under_a_prefix_is_spoken_to_there(tmp_path: Path) -> None:
    host = web.Application()
    host.add_subapp("/team/todo", create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db")))
    runner = web.AppRunner(host)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        for path in ("/team/todo", "/team/todo/"):
            async with open_tasks(f"http://127.0.0.1:{port}{path}") as tasks:
                await tasks.add(NewTask(title="x"))
        async with open_tasks(f"http://localhost:{port}/team/todo") as tasks:
            assert [task.id for task in (await tasks.list()).items] == [2, 1]
        async with open_tasks(f"http://127.0.0.1:{port}/team") as tasks:
            with pytest.raises(Unavailable, match="not a taskctl server"):
                await tasks.list()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:8080",
        "https:///path",
        "http://[::1",
        "http://host:99999",
        "http://host:port",
        "http://user:secret@host",
        "http://host?x=1",
        "http://host#x",
        "ftp://host",
        "mysql://host/db",
        "localhost:8080",
        "tasks.db",
        "sqlite://tasks.db",
        "sqlite:///",
        "sqlite:///a.db?mode=ro",
    ],
)
async def test_an_address_that_cannot_be_one_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_tasks(url) as tasks:
            await tasks.list()
    assert "secret" not in caught.value.detail
    assert re.search("expected|no user and password", caught.value.detail)


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
async def test_what_a_proxy_says_of_its_own_is_not_taken_for_another_program(status: str) -> None:
    async with stranger(http(b"<html>", status, "Content-Type: text/html")) as url, open_tasks(url, settings=SOON) as tasks:
        with pytest.raises(Unavailable, match=f"cannot be reached now: what stands in front of it answered {status[:3]}$"):
            await tasks.list()


@pytest.mark.parametrize("name", ["gateway", "html"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_that_a_gateway_gave_up_on_may_have_happened(name: str, write: Asked) -> None:
    async with stranger(STRANGERS[name]) as url, open_tasks(url, settings=SOON) as tasks:
        with pytest.raises(OutcomeUnknown):
            await write(tasks)


# ------------------------------------------------------------------------------------------------------ what is tried again

TASK = create(NewTask(title="x"), id=7, uid=UUID(int=7), now=datetime(2026, 1, 1, tzinfo=UTC))
ADDED = http(encode_written(Written(UUID(int=1), 1, (TASK,)), (Add(NewTask(title="x")),)), "200 OK", JSON)


def refused(failure: TaskctlError) -> bytes:
    return http(encode(problem(failure)), f"{failure.status} Refused", PROBLEM)


BUSY = refused(Overloaded("too much is waiting"))


@pytest.mark.parametrize("first", [b"", STRANGERS["gateway"], BUSY], ids=["broken", "gateway", "busy"])
async def test_a_write_is_sent_again_under_the_same_key(first: bytes) -> None:
    heard: list[bytes] = []
    async with stranger(first, ADDED, heard=heard) as url, open_tasks(url) as tasks:
        assert await tasks.add(NewTask(title="x")) == TASK
    keys = [found[1] for head in heard if (found := re.search(rb"(?i)idempotency-key: (\S+)", head))]
    assert (len(keys), len(set(keys))) == (2, 1)


async def test_a_server_that_asks_for_time_gets_it() -> None:
    async with stranger(refused(Unavailable("away", retry_after=1)), ADDED) as url, open_tasks(url) as tasks:
        started = asyncio.get_running_loop().time()
        await tasks.add(NewTask(title="x"))
        assert asyncio.get_running_loop().time() - started >= 1


@pytest.mark.parametrize(
    "then", [STRANGERS["not found"], refused(StorageFull("full")), refused(TaskctlError("internal")), BUSY], ids=range(4)
)
async def test_a_later_failure_does_not_tell_what_became_of_the_first_attempt(then: bytes) -> None:
    async with stranger(b"", then) as url, open_tasks(url, settings=Settings(server_timeout=1.0)) as tasks:
        with pytest.raises(OutcomeUnknown):
            await tasks.add(NewTask(title="x"))


async def test_a_refusal_under_the_lock_does_tell() -> None:
    async with stranger(b"", refused(Conflict("taken", id=1))) as url, open_tasks(url) as tasks:
        with pytest.raises(Conflict):
            await tasks.add(NewTask(title="x"))


async def test_a_server_that_is_started_anew_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(database_url=f"sqlite:///{tmp_path}/tasks.db")

    async def start() -> web.AppRunner:
        runner = web.AppRunner(create_app(settings))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    runner = await start()
    async with open_tasks(f"http://127.0.0.1:{port}") as tasks:
        await tasks.add(NewTask(title="before"))
        await runner.cleanup()
        adding = asyncio.create_task(tasks.add(NewTask(title="meanwhile")))
        await asyncio.sleep(0.5)  # this is how long it is away
        assert not adding.done()
        runner = await start()
        assert (await adding).id == 2
    await runner.cleanup()


# ------------------------------------------------------------------------------------------------------------ connections


@asynccontextmanager
async def counted(folder: Path) -> AsyncIterator[tuple[str, list[tuple[int, str, str | None]]]]:
    """Yield the address of a server, and what it hears: from which port, of which path, and with which X-Taskctl-Seq."""
    heard: list[tuple[int, str, str | None]] = []

    @web.middleware
    async def listen(request: web.Request, handler: Handler) -> web.StreamResponse:
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        heard.append((port, request.path.removeprefix("/api/v1"), request.headers.get("X-Taskctl-Seq")))
        return await handler(request)

    app = create_app(Settings(database_url=f"sqlite:///{folder}/tasks.db"))
    app.middlewares.append(listen)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", heard
    finally:
        await runner.cleanup()


async def test_many_calls_use_one_connection(tmp_path: Path) -> None:
    async with counted(tmp_path) as (url, heard), open_tasks(url) as tasks:
        for number in range(20):
            await tasks.add(NewTask(title="x"))
            await tasks.get(number + 1)
            with pytest.raises(TaskNotFound):  # a refusal ends none
                await tasks.remove(99)
        await tasks.list(TaskQuery(limit=None))
    assert len(heard) > 60
    assert len({port for port, _, _ in heard}) == 1


async def test_what_was_seen_is_said_to_be_seen(tmp_path: Path) -> None:
    """Every request asks for what the newest answer so far has told, also of another one's; nothing before there was one."""
    async with counted(tmp_path) as (url, heard), open_tasks(url) as tasks, open_tasks(url) as other:
        first = await tasks.write(Changeset((Add(NewTask(title="a")),)))
        await tasks.get(1)
        second = await other.write(Changeset((Add(NewTask(title="b")),)))
        await tasks.labels()
        assert (await tasks.ask(GetTask(1), at=second.at)).at == second.at
        await tasks.history(1)
        await tasks.ask(GetTask(1), at=first.at)  # older than what is known
        with pytest.raises(TaskNotFound) as caught:
            await tasks.get(99)
        assert caught.value.at == second.at
    assert first.at != second.at
    assert [(path, seen) for _, path, seen in heard] == [
        ("/batch", None),
        ("/tasks/1", first.at),
        ("/batch", None),
        ("/labels", first.at),
        ("/tasks/1", second.at),
        ("/tasks/1/history", second.at),
        ("/tasks/1", second.at),
        ("/tasks/99", second.at),
    ]
