"""The API as a guest: mounted in another aiohttp application, it answers, touches nothing of its host, and leaves nothing."""

import asyncio
import gc
import logging
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from taskctl import Settings, Unavailable, create_app
from tests.support import Api, problem_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def settings(database: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{database}")


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello from the host")


@web.middleware
async def mark(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers["X-Host"] = "seen"
    return response


def host(**guests: Path) -> web.Application:
    """Return an application of somebody else's, with the API on each of the databases under a prefix."""
    app = web.Application(middlewares=[mark], client_max_size=64 * 1024 * 1024)
    app.router.add_get("/", hello)
    app.router.add_get("/api/v1/tasks", hello)
    for name, database in guests.items():
        app.add_subapp(f"/guests/{name}", create_app(settings(database)))
    return app


def client_of(app: web.Application) -> Api:
    return TestClient(TestServer(app))


async def test_it_answers_under_its_prefix_with_addresses_that_hold(tmp_path: Path) -> None:
    async with client_of(host(todo=tmp_path / "tasks.db")) as api:
        for title in ("one", "two"):
            answer = await api.post("/guests/todo/api/v1/tasks", json={"title": title})
            assert answer.status == 201
        assert answer.headers["Location"] == "/guests/todo/api/v1/tasks/2"
        assert (await (await api.get(answer.headers["Location"])).json())["title"] == "two"
        page = await api.get("/guests/todo/api/v1/tasks?limit=1")
        link = URL(page.links["next"]["url"]).relative()
        assert link.path == "/guests/todo/api/v1/tasks"
        assert [task["title"] for task in (await (await api.get(str(link))).json())["items"]] == ["one"]
        for path in ("/livez", "/readyz", "/version", "/api/v1/stats"):
            assert (await api.get(f"/guests/todo{path}")).status == 200


async def test_its_refusals_are_problems_and_those_of_its_host_are_not(tmp_path: Path) -> None:
    async with client_of(host(todo=tmp_path / "tasks.db")) as api:
        await problem_of(await api.get("/guests/todo/nothing"), 404, "not_found")
        await problem_of(await api.delete("/guests/todo/api/v1/tasks"), 405, "method_not_allowed")
        own = await api.get("/nothing")
        assert (own.status, own.content_type) == (404, "text/plain")
        assert "X-Request-Id" not in own.headers
        for path in ("/", "/api/v1/tasks"):
            assert await (await api.get(path)).text() == "hello from the host"
        assert (await api.get("/guests/todo/livez")).headers["X-Host"] == "seen"


async def test_its_limit_of_a_body_is_its_own_whatever_its_host_allows(tmp_path: Path) -> None:
    async with client_of(host(todo=tmp_path / "tasks.db")) as api:
        body = BytesIO(b'{"title": "' + b"x" * 1024 * 1024 + b'"}')
        answer = await api.post("/guests/todo/api/v1/tasks", data=body, headers={"Content-Type": "application/json"})
        await problem_of(answer, 413, "payload_too_large")


def _globals() -> dict[str, Any]:
    """Return what belongs to the host: its loggers, its signals, its loop's way with exceptions."""
    loop = asyncio.get_running_loop()
    root = logging.getLogger()
    return {
        "handlers": list(root.handlers),
        "filters": list(root.filters),
        "level": root.level,
        "disabled": logging.root.manager.disable,
        "loggers": {
            name: (list(logger.handlers), logger.level, logger.propagate)
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger) and (logger.handlers or logger.level or not logger.propagate)
        },
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)],
        "exceptions": loop.get_exception_handler(),
        "tasks": loop.get_task_factory(),
        "debug": loop.get_debug(),
        "thread hook": threading.excepthook,
    }


async def test_loop_signals_and_logging_of_its_host_are_left_alone(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    def on_exception(_: asyncio.AbstractEventLoop, __: dict[str, Any]) -> None:
        return None

    def on_term(*_: object) -> None:
        return None

    former = signal.signal(signal.SIGTERM, on_term)
    loop.set_exception_handler(on_exception)
    try:
        before = _globals()
        async with client_of(host(todo=tmp_path / "tasks.db")) as api:
            await api.post("/guests/todo/api/v1/tasks", json={"title": "x"})
            await api.get("/guests/todo/nothing")
            assert _globals() == before
        assert _globals() == before
        assert before["exceptions"] is on_exception
        assert on_term in before["signals"]
    finally:
        signal.signal(signal.SIGTERM, former)
        loop.set_exception_handler(None)


def _open_files(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:  # the one that listed the folder
            continue
        if target.is_relative_to(folder):
            found[target.name] += 1
    return found


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("taskctl")}


async def test_nothing_is_left_of_it_after_its_cleanup(tmp_path: Path) -> None:
    running = asyncio.all_tasks()
    async with client_of(host(todo=tmp_path / "tasks.db")) as api:
        adds = [api.post("/guests/todo/api/v1/tasks", json={"title": f"T {n}"}) for n in range(20)]
        assert {answer.status for answer in await asyncio.gather(*adds)} == {201}
        await asyncio.gather(*[api.get("/guests/todo/api/v1/tasks") for _ in range(20)])
        assert _threads()
        assert _open_files(tmp_path)
    assert _threads() == set()
    assert _open_files(tmp_path) == Counter()
    gc.collect()
    assert asyncio.all_tasks() == running
    assert not (tmp_path / "tasks.db-wal").exists()


async def test_two_of_them_with_two_databases_do_not_mix(tmp_path: Path) -> None:
    async with client_of(host(one=tmp_path / "1.db", two=tmp_path / "2.db")) as api:
        for name, titles in (("one", ["a", "b"]), ("two", ["c"])):
            for title in titles:
                await api.post(f"/guests/{name}/api/v1/tasks", json={"title": title})
        for name, titles in (("one", ["b", "a"]), ("two", ["c"])):
            page = await (await api.get(f"/guests/{name}/api/v1/tasks")).json()
            assert [task["title"] for task in page["items"]] == titles


async def test_two_of_them_on_one_database_see_each_others_writes(tmp_path: Path) -> None:
    async with client_of(host(one=tmp_path / "tasks.db", two=tmp_path / "tasks.db")) as api:
        adds = [api.post(f"/guests/{name}/api/v1/tasks", json={"title": "x"}) for name in ("one", "two") for _ in range(25)]
        ids = [(await answer.json())["id"] for answer in await asyncio.gather(*adds)]
        assert sorted(ids) == list(range(1, 51))
        for name in ("one", "two"):
            assert len((await (await api.get(f"/guests/{name}/api/v1/tasks?limit=200")).json())["items"]) == 50


async def test_one_after_another_on_the_same_file_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    for number in range(1, 4):
        async with client_of(host(todo=tmp_path / "tasks.db")) as api:
            answer = await api.post("/guests/todo/api/v1/tasks", json={"title": "x"})
            assert (await answer.json())["id"] == number


async def test_a_database_that_cannot_be_opened_stops_its_host_from_starting_with_a_sentence(tmp_path: Path) -> None:
    runner = web.AppRunner(host(todo=tmp_path))
    with pytest.raises(Unavailable, match="is a folder"):
        await runner.setup()
    await runner.cleanup()
    assert _threads() == set()
    assert _open_files(tmp_path) == Counter()
