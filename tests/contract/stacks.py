"""The stacks that the contract is tested on: ways to put a TaskService together. A new one joins STACKS with a few lines."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from taskctl import Settings, TaskService, create_app, open_tasks
from taskctl.observe import ignore
from taskctl.server.doors import DOORS
from taskctl.server.edge import Connection
from taskctl.tasks import Origin, Remembering, Source, TaskQuery
from tests.postgres import database
from tests.redis import emptied


class Stack(NamedTuple):
    """open: gives a service with an empty workspace, with its files in the folder. source: what its log says of writes.

    scopes: whether the writer says who it is and by which way it writes; a server decides that by itself.
    """

    open: Callable[[Path], AbstractAsyncContextManager[TaskService]]
    source: Source
    scopes: bool


def _sqlite(folder: Path) -> AbstractAsyncContextManager[TaskService]:
    return open_tasks(f"sqlite:///{folder}/tasks.db")


@asynccontextmanager
async def _sqlite_cached(folder: Path) -> AsyncIterator[TaskService]:
    async with open_tasks(f"sqlite:///{folder}/tasks.db", cached=True) as tasks, _followed(tasks):
        yield tasks


@asynccontextmanager
async def _postgres_cached(folder: Path) -> AsyncIterator[TaskService]:
    with database() as url, emptied() as redis:
        settings = Settings(redis_url=redis, redis_tasks=True)
        async with open_tasks(url, cached=True, settings=settings) as tasks, _followed(tasks):
            yield tasks


@asynccontextmanager
async def _followed(tasks: TaskService) -> AsyncIterator[None]:
    """Begin when answers are remembered, and see afterwards that some were."""
    while (await tasks.ask(TaskQuery())).origin in (None, Origin("", "unfollowed")):  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0)
    yield
    assert isinstance(tasks, Remembering)
    assert tasks.remembered().asked["miss"] > 0


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncIterator[TaskService]:
    with database() as url:
        async with open_tasks(url) as tasks:
            yield tasks


def _sqlite_remote(folder: Path) -> AbstractAsyncContextManager[TaskService]:
    return _remote(f"sqlite:///{folder}/tasks.db")


@asynccontextmanager
async def _postgres_remote(folder: Path) -> AsyncIterator[TaskService]:
    with database() as url:
        async with _remote(url) as tasks:
            yield tasks


@asynccontextmanager
async def _remote(url: str) -> AsyncIterator[TaskService]:
    app = create_app(Settings(database_url=url))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Connection(server, ignore, app[DOORS]), "127.0.0.1", 0)
        async with open_tasks(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}") as tasks:
            yield tasks
        listening.close()
    finally:
        await runner.cleanup()


STACKS = {
    "sqlite": Stack(_sqlite, "library", scopes=True),
    "postgres": Stack(_postgres, "library", scopes=True),
    "sqlite-cached": Stack(_sqlite_cached, "library", scopes=True),
    "postgres-cached": Stack(_postgres_cached, "library", scopes=True),
    "sqlite-remote": Stack(_sqlite_remote, "api", scopes=False),
    "postgres-remote": Stack(_postgres_remote, "api", scopes=False),
}
