"""What the metrics cost: the processor time of a request, with and without them.

    python -m benchmarks.metrics [ROUNDS]

Two servers run in this one process, one with metrics and one without, each on a SQLite file of its own, and so does the client
that asks them, in turn, for a task that is remembered. Printed are the medians, in microseconds for each request with the
client's part, and the median of the differences of neighbours: the cost.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from aiohttp import web

from taskctl import NewTask, Settings, create_app, open_tasks
from taskctl.server.doors import DOORS
from taskctl.server.edge import Connection
from taskctl.server.requests import OBSERVER

REQUESTS = 200
REQUEST = b"GET /api/v1/tasks/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client:
    """A connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self) -> None:
        """Ask for the task."""
        self._writer.write(REQUEST)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        await self._reader.readexactly(int(length))

    async def measured(self) -> float:
        """Return the microseconds of processor time that a request takes, client and server together."""
        before = time.process_time()
        for _ in range(REQUESTS):
            await self.ask()
        return (time.process_time() - before) / REQUESTS * 1e6


@asynccontextmanager
async def served(file: Path, *, metrics: bool) -> AsyncIterator[Client]:
    """Serve a file as `taskctl serve` does, and give a connection to it."""
    url = f"sqlite:///{file}"
    async with open_tasks(url) as tasks:
        await tasks.add(NewTask(title="Buy milk"))
    app = create_app(Settings(database_url=url, metrics=metrics))
    runner = web.AppRunner(app)
    await runner.setup()
    server = runner.server
    assert server is not None
    connect: Callable[[], Connection] = lambda: Connection(server, app[OBSERVER], app[DOORS])  # noqa: E731
    listening = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        listening.close()
        await runner.cleanup()


async def main(rounds: int) -> None:
    with TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(served(Path(folder, f"{name}.db"), metrics=metrics))
                for name, metrics in (("with", True), ("without", False))
            }
            for client in clients.values():
                await client.measured()
            found: dict[str, list[float]] = {name: [] for name in clients}
            for number in range(rounds):
                for name in list(clients) if number % 2 == 0 else list(reversed(clients)):
                    found[name].append(await clients[name].measured())
    for name, all_of_it in found.items():
        print(f"{name:8}{statistics.median(all_of_it):8.2f} us")
    print(f"cost    {statistics.median(a - b for a, b in zip(found['with'], found['without'], strict=True)):8.2f} us")


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if sys.argv[1:] else 200))
