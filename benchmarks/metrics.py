"""What metrics and traces cost: the processor time of a request, with and without them.

    python -m benchmarks.metrics [ROUNDS]

Several servers run in this one process, each on a SQLite file of its own, and so does the client that asks them, in turn, for a
task that is remembered: one server with nothing, one with metrics, one with traces of which none is kept, and one whose traces
are kept, and thrown away instead of being sent. Printed are the medians, in microseconds for each request with the client's
part, and the median of the differences from the first one in the same round: the cost.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from taskctl import NewTask, Settings, open_tasks
from taskctl.observe import ignore
from taskctl.server.doors import DOORS
from taskctl.server.edge import Connection
from taskctl.server.requests import OBSERVER
from taskctl.wiring import build_app

REQUESTS = 200
REQUEST = b"GET /api/v1/tasks/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


SERVERS: Sequence[tuple[str, bool, Sampler | None]] = (
    ("nothing", False, None),
    ("nothing again", False, None),
    ("metrics", True, None),
    ("unkept traces", False, ALWAYS_OFF),
    ("kept traces", False, ALWAYS_ON),
)


class Nowhere(SpanExporter):
    """Takes spans, and does nothing with them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


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
async def served(file: Path, *, metrics: bool = False, sampler: Sampler | None = None) -> AsyncIterator[Client]:
    """Serve a file as `taskctl serve` does, and give a connection to it."""
    url = f"sqlite:///{file}"
    async with open_tasks(url) as tasks:
        await tasks.add(NewTask(title="Buy milk"))
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    app = build_app(Settings(database_url=url, metrics=metrics, tracing=sampler is not None), ignore, provider)
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
        provider.shutdown()


async def main(rounds: int) -> None:
    with TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(served(Path(folder, f"{name}.db"), metrics=metrics, sampler=sampler))
                for name, metrics, sampler in SERVERS
            }
            for client in clients.values():
                await client.measured()
            found: dict[str, list[float]] = {name: [] for name in clients}
            for number in range(rounds):
                for name in list(clients) if number % 2 == 0 else list(reversed(clients)):
                    found[name].append(await clients[name].measured())
    plain = found["nothing"]
    for name, all_of_it in found.items():
        cost = statistics.median(a - b for a, b in zip(all_of_it, plain, strict=True))
        print(f"{name:14}{statistics.median(all_of_it):8.2f} us   cost {cost:8.2f} us")


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if sys.argv[1:] else 200))
